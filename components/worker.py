"""A node that joins the cluster as a worker."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.control_plane import ControlPlanes, reset_script
from components.join_token import JoinTokens
from components.manifests import kubeadm
from components.node import PULL_SECONDS, Node
from components.node_labels import NodeLabels
from components.remote.node_command import LOCK_SECONDS, Script
from components.remote.script import RemoteScript
from components.rollout import Rollout, Stage
from config import Taint

_JOIN_SECONDS = 300 + PULL_SECONDS


@dataclass(frozen=True, kw_only=True)
class WorkerArgs:
    """endpoint: the API server's name. immutable: the hooks that refuse a change of a setting that
    is fixed once the node has joined. rollout: the order in which nodes change. allow_data_loss:
    whether a removal may lose local persistent volumes, and pods that no controller recreates
    elsewhere. labels, taints: those that the stack file gives the node.
    """

    node: Node
    control_planes: ControlPlanes
    join_tokens: JoinTokens
    endpoint: str
    immutable: pulumi.ResourceHookBinding
    rollout: Rollout
    allow_data_loss: bool
    labels: Mapping[str, str]
    taints: Sequence[Taint]


class Worker(pulumi.ComponentResource):
    """Joins a prepared node, waits until it is Ready, and drains it before its removal.

    A change affects this node's resources only.
    """

    ready: RemoteScript

    def __init__(
        self, name: str, args: WorkerArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:Worker", name, None, opts)
        runner = args.control_planes.runners.of(name, pulumi.ResourceOptions(parent=self))
        joined = self._join(name, args)
        args.node.register_member(joined)
        marked: list[pulumi.Resource] = []
        if args.labels or args.taints:
            marked.append(
                NodeLabels(
                    name,
                    runner=runner,
                    labels=args.labels,
                    taints=args.taints,
                    member=joined,
                    parent=self,
                )
            )
        removal = {"JOINED_NODE": name, "ALLOW_DATA_LOSS": str(args.allow_data_loss).lower()}
        self.ready = RemoteScript(
            f"{name}-ready",
            runner,
            Script(file="node-ready.sh", node=name, settings={"JOINED_NODE": name}, timeout=390),
            delete=Script(file="node-remove.sh", node=name, settings=removal, timeout=300),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[joined, *marked],
                deleted_with=args.control_planes.existence,
                # Drain a node that joins again, before its machine is reset.
                replace_with=[joined],
                hooks=args.rollout.of_scripts,
            ),
        )
        args.rollout.add_last(name, Stage.JOIN, self.ready)
        self.register_outputs({})

    def _join(self, name: str, args: WorkerArgs) -> RemoteScript:
        machine = args.node.machine
        document = kubeadm.worker_join_document(
            name=name,
            address=machine.cluster_address,
            is_private=machine.private_address is not None,
        )
        settings = {"ENDPOINT": args.endpoint, "JOIN_CONFIG": kubeadm.to_yaml([document])}
        tokens = args.join_tokens.hooks(
            name,
            machine.connection,
            seconds=_JOIN_SECONDS * machine.connection.patience + LOCK_SECONDS,
        )
        return RemoteScript(
            f"{name}-join",
            machine.connection,
            Script(file="kubeadm-join.sh", node=name, settings=settings, timeout=_JOIN_SECONDS),
            delete=reset_script(name, endpoint=args.endpoint, allow_data_loss=args.allow_data_loss),
            stdin=args.control_planes.discovery,
            turn=args.rollout.turn(name, Stage.JOIN),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[args.node.prepared],
                hooks=functools.reduce(
                    pulumi.ResourceHookBinding.merge,
                    (args.immutable, tokens, args.rollout.of_scripts),
                ),
            ),
        )
