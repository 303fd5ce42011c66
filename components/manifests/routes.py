"""Istio's objects for the services of a stack: which version gets which requests."""

from components.manifests import Manifest
from stacks.config import Service

_NETWORKING = "networking.istio.io/v1beta1"


def destination_rule(name: str, service: Service) -> Manifest:
    """The subsets of a service: its pods by their label `version`."""
    return {
        "apiVersion": _NETWORKING,
        "kind": "DestinationRule",
        "metadata": {"name": name, "namespace": service.namespace},
        "spec": {
            "host": host(name, service),
            "subsets": [
                {"name": subset, "labels": {"version": subset}} for subset in service.weights
            ],
        },
    }


def virtual_service(name: str, service: Service) -> Manifest:
    """The split of a service's requests over its subsets."""
    return {
        "apiVersion": _NETWORKING,
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": service.namespace},
        "spec": {
            "hosts": [host(name, service)],
            "http": [
                {
                    "route": [
                        {
                            "destination": {
                                "host": host(name, service),
                                "subset": subset,
                                "port": {"number": service.port},
                            },
                            "weight": weight,
                        }
                        for subset, weight in service.weights.items()
                    ]
                }
            ],
        },
    }


def host(name: str, service: Service) -> str:
    """The service's full name: a short one would depend on who reads it."""
    return f"{name}.{service.namespace}.svc.cluster.local"
