"""The labels and taints of a node, which the stack file decides.

A script on a control plane sets them through the API. kubelet cannot: NodeRestriction forbids it
many labels, and it applies taints only when it registers. Server-side apply, as of a NodePatch,
cannot either: the API treats the list of taints as one field, so that an owner of some taints
removes those of the node lifecycle controller.
"""

from collections.abc import Mapping, Sequence

import pulumi

from components.remote.node_command import Script
from components.remote.script import Place, RemoteScript
from config import Taint

FILE = "label-node.sh"
_SECONDS = 300


class NodeLabels(RemoteScript):
    """Sets the labels and taints of a node; removes those that it has set before.

    runner: the control plane that runs the script. member: the script whose creation makes the
    machine a node of the cluster, and whose deletion ends that.
    """

    def __init__(
        self,
        name: str,
        *,
        runner: Place,
        labels: Mapping[str, str],
        taints: Sequence[Taint],
        member: pulumi.CustomResource,
        parent: pulumi.Resource,
    ) -> None:
        def script(values: Mapping[str, str]) -> Script:
            return Script(file=FILE, node=name, settings=values, timeout=_SECONDS)

        super().__init__(
            f"{name}-labels",
            runner,
            script(settings(name, labels, taints)),
            delete=script(settings(name, {}, [])),
            opts=pulumi.ResourceOptions(
                parent=parent, depends_on=[member], deleted_with=member, replace_with=[member]
            ),
        )


def settings(name: str, labels: Mapping[str, str], taints: Sequence[Taint]) -> dict[str, str]:
    """The settings of the script for a node."""
    return {
        "JOINED_NODE": name,
        "LABELS": "\n".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "TAINTS": "\n".join(sorted(map(str, taints))),
    }


def wanted(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The labels, and the taints in kubectl's notation, in the script's settings."""
    labels = (line.partition("=") for line in values["LABELS"].splitlines())
    return {key: value for key, _, value in labels}, values["TAINTS"].splitlines()
