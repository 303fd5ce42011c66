"""The control planes of a cluster, each on one node."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pulumi

from components.admin_credentials import AdminCredentials
from components.api_servers import first_ready
from components.machines import Machine
from components.manifests import hardening, kubeadm
from components.membership import Membership
from components.node import PULL_SECONDS, Node
from components.node_labels import NodeLabels
from components.remote.node_command import LOCK_SECONDS, Script
from components.remote.runners import Member, Runners
from components.remote.script import RemoteScript
from components.rollout import Rollout
from config import Kubernetes, Oidc, Taint
from config.catalogue import KubernetesRelease

LEAVE = "plane-leave.sh"
_MAKE_SECONDS = 600 + PULL_SECONDS


@dataclass(frozen=True, kw_only=True)
class ControlPlaneArgs:
    """schedulable: whether workloads may run here; true in a cluster without workers.

    etcd_metrics: whether a new cluster's etcd serves its metrics to other machines; a firewall must
    close the port to all but members. immutable: the hooks that refuse a change of a setting that
    is fixed at creation. protect: whether to refuse the deletion of the cluster with its etcd.
    membership: tells the node whether to create the cluster. earlier: those before this one in the
    list. existence: the resource whose deletion deletes the cluster. only: whether there is no
    other control plane. oidc: the identity provider whose tokens the API server accepts. labels,
    taints: those that the stack file gives the node.
    """

    node: Node
    kubernetes: Kubernetes
    release: KubernetesRelease
    schedulable: bool
    etcd_metrics: bool
    immutable: pulumi.ResourceHookBinding
    protect: bool
    membership: Membership
    earlier: Sequence["ControlPlane"]
    existence: pulumi.Resource
    only: bool
    oidc: Oidc | None
    labels: Mapping[str, str]
    taints: Sequence[Taint]


class ControlPlane(pulumi.ComponentResource):
    """A control plane with its etcd on one node.

    The first one creates the cluster, the others join it; the code is the same for all. printed
    (secret): what kubeadm-init.sh prints. credentials (secret): the same, with the certificate that
    `pulumi up` renews. initialised: the resource whose creation makes the control plane, and whose
    deletion resets its machine. member: the resource whose deletion takes it out of the cluster
    first, unless the cluster is deleted too. Deliberately does not change a cluster that was
    created with other settings, nor create a second one: the script refuses both.
    """

    node: Node
    initialised: RemoteScript
    member: RemoteScript
    printed: pulumi.Output[dict[str, str]]
    credentials: pulumi.Output[Mapping[str, str]]

    def __init__(
        self, name: str, args: ControlPlaneArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:ControlPlane", name, None, opts)
        self.node = args.node
        connection = args.node.machine.connection
        self.initialised = self._initialise(name, args)
        args.membership.add(name, self.initialised)
        args.node.register_member(self.initialised)
        if args.labels or args.taints:
            NodeLabels(
                name,
                runner=connection,
                labels=args.labels,
                taints=args.taints,
                member=self.initialised,
                parent=self,
            )
        self.member = self._make_member(name, args)
        # The script's output is a secret, and so is everything derived from it.
        self.printed = self.initialised.read(kubeadm.credentials)
        admin = AdminCredentials(
            name,
            connection,
            endpoint=args.kubernetes.endpoint,
            first=self.printed,
            parent=self,
        )
        self.credentials = admin.values
        self.register_outputs({})

    def _initialise(self, name: str, args: ControlPlaneArgs) -> RemoteScript:
        connection = args.node.machine.connection
        membership = args.membership.hooks(
            name, seconds=_MAKE_SECONDS * connection.patience + LOCK_SECONDS
        )
        script = _init_script(args)
        return RemoteScript(
            f"{name}-init",
            connection,
            script,
            update=replace(script, settings={**script.settings, "CLUSTER": "exists"}),
            # Guarded by `protect`: as a setting, a permission would run the script again.
            delete=reset_script(name, endpoint=args.kubernetes.endpoint, allow_data_loss=True),
            secret_output=True,
            turn=args.membership.turn(name),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[args.node.prepared],
                protect=args.protect,
                hooks=pulumi.ResourceHookBinding.merge(args.immutable, membership),
            ),
        )

    def _make_member(self, name: str, args: ControlPlaneArgs) -> RemoteScript:
        return RemoteScript(
            f"{name}-member",
            args.node.machine.connection,
            Script(file="etcd-ready.sh", node=name, settings={}),
            delete=leave_script(name, args.node.machine, args.kubernetes.endpoint),
            opts=pulumi.ResourceOptions(
                parent=self,
                # Also orders removals: etcd loses one member at a time. On all of them, since one
                # in between may stay.
                depends_on=[self.initialised, *(one.member for one in args.earlier)],
                deleted_with=args.existence,
                replace_with=[] if args.only else [self.initialised],
            ),
        )


class _Ready:
    """The first control plane whose API server is ready; asked once in a run.

    names: the control planes by address.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self._answer: asyncio.Future[str] | None = None

    async def address(self) -> str:
        if self._answer is None:
            self._answer = asyncio.ensure_future(first_ready(list(self._names)))
        return await self._answer

    async def name(self) -> str:
        return self._names[await self.address()]


class ControlPlanes:
    """The control planes of a cluster. runners: choose the one that runs a script for the cluster.
    existence: the resource whose deletion deletes the cluster.

    kubeconfig (secret): YAML with administrator rights, for use from outside the nodes: at
    `kubernetes.publicEndpoint`, or else at the first control plane whose API server is ready.
    first_kubeconfig: the same with the first certificate, which a preview knows that renews it.
    discovery (secret): YAML with the address and the CA of the cluster, without a credential. Both
    are from a control plane that existed before this run, so that a preview that adds one knows
    them.
    """

    def __init__(
        self,
        members: Sequence[ControlPlane],
        kubernetes: Kubernetes,
        rollout: Rollout,
        *,
        existence: pulumi.Resource,
    ) -> None:
        by_name = {one.node.machine.name: one for one in members}

        async def known() -> str:
            for name in by_name:
                if await rollout.is_running(name):
                    return name
            return next(iter(by_name))

        ready = _Ready({one.node.machine.address: name for name, one in by_name.items()})

        async def address() -> str:
            return kubernetes.public_endpoint or await ready.address()

        server: pulumi.Output[str] = pulumi.Output.from_input(address())

        def kubeconfig(credentials: pulumi.Output[Any]) -> pulumi.Output[str]:
            return pulumi.Output.all(credentials, server).apply(
                lambda known: kubeadm.admin_kubeconfig(
                    known[0], endpoint=kubernetes.endpoint, address=known[1]
                )
            )

        source: pulumi.Output[str] = pulumi.Output.from_input(known())
        credentials: pulumi.Output[Mapping[str, str]] = source.apply(
            lambda name: by_name[name].credentials
        )
        # Not from the renewed certificate, which is unknown in a preview that renews it.
        printed: pulumi.Output[dict[str, str]] = source.apply(lambda name: by_name[name].printed)
        self.members = tuple(members)
        self.existence = existence
        self.runners = Runners(
            {
                name: Member(connection=one.node.machine.connection, id=one.initialised.id)
                for name, one in by_name.items()
            },
            ready=ready.name,
            is_running=rollout.is_running,
        )
        self.kubeconfig = kubeconfig(credentials)
        self.first_kubeconfig = kubeconfig(printed)
        self.discovery: pulumi.Output[str] = printed.apply(
            lambda known: kubeadm.discovery_kubeconfig(known, endpoint=kubernetes.endpoint)
        )


def reset_script(node: str, *, endpoint: str, allow_data_loss: bool) -> Script:
    """Remove Kubernetes from a machine; refuse to remove etcd's data unless that is allowed.

    Leaves the machine alone if it is another node by now, or belongs to another endpoint's cluster.
    """
    settings = {"ALLOW_DATA_LOSS": str(allow_data_loss).lower(), "ENDPOINT": endpoint}
    return Script(file="node-reset.sh", node=node, settings=settings, timeout=300)


def leave_script(runner: str, leaving: Machine, endpoint: str, *, gone: bool = False) -> Script:
    """Take a node out of the cluster. runner: the node that runs the script, which is another one
    if the leaving machine is gone.
    """
    settings = {
        "ADDRESS": leaving.cluster_address,
        "ALLOW_DATA_LOSS": str(gone).lower(),
        "ENDPOINT": endpoint,
        "GONE": str(gone).lower(),
        "JOINED_NODE": leaving.name,
    }
    return Script(file="plane-leave.sh", node=runner, settings=settings, timeout=300)


def _init_script(args: ControlPlaneArgs) -> Script:
    return Script(
        file="kubeadm-init.sh",
        node=args.node.machine.name,
        settings={**_settings(args), "CLUSTER": "new"},
        timeout=_MAKE_SECONDS,
    )


def _settings(args: ControlPlaneArgs) -> dict[str, str]:
    machine = args.node.machine
    name, address, is_private = (
        machine.name,
        machine.cluster_address,
        machine.private_address is not None,
    )
    init = kubeadm.init_document(name=name, address=address, is_private=is_private)
    join = kubeadm.control_plane_join_document(name=name, address=address, is_private=is_private)
    cluster = kubeadm.cluster_documents(
        args.kubernetes,
        args.release,
        address=machine.address,
        etcd_metrics=args.etcd_metrics,
        oidc=args.oidc,
    )
    return {
        "AUDIT_POLICY": hardening.audit_policy(),
        "CLUSTER_CONFIG": kubeadm.to_yaml(cluster),
        "ENCRYPTION_KEY": str(args.kubernetes.encryption_key),
        "ENDPOINT": args.kubernetes.endpoint,
        "INIT_CONFIG": kubeadm.to_yaml([init]),
        "JOIN_CONFIG": kubeadm.to_yaml([join]),
        "OIDC_CA": (args.oidc.ca if args.oidc else None) or "",
        "SCHEDULABLE": str(args.schedulable).lower(),
    }
