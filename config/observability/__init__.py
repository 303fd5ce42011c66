"""The section `observability`: Prometheus, Grafana and Kiali, all of them inside the cluster."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from config.base import Section
from config.scalars.names import Label
from config.scalars.quantities import Cpu, Memory, StorageSize
from config.scalars.refused import Refused

MONITORING_NAMESPACE = "monitoring"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_MINIMUM_RETENTION = 2 * 3600  # Prometheus writes blocks of two hours


def prometheus_seconds(duration: str) -> int:
    """The seconds of a duration of Prometheus, which has one unit and knows days: 30s, 2h, 15d."""
    match = re.fullmatch(r"([1-9]\d*)([smhdwy])", duration)
    if match is None:
        raise ValueError(f"not a duration: {duration!r}")
    return int(match[1]) * _SECONDS[match[2]]


def _prometheus_duration(value: Any, what: str, example: str) -> str:
    try:
        prometheus_seconds(str(value))
    except ValueError:
        raise Refused(
            f"{value!r} is not a duration of Prometheus",
            f"{what} is a whole number with one unit: s, m, h, d, w or y",
            f"write such as {example}",
        ) from None
    return str(value)


def _retention(value: Any) -> str:
    text = _prometheus_duration(value, "the time that figures are kept", "7d")
    if prometheus_seconds(text) < _MINIMUM_RETENTION:
        raise Refused(
            f"{text} is less than two hours",
            "Prometheus writes its figures in blocks of two hours and keeps at least one",
            "write at least 2h; a week (7d) shows the last deploys",
        )
    return text


def _scrape_interval(value: Any) -> str:
    text = _prometheus_duration(value, "the time between two readings", "15s")
    if not 5 <= prometheus_seconds(text) <= 60:
        raise Refused(
            f"{text} is not between 5s and 60s",
            "below it the readings are a load on every proxy; above it rates over two minutes, "
            "which alerts and dashboards use, have too few of them",
            "write such as 15s",
        )
    return text


Retention = Annotated[str, BeforeValidator(_retention)]
ScrapeInterval = Annotated[str, BeforeValidator(_scrape_interval)]


class Storage(Section):
    """Where Prometheus keeps its figures."""

    size: StorageSize = Field(default="8Gi", description="how much disk the figures may take")
    storage_class: Label | None = Field(
        default=None,
        description="the class of a PersistentVolumeClaim; without one the figures are kept on the "
        "node's disk for as long as the pod lives",
    )


class MonitoringResources(Section):
    """What a pod is sure to get, and the memory it may take at most."""

    cpu: Cpu = Field(default="50m", description="CPU that the pod is sure to get")
    memory: Memory = Field(default="256Mi", description="memory that the pod is sure to get")
    memory_limit: Memory = Field(
        default="1Gi", description="memory above which the pod is ended and started again"
    )


class Prometheus(Section):
    """The figures of the mesh: read from istiod, every proxy and the kubelets."""

    enabled: bool = Field(default=False, description="whether Prometheus runs in the cluster")
    retention: Retention = Field(default="7d", description="how long figures are kept")
    scrape_interval: ScrapeInterval = Field(
        default="15s", description="the time between two readings of a target"
    )
    storage: Storage = Field(default=Storage(), description="where the figures are kept")
    resources: MonitoringResources = Field(
        default=MonitoringResources(), description="what Prometheus' pod gets"
    )


class Grafana(Section):
    """Dashboards of the figures, read-only, reached through a port-forward."""

    enabled: bool = Field(default=False, description="whether Grafana runs in the cluster")


class Kiali(Section):
    """The mesh's topology, read-only, reached through a port-forward."""

    enabled: bool = Field(default=False, description="whether Kiali runs in the cluster")


class Observability(Section):
    """Prometheus, Grafana and Kiali in a namespace of their own; no outside endpoint, no traces."""

    prometheus: Prometheus = Field(
        default=Prometheus(), description="figures, recorded rates and alerts"
    )
    grafana: Grafana = Field(default=Grafana(), description="dashboards")
    kiali: Kiali = Field(default=Kiali(), description="the mesh's topology")

    @property
    def parts(self) -> list[str]:
        """What of it runs, by name."""
        return [name for name in type(self).model_fields if getattr(self, name).enabled]

    @property
    def enabled(self) -> bool:
        """Whether any of it runs."""
        return bool(self.parts)
