"""CoreDNS, which kubeadm deploys while the cluster has one node."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.manifests import coredns
from components.objects import Cluster


@dataclass(frozen=True, kw_only=True)
class ClusterDnsArgs:
    """nodes: the nodes that can run the replicas, at least two."""

    cluster: Cluster
    nodes: Sequence[pulumi.Resource]


class ClusterDns(pulumi.ComponentResource):
    """CoreDNS on two nodes, so that the loss of either leaves the cluster with name resolution.

    The patch replaces the pods one by one, which kubeadm started on the only node of that time.
    """

    def __init__(
        self, name: str, args: ClusterDnsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:ClusterDns", name, None, opts)
        args.cluster.patch(coredns.spread(), parent=self, after=args.nodes)
        self.register_outputs({})
