"""kube-router on every node, which enforces NetworkPolicies."""

from dataclasses import dataclass

import pulumi

from components.manifests.kube_router import kube_router
from components.objects import Cluster


@dataclass(frozen=True, kw_only=True)
class PodFirewallArgs:
    """service_cidr: the network of services. endpoint: the API server's name on the nodes."""

    cluster: Cluster
    service_cidr: str
    endpoint: str
    image: str


class PodFirewall(pulumi.ComponentResource):
    """kube-router as a firewall only: flannel is the pod network, kube-proxy has the Services.

    Policies depend on it, so that they are deleted first: what kube-router leaves on a node then
    allows everything.
    """

    def __init__(
        self, name: str, args: PodFirewallArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:PodFirewall", name, None, opts)
        objects = kube_router(
            service_cidr=args.service_cidr, endpoint=args.endpoint, image=args.image
        )
        account: list[pulumi.Resource] = []
        for manifest in objects:
            account.append(args.cluster.apply(manifest, parent=self, after=list(account)))
        self.register_outputs({})
