"""A machine that is prepared for Kubernetes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pulumi

from components import immutable
from components.host import table
from components.machines import Machine
from components.remote.node_command import Script
from components.remote.script import RemoteScript
from components.rollout import Rollout, Stage
from config import Artifacts, Database, Host, Kubernetes, kubelet
from config.catalogue import Binary

MINIMUM_DISK_MIB = 2048
"""Free disk space for the unpacked images of a node, and as much again for logs and pods."""

PULL_SECONDS = 900
"""The time that a script may take to pull a node's images, in addition to its other work."""


@dataclass(frozen=True, kw_only=True)
class NodeArgs:
    """runtime: containerd, runc, the CNI plugins. binaries: kubeadm, kubelet, kubectl.

    images: pulled early, each with its required digest, None if that is unknown.

    registry_hosts: the registries with a mirror. artifacts: the sources of downloads. preflight:
    the options of the first resource that changes the node. made_with: the settings that are fixed
    once the node is in the cluster. database: a database server on the same node. network_policy:
    whether its pods are filtered. rollout: the order in which members change.
    """

    machine: Machine
    host: Host
    kubernetes: Kubernetes
    runtime: list[Binary]
    binaries: list[Binary]
    artifacts: Artifacts
    images: Mapping[str, str | None]
    pause_image: str
    registry_hosts: Sequence[table.RegistryHost]
    database: Database | None = None
    network_policy: bool
    preflight: pulumi.ResourceOptions | None = None
    made_with: immutable.Facts = field(default_factory=dict)
    rollout: Rollout


class Node(pulumi.ComponentResource):
    """The base of the host, and the pinned containerd, kubeadm, kubelet and kubectl on it.

    Deliberately does not touch users, the machine's name, or firewall rules of other programs.
    """

    machine: Machine
    prepared: RemoteScript

    def __init__(
        self, name: str, args: NodeArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        hooks = pulumi.ResourceOptions(hooks=args.rollout.of_node)
        super().__init__(
            immutable.NODE_TYPE,
            name,
            immutable.inputs(args.made_with),
            pulumi.ResourceOptions.merge(opts, hooks),
        )
        self.machine = args.machine
        self.prepared = RemoteScript(
            f"{name}-prepare",
            args.machine.connection,
            Script(file="node-prepare.sh", node=name, settings=settings(args), timeout=1800),
            turn=args.rollout.turn(name, Stage.PREPARE),
            opts=pulumi.ResourceOptions.merge(
                args.preflight, pulumi.ResourceOptions(parent=self, hooks=args.rollout.of_scripts)
            ),
        )
        args.rollout.add_node(name, self)
        args.rollout.add_last(name, Stage.PREPARE, self.prepared)

    def register_member(self, made: RemoteScript) -> None:
        """Record that the node is a member. made: the script that initialised or joined it."""
        self.register_outputs(immutable.outputs(made))


def proxy_settings(artifacts: Artifacts) -> dict[str, str]:
    """The settings of lib.sh for the stack file's proxy; none without one."""
    if artifacts.proxy is None:
        return {}
    return {"DOWNLOAD_DIRECT": artifacts.direct, "DOWNLOAD_PROXY": artifacts.proxy.url}


def binaries_setting(binaries: list[Binary], artifacts: Artifacts) -> str:
    """Render binaries for fetch.sh: lines of `name sha256 directory members url...`.

    Members are separated by commas; - stands for no members.
    """
    return "\n".join(
        " ".join(
            (
                binary.name,
                binary.sha256,
                binary.directory,
                ",".join(binary.members) or "-",
                *binary.sources(artifacts.mirror, fallback=artifacts.fallback),
            )
        )
        for binary in binaries
    )


def settings(args: NodeArgs) -> dict[str, str]:
    """The settings of node-prepare.sh, except NODE_NAME."""
    kubernetes = args.kubernetes
    return {
        "ALLOW_SWAP": str(kubernetes.kubelet.get("failSwapOn") is False).lower(),
        "BINARIES": binaries_setting(args.binaries, args.artifacts),
        "CGROUP_DRIVER": kubernetes.cgroup_driver,
        "DISK_MIB": str(MINIMUM_DISK_MIB),
        "IMAGES": "\n".join(f"{name} {digest or '-'}" for name, digest in args.images.items()),
        "KUBERNETES_VERSION": kubernetes.version,
        "RUNTIME": binaries_setting(args.runtime, args.artifacts),
        **proxy_settings(args.artifacts),
        **table.settings(
            table.HostArgs(
                host=args.host,
                role=args.machine.role,
                ssh_port=args.machine.connection.port,
                address=args.machine.cluster_address,
                private_address=args.machine.private_address,
                endpoint=kubernetes.endpoint,
                service_cidr=kubernetes.service_cidr,
                own_resolver=kubernetes.kubelet.get("resolvConf") is not None,
                kubelet_flags=kubelet.flags(kubernetes),
                database=args.database,
                pause_image=args.pause_image,
                cgroup_driver=kubernetes.cgroup_driver,
                restrict_oom_score_adj=kubernetes.restrict_oom_score_adj,
                registry_hosts=args.registry_hosts,
                artifacts=args.artifacts,
                network_policy=args.network_policy,
            )
        ),
    }
