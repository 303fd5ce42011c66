"""A gateway as a component of an IstioOperator document."""

import hashlib
import math
from collections.abc import Iterable
from decimal import Decimal

from components.manifests import Manifest
from config import (
    ExternalIpsExposure,
    GatewayDeployment,
    HostPortExposure,
    IngressGateway,
    Istio,
    NodePortExposure,
    selector,
)
from config.scalars.durations import seconds

_LEAST_DRAIN_SECONDS = Decimal(20)
_HOST_PORT_DRAIN_SECONDS = Decimal(5)
# Kubernetes's default terminationGracePeriodSeconds is 30; a proxy needs some seconds to end.
_FITTING_DRAIN_SECONDS = Decimal(25)
_HOSTNAME = "kubernetes.io/hostname"
_CONTROL_PLANE_TAINTS = (
    "node-role.kubernetes.io/master",
    "node-role.kubernetes.io/control-plane",
)


def gateway(istio: Istio, name: str, settings: GatewayDeployment) -> Manifest:
    """A gateway's Deployment, Service, autoscaler and disruption budget, as a component."""
    scale = settings.scale
    return {
        "name": name,
        "enabled": True,
        "label": selector(name),
        "k8s": {
            "resources": {
                "requests": settings.requests.model_dump(),
                "limits": settings.limits.model_dump(),
            },
            "hpaSpec": {
                "minReplicas": scale.min,
                "maxReplicas": scale.max,
                "metrics": [_cpu_metric(settings.target_cpu)],
            },
            # With Istio's default of 1, the node of a single pod could never be drained.
            "podDisruptionBudget": {"minAvailable": scale.min - 1},
            "podAnnotations": {
                "proxy.istio.io/config": f"terminationDrainDuration: {_drain(istio, settings)}s"
            },
            "strategy": {"rollingUpdate": _rolling_update(settings)},
            "service": _service(settings),
            **(_placement(settings.nodes) if settings.nodes else {}),
            "overlays": [
                {"kind": "Deployment", "name": name, "patches": _patches(istio, name, settings)}
            ],
        },
    }


def _cpu_metric(utilisation: int) -> Manifest:
    target = {"type": "Utilization", "averageUtilization": utilisation}
    return {"type": "Resource", "resource": {"name": "cpu", "target": target}}


def _exposure(
    gateway: GatewayDeployment,
) -> HostPortExposure | NodePortExposure | ExternalIpsExposure | None:
    return gateway.expose if isinstance(gateway, IngressGateway) else None


def _rolling_update(gateway: GatewayDeployment) -> Manifest:
    # A host port is free only after the old pod has ended: update one node at a time.
    if isinstance(_exposure(gateway), HostPortExposure):
        return {"maxSurge": 0, "maxUnavailable": 1}
    return {"maxSurge": 1, "maxUnavailable": 0}


def _drain(istio: Istio, gateway: GatewayDeployment) -> Decimal:
    """How long a terminating pod keeps serving, in seconds: for requests that are in progress, and
    until every node's rules point to another pod.

    Istio's own 5 s are too few where kube-proxy is slow, as on a node that is busy with an update.
    A host port leads to no other pod, and is the sooner free again.
    """
    if isinstance(_exposure(gateway), HostPortExposure):
        return _HOST_PORT_DRAIN_SECONDS
    return max(_LEAST_DRAIN_SECONDS, seconds(istio.proxy.drain_duration))


def _service(gateway: GatewayDeployment) -> Manifest:
    """The Service; never a LoadBalancer, which stays pending without a cloud provider.

    With the policy Local a node passes requests only to its own pods and leaves the client's
    address as it is. The API server allows it with external IPs too if the type is NodePort.
    """
    ports = [
        {
            "name": port.name,
            "port": port.port,
            "targetPort": port.target,
            **({"nodePort": port.node_port} if port.node_port else {}),
        }
        for port in gateway.ports
    ]
    exposure = _exposure(gateway)
    if isinstance(exposure, NodePortExposure):
        return {"type": "NodePort", "externalTrafficPolicy": "Local", "ports": ports}
    if isinstance(exposure, ExternalIpsExposure):
        local: Manifest = {"type": "NodePort", "externalTrafficPolicy": "Local"}
        return {**local, "externalIPs": exposure.addresses, "ports": ports}
    return {"type": "ClusterIP", "ports": ports}


def _placement(nodes: Iterable[str]) -> Manifest:
    """Pods on the listed nodes only, including control planes in the list."""
    term = {"matchExpressions": [{"key": _HOSTNAME, "operator": "In", "values": list(nodes)}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    return {
        "affinity": {"nodeAffinity": required},
        "tolerations": [
            {"key": taint, "operator": "Exists", "effect": "NoSchedule"}
            for taint in _CONTROL_PLANE_TAINTS
        ],
    }


def _patches(istio: Istio, name: str, gateway: GatewayDeployment) -> list[Manifest]:
    # Pods are spread by generation: were old ones counted as well, an update could leave a node
    # without a pod, and with the policy Local without an answer.
    generation = hashlib.sha256(
        f"{istio.version} {gateway.model_dump_json()}".encode()
    ).hexdigest()[:8]
    spread = {
        "maxSkew": 1,
        "topologyKey": _HOSTNAME,
        "whenUnsatisfiable": "DoNotSchedule" if gateway.nodes else "ScheduleAnyway",
        "labelSelector": {"matchLabels": {**selector(name), "generation": generation}},
    }
    patches: list[Manifest] = [
        {"path": "spec.template.metadata.labels.generation", "value": generation},
        {"path": "spec.template.spec.topologySpreadConstraints", "value": [spread]},
    ]
    if (drain := _drain(istio, gateway)) > _FITTING_DRAIN_SECONDS:
        grace = math.ceil(drain) + _FITTING_DRAIN_SECONDS - _LEAST_DRAIN_SECONDS
        patches.append(
            {"path": "spec.template.spec.terminationGracePeriodSeconds", "value": int(grace)}
        )
    if isinstance(_exposure(gateway), HostPortExposure):
        container = "spec.template.spec.containers.[name:istio-proxy]"
        patches += [
            {
                "path": f"{container}.ports.[containerPort:{port.target}].hostPort",
                "value": port.port,
            }
            for port in gateway.ports
        ]
    return patches
