"""The callers of a service; it refuses all others."""

from collections.abc import Mapping

from components.manifests import Manifest
from config import Caller, Service, account

# Istio replaces this with the mesh's own trust domain.
_TRUST_DOMAIN = "cluster.local"

SERVICE_ANNOTATION = "nordmesh.io/service"
"""The service of an AuthorizationPolicy, whatever the labels of its pods are."""


def authorization_policy(name: str, services: Mapping[str, Service]) -> Manifest:
    """The declared callers of a service; with an empty list, it refuses everyone."""
    service = services[name]
    kubernetes_name = service.kubernetes_name(name)
    spec: Manifest = {"selector": {"matchLabels": service.pod_labels(name)}, "action": "ALLOW"}
    rules = [_rule(caller, service, services) for caller in service.callers or []]
    if rules:
        spec["rules"] = rules
    return {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": f"{kubernetes_name}-callers",
            "namespace": service.namespace,
            "annotations": {SERVICE_ANNOTATION: kubernetes_name},
        },
        "spec": spec,
    }


def _rule(caller: Caller, service: Service, services: Mapping[str, Service]) -> Manifest:
    namespace, name = account(caller, services)
    rule: Manifest = {
        "from": [{"source": {"principals": [f"{_TRUST_DOMAIN}/ns/{namespace}/sa/{name}"]}}]
    }
    limits: dict[str, list[str]] = {
        "methods": caller.methods,
        "paths": caller.paths,
        "ports": [
            str(service.ports[port] if isinstance(port, str) else port) for port in caller.ports
        ],
    }
    operation = {key: values for key, values in limits.items() if values}
    if operation:
        rule["to"] = [{"operation": operation}]
    return rule
