"""Defaults of KubeletConfiguration, and the resources that it reserves."""

from collections.abc import Mapping
from decimal import Decimal

from pydantic import JsonValue

from config import Kubernetes, tls
from config.scalars.quantities import quantity

# CPU and memory of kubeReserved are Kubespray's defaults (docs/cgroups.md). Its systemReserved of
# 500m would be a quarter of a small VPS, only for sshd, journald and timesyncd: here they get as
# much as Kubernetes. The disk reserve is that of EKS. evictionHard and the size of container logs
# are the kubelet's own defaults (1.23); they are explicit because capacity checks use evictionHard.
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

# Flags, because this release does not change the KubeletConfiguration of a running cluster. A flag
# wins over it.
_FLAGS: Mapping[str, tuple[str, str]] = {
    "tlsCipherSuites": ("tls-cipher-suites", ",".join(tls.CIPHERS)),
    "tlsMinVersion": ("tls-min-version", tls.MINIMUM),
}

RESERVING = ("kubeReserved", "systemReserved")


def settings(kubernetes: Kubernetes) -> dict[str, JsonValue]:
    """The defaults, overridden by the stack file; a null in it removes a default."""
    merged = {**DEFAULTS, **kubernetes.kubelet}
    return {key: value for key, value in merged.items() if value is not None}


def flags(kubernetes: Kubernetes) -> dict[str, str]:
    """kubelet's flags, except those for settings that the stack file has itself."""
    return dict(flag for key, flag in _FLAGS.items() if key not in kubernetes.kubelet)


def reserved(kubernetes: Kubernetes) -> dict[str, Decimal]:
    """The resources that a node reserves: CPU in cores and memory in bytes.

    Pods get the rest, the node's `allocatable`. Eviction thresholds in percent are not counted:
    they depend on the node's size.
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
