"""One VirtualService whose weight is in the stack's configuration."""

import pulumi
from pulumi_kubernetes import Provider
from pulumi_kubernetes.apiextensions import CustomResource

config = pulumi.Config()
weight = config.require_int("weight")
host = "bare.default.svc.cluster.local"
CustomResource(
    "bare",
    api_version="networking.istio.io/v1beta1",
    kind="VirtualService",
    metadata={"name": "bare", "namespace": "default"},
    spec={
        "hosts": [host],
        "http": [
            {
                "route": [
                    {"destination": {"host": host, "subset": "v1"}, "weight": 100 - weight},
                    {"destination": {"host": host, "subset": "v2"}, "weight": weight},
                ]
            }
        ],
    },
    opts=pulumi.ResourceOptions(
        provider=Provider("cluster", kubeconfig=config.require("kubeconfig"))
    ),
)
