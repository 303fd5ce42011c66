"""The size of a Deployment's sidecars: annotations of its pod template."""

import json

from components.manifests import Manifest
from config import Workload
from config.istio import Proxy
from config.scalars.durations import seconds


def deployment(name: str, workload: Workload, mesh: Proxy) -> Manifest:
    """The part of the Deployment that sizes its sidecars; its owner has the rest."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": workload.deployment or name, "namespace": workload.namespace},
        "spec": {"template": {"metadata": {"annotations": annotations(workload, mesh)}}},
    }


def annotations(workload: Workload, mesh: Proxy) -> dict[str, str]:
    """The annotations of a pod whose sidecar differs from the mesh's.

    With one of the four amounts, Istio leaves the mesh's other three out, the limits among them;
    so this writes all four if one is set.
    """
    proxy = workload.proxy(mesh)
    result: dict[str, str] = {}
    if (proxy.requests, proxy.limits) != (mesh.requests, mesh.limits):
        result = {
            "sidecar.istio.io/proxyCPU": proxy.requests.cpu,
            "sidecar.istio.io/proxyMemory": proxy.requests.memory,
            "sidecar.istio.io/proxyCPULimit": proxy.limits.cpu,
            "sidecar.istio.io/proxyMemoryLimit": proxy.limits.memory,
        }
    own = workload.model_dump(
        by_alias=True, include={"concurrency", "hold_application_until_proxy_starts"}
    )
    config = {key: value for key, value in own.items() if value is not None}
    if workload.drain_duration is not None:
        config["terminationDrainDuration"] = f"{seconds(workload.drain_duration).normalize():f}s"
    if config:
        result["proxy.istio.io/config"] = json.dumps(config)
    return result
