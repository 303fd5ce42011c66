"""A list of ConfigMaps: about the least that a Pulumi program on a cluster can be."""

import pulumi
from pulumi_kubernetes import Provider
from pulumi_kubernetes.core.v1 import ConfigMap

config = pulumi.Config()
cluster = Provider("cluster", kubeconfig=config.require("kubeconfig"))
for number in range(config.require_int("count")):
    ConfigMap(
        f"typed-{number}",
        metadata={"name": f"typed-{number}", "namespace": "default"},
        data={"number": str(number)},
        opts=pulumi.ResourceOptions(provider=cluster),
    )
