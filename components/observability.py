"""The observability of the mesh: Prometheus, Grafana and Kiali."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.manifests import Manifest, grafana, kiali, monitoring, prometheus
from components.objects import Cluster
from config import Observability as ObservabilityConfig


@dataclass(frozen=True, kw_only=True)
class ObservabilityArgs:
    """images: of the enabled programs, by name. revision: that of the control plane.

    protect: whether to refuse the deletion of the namespace with its metrics.
    """

    cluster: Cluster
    settings: ObservabilityConfig
    images: Mapping[str, str]
    revision: str
    protect: bool


class Observability(pulumi.ComponentResource):
    """Prometheus, Grafana and Kiali in their own namespace, outside the mesh.

    Not reachable from outside the cluster: `nordmesh dashboard` opens a port-forward.
    Does not wait for Istio: Prometheus discovers istiod and the proxies when they start.
    """

    def __init__(
        self, name: str, args: ObservabilityArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:observability:Observability", name, None, opts)
        namespace = args.cluster.apply(
            monitoring.namespace(),
            parent=self,
            # The volume outlives Prometheus, and is deleted with its namespace.
            protect=args.protect,
        )
        for manifest in _manifests(args):
            args.cluster.apply(manifest, parent=self, after=[namespace])
        self.register_outputs({})


def _manifests(args: ObservabilityArgs) -> list[Manifest]:
    found: list[Manifest] = []
    if image := args.images.get(prometheus.NAME):
        found += prometheus.prometheus(args.settings.prometheus, image=image)
    if image := args.images.get(grafana.NAME):
        found += grafana.grafana(image=image)
    if image := args.images.get(kiali.NAME):
        found += kiali.kiali(image=image, revision=args.revision)
    return found
