"""The list of ConfigMaps again, without the import of the typed classes, which takes a while."""

import pulumi
from pulumi_kubernetes import Provider

config = pulumi.Config()
cluster = Provider("cluster", kubeconfig=config.require("kubeconfig"))
for number in range(config.require_int("count")):
    pulumi.CustomResource(
        "kubernetes:core/v1:ConfigMap",
        f"untyped-{number}",
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": f"untyped-{number}", "namespace": "default"},
            "data": {"number": str(number)},
        },
        pulumi.ResourceOptions(provider=cluster),
    )
