"""The control plane that kubeadm creates on one node."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.manifests import hardening, kubeadm
from components.node import PULL_SECONDS, Node
from components.node_command import Script
from components.node_labels import NodeLabels
from components.remote import LOCK_SECONDS, RemoteScript
from config import Kubernetes, Taint
from config.catalogue import KubernetesRelease


@dataclass(frozen=True, kw_only=True)
class ControlPlaneArgs:
    """schedulable: whether workloads may run here; true in a cluster without workers.

    etcd_metrics: whether a new cluster's etcd serves its metrics to other machines; a firewall must
    close the port to all but members. immutable: the hooks that refuse a change of a setting that
    is fixed at creation. protect: whether to refuse the deletion of the cluster with its etcd.
    labels, taints: those that the stack file gives the node.
    """

    node: Node
    kubernetes: Kubernetes
    release: KubernetesRelease
    schedulable: bool
    etcd_metrics: bool
    immutable: pulumi.ResourceHookBinding
    protect: bool
    labels: Mapping[str, str]
    taints: Sequence[Taint]


class ControlPlane(pulumi.ComponentResource):
    """A control plane with its etcd on one node.

    kubeconfig (secret): YAML with administrator rights, for use from outside the nodes.
    discovery: YAML with the address and the CA of the cluster, without a credential. initialised:
    the resource whose creation and deletion create and delete the cluster. Deliberately does not
    change a cluster that was created with other settings, nor create a second one on another
    machine: the script refuses both.
    """

    node: Node
    initialised: RemoteScript
    kubeconfig: pulumi.Output[str]
    discovery: pulumi.Output[str]

    def __init__(
        self, name: str, args: ControlPlaneArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:ControlPlane", name, None, opts)
        self.node = args.node
        machine, kubernetes = args.node.machine, args.kubernetes
        self.initialised = RemoteScript(
            f"{name}-init",
            machine.connection,
            _init_script(args, cluster="new"),
            update=_init_script(args, cluster="exists"),
            # Guarded by `protect`: as a setting, a permission would run the script again.
            delete=reset_script(name, endpoint=kubernetes.endpoint, allow_data_loss=True),
            secret_output=True,
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=[args.node.prepared],
                protect=args.protect,
                hooks=args.immutable,
            ),
        )
        args.node.register_member(self.initialised)
        if args.labels or args.taints:
            NodeLabels(
                name,
                runner=name,
                connection=machine.connection,
                labels=args.labels,
                taints=args.taints,
                member=self.initialised,
                parent=self,
            )
        # The script's output is a secret, and so is everything derived from it.
        stdout = self.initialised.stdout
        self.kubeconfig = stdout.apply(
            lambda text: kubeadm.admin_kubeconfig(
                kubeadm.credentials(text), endpoint=kubernetes.endpoint, address=machine.address
            )
        )
        self.discovery = stdout.apply(
            lambda text: kubeadm.discovery_kubeconfig(
                kubeadm.credentials(text), endpoint=kubernetes.endpoint
            )
        )
        self.register_outputs({})


def reset_script(node: str, *, endpoint: str, allow_data_loss: bool) -> Script:
    """Remove Kubernetes from a machine; refuse to remove etcd's data unless that is allowed.

    Leaves the machine alone if it is another node by now, or belongs to another endpoint's cluster.
    """
    settings = {"ALLOW_DATA_LOSS": str(allow_data_loss).lower(), "ENDPOINT": endpoint}
    return Script(file="node-reset.sh", node=node, settings=settings, timeout=LOCK_SECONDS + 300)


def _init_script(args: ControlPlaneArgs, *, cluster: str) -> Script:
    return Script(
        file="kubeadm-init.sh",
        node=args.node.machine.name,
        settings={**_settings(args), "CLUSTER": cluster},
        timeout=600 + PULL_SECONDS,
    )


def _settings(args: ControlPlaneArgs) -> dict[str, str]:
    machine = args.node.machine
    init = kubeadm.init_document(
        name=machine.name,
        address=machine.cluster_address,
        is_private=machine.private_address is not None,
    )
    cluster = kubeadm.cluster_documents(
        args.kubernetes, args.release, address=machine.address, etcd_metrics=args.etcd_metrics
    )
    return {
        "AUDIT_POLICY": hardening.audit_policy(),
        "CLUSTER_CONFIG": kubeadm.to_yaml(cluster),
        "ENCRYPTION_KEY": str(args.kubernetes.encryption_key),
        "ENDPOINT": args.kubernetes.endpoint,
        "INIT_CONFIG": kubeadm.to_yaml([init]),
        "SCHEDULABLE": str(args.schedulable).lower(),
    }
