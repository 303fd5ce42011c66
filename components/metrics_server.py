"""metrics-server, which measures the CPU and memory that nodes and pods use."""

from dataclasses import dataclass

import pulumi

from components.manifests.metrics_server import metrics_api, metrics_server
from components.objects import Cluster


@dataclass(frozen=True, kw_only=True)
class MetricsServerArgs:
    """image: the reference of metrics-server's image."""

    cluster: Cluster
    image: str


class MetricsServer(pulumi.ComponentResource):
    """metrics-server. No HorizontalPodAutoscaler scales without it, not even those of the gateways.

    Deliberately keeps no history; Prometheus does.
    """

    def __init__(
        self, name: str, args: MetricsServerArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:MetricsServer", name, None, opts)
        objects = [
            args.cluster.apply(manifest, parent=self)
            for manifest in metrics_server(image=args.image)
        ]
        args.cluster.apply(metrics_api(), parent=self, after=objects)
        self.register_outputs({})
