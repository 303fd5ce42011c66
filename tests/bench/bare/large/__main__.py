"""Commands, and VirtualServices of a cluster whose kubeconfig the first command would give."""

import pulumi
from pulumi_command import remote
from pulumi_kubernetes import Provider
from pulumi_kubernetes.apiextensions import CustomResource

config = pulumi.Config()
connection = remote.ConnectionArgs(host="192.0.2.1", host_key=config.require("hostKey"))
commands = [
    remote.Command(f"command-{number}", connection=connection, create=f"echo {number}")
    for number in range(config.require_int("commands"))
]
cluster = Provider("cluster", kubeconfig=commands[0].stdout)
for number in range(config.require_int("objects")):
    host = f"bare-{number}.default.svc.cluster.local"
    CustomResource(
        f"bare-{number}",
        api_version="networking.istio.io/v1beta1",
        kind="VirtualService",
        metadata={"name": f"bare-{number}", "namespace": "default"},
        spec={"hosts": [host], "http": [{"route": [{"destination": {"host": host}}]}]},
        opts=pulumi.ResourceOptions(provider=cluster),
    )
