"""What nodes and pods use, measured."""

from dataclasses import dataclass

import pulumi

from components.manifests.metrics_server import metrics_api, metrics_server
from components.objects import Cluster


@dataclass(frozen=True, kw_only=True)
class MetricsServerArgs:
    """image: metrics-server's reference."""

    cluster: Cluster
    image: str


class MetricsServer(pulumi.ComponentResource):
    """metrics-server, without which no HPA scales, those of Istio's gateways included.

    Deliberately keeps no history: that is Prometheus's part.
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
