"""What KubeletConfiguration has where the stack file says nothing, and what it keeps from pods."""

from collections.abc import Mapping
from decimal import Decimal

from pydantic import JsonValue

from config import Kubernetes
from config.scalars.quantities import quantity

# CPU and memory of kubeReserved are Kubespray's defaults (docs/cgroups.md). Its systemReserved of
# 500m is a quarter of a small VPS, for an sshd, a journald and a timesyncd: here they get as much
# as Kubernetes' own. The disk is what EKS keeps. evictionHard and the size of containers' logs are
# kubelet's own defaults (1.23), written down because the checks of capacity count with the first.
DEFAULTS: Mapping[str, JsonValue] = {
    "kubeReserved": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
    "systemReserved": {"cpu": "100m", "memory": "256Mi", "ephemeral-storage": "1Gi"},
    "evictionHard": {
        "memory.available": "100Mi",
        "nodefs.available": "10%",
        "nodefs.inodesFree": "5%",
        "imagefs.available": "15%",
    },
    "containerLogMaxSize": "10Mi",
    "containerLogMaxFiles": 5,
}

RESERVING = ("kubeReserved", "systemReserved")


def settings(kubernetes: Kubernetes) -> dict[str, JsonValue]:
    """The defaults with what the stack file says in their place; its null takes one away."""
    merged = {**DEFAULTS, **kubernetes.kubelet}
    return {key: value for key, value in merged.items() if value is not None}


def reserved(kubernetes: Kubernetes) -> dict[str, Decimal]:
    """What a node keeps from pods: CPU in cores and memory in bytes, as in its `allocatable`.

    A threshold of eviction in percent is not counted: it takes a node's size.
    """
    every = settings(kubernetes)
    of_memory = _amount(every.get("evictionHard"), "memory.available")
    return {
        "cpu": sum((_amount(every.get(key), "cpu") for key in RESERVING), Decimal(0)),
        "memory": sum((_amount(every.get(key), "memory") for key in RESERVING), of_memory),
    }


def _amount(amounts: JsonValue, name: str) -> Decimal:
    value = amounts.get(name) if isinstance(amounts, dict) else None
    try:
        return quantity(str(value))
    except ValueError:
        return Decimal(0)
