"""The pod network."""

from dataclasses import dataclass

import pulumi

from components.manifests.flannel import flannel
from components.objects import Cluster


@dataclass(frozen=True, kw_only=True)
class CniArgs:
    """pod_cidr: the network of all pods, the same as in kubeadm's configuration. endpoint: the API
    server's name on the nodes.
    """

    cluster: Cluster
    pod_cidr: str
    endpoint: str
    image: str
    plugin_image: str


class Cni(pulumi.ComponentResource):
    """flannel on every node, with VXLAN between the nodes.

    Deliberately does not enforce NetworkPolicies: PodFirewall does.
    """

    def __init__(
        self, name: str, args: CniArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:Cni", name, None, opts)
        namespace, *rest = flannel(
            pod_cidr=args.pod_cidr,
            endpoint=args.endpoint,
            image=args.image,
            plugin_image=args.plugin_image,
        )
        first = args.cluster.apply(namespace, parent=self)
        for manifest in rest:
            args.cluster.apply(manifest, parent=self, after=[first])
        self.register_outputs({})
