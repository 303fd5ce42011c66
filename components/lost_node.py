"""A node whose machine is lost for good.

Its resources stay in the state without a change until the node is taken out of the stack file, and
are then forgotten: no script runs on the machine. Another control plane takes the node out of the
cluster.
"""

from dataclasses import dataclass

import pulumi
from pulumi_command import remote

from components import immutable
from components.control_plane import ControlPlanes, leave_script
from components.machines import Machine
from components.remote.script import RemoteScript
from components.rollout import Rollout
from config import Role

_COMPONENTS: dict[Role, str] = {
    "control-plane": "nordmesh:kubernetes:ControlPlane",
    "worker": "nordmesh:kubernetes:Worker",
}
_SCRIPTS: dict[Role, tuple[str, ...]] = {
    "control-plane": ("init", "member", "credentials", "key-use", "key-retire"),
    "worker": ("join", "ready"),
}


@dataclass(frozen=True, kw_only=True)
class LostNodeArgs:
    """made_with: the settings that are fixed once the node is in the cluster. endpoint: the API
    server's name. labelled, backed_up: whether the node has the scripts for labels and snapshots.
    """

    machine: Machine
    control_planes: ControlPlanes
    endpoint: str
    made_with: immutable.Facts
    rollout: Rollout
    labelled: bool
    backed_up: bool


class LostNode:
    """The resources of a node whose machine is lost. left: the script that takes it out of the
    cluster.
    """

    left: RemoteScript

    def __init__(self, name: str, args: LostNodeArgs) -> None:
        role = args.machine.role
        node = pulumi.ComponentResource(
            immutable.NODE_TYPE,
            name,
            immutable.inputs(args.made_with),
            pulumi.ResourceOptions(hooks=args.rollout.of_node),
        )
        args.rollout.add_node(name, node)
        _keep(f"{name}-prepare", node)
        component = pulumi.ComponentResource(_COMPONENTS[role], name)
        more = {"labels": args.labelled, "backup": args.backed_up}
        for script in (*_SCRIPTS[role], *(script for script, has in more.items() if has)):
            _keep(f"{name}-{script}", component)
        planes, own = args.control_planes, pulumi.ResourceOptions(parent=node)
        self.left = RemoteScript(
            f"{name}-gone",
            planes.runners.of(f"{name}-gone", own),
            leave_script(name, args.machine, args.endpoint, gone=True),
            opts=pulumi.ResourceOptions(parent=node, deleted_with=planes.existence),
        )


def _keep(name: str, parent: pulumi.Resource) -> None:
    """Keep a script's resource as it is, and forget it once it is no longer declared."""
    remote.Command(
        name,
        connection=remote.ConnectionArgs(host="gone"),
        opts=pulumi.ResourceOptions(
            parent=parent,
            ignore_changes=["*"],
            retain_on_delete=True,
            additional_secret_outputs=["stdout", "stderr"],
        ),
    )
