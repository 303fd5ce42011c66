"""The section `observability`: Prometheus, Alertmanager, Grafana and Kiali in the cluster."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from config.base import Section
from config.observability.alertmanager import Alertmanager
from config.scalars.names import Label
from config.scalars.quantities import Cpu, Memory, StorageSize
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

MONITORING_NAMESPACE = "monitoring"

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_MINIMUM_RETENTION = 2 * 3600  # Prometheus writes blocks of two hours


def prometheus_seconds(duration: str) -> int:
    """The seconds of a Prometheus duration, which has one unit, also days: 30s, 2h, 15d."""
    match = re.fullmatch(r"([1-9]\d*)([smhdwy])", duration)
    if match is None:
        raise ValueError(f"not a duration: {duration!r}")
    return int(match[1]) * _SECONDS[match[2]]


def _prometheus_duration(value: Any, what: str, example: str) -> str:
    try:
        prometheus_seconds(str(value))
    except ValueError:
        raise Refused(
            "prometheus-duration-format",
            f"{value!r} is not a Prometheus duration",
            f"{what} is a whole number with one unit: s, m, h, d, w or y",
            f"use a value such as {example}",
        ) from None
    return str(value)


@shaped(text(r"[1-9]\d*[smhdwy]"))
def _retention(value: Any) -> str:
    text = _prometheus_duration(value, "the retention of metrics", "7d")
    if prometheus_seconds(text) < _MINIMUM_RETENTION:
        raise Refused(
            "retention-minimum",
            f"{text} is less than two hours",
            "Prometheus stores metrics in blocks of two hours and keeps at least one",
            "use at least 2h; a week (7d) covers the last deployments",
        )
    return text


@shaped(text(r"[1-9]\d*[sm]"))
def _scrape_interval(value: Any) -> str:
    text = _prometheus_duration(value, "the scrape interval", "15s")
    if not 5 <= prometheus_seconds(text) <= 60:
        raise Refused(
            "scrape-interval-range",
            f"{text} is not between 5s and 60s",
            "a shorter interval puts load on every proxy; with a longer one, the "
            "two-minute rates of alerts and dashboards have too few samples",
            "use a value such as 15s",
        )
    return text


Retention = Annotated[str, BeforeValidator(_retention)]
ScrapeInterval = Annotated[str, BeforeValidator(_scrape_interval)]


class MetricsStorage(Section):
    """Where Prometheus stores metrics."""

    size: StorageSize = Field(default="8Gi", description="how much disk space the metrics may use")
    storage_class: Label | None = Field(
        default=None,
        description="the storage class of a PersistentVolumeClaim; without one, the metrics are "
        "on the "
        "node's disk and are lost with the pod",
    )


class MonitoringResources(Section):
    """The resources that a pod requests, and its memory limit."""

    cpu: Cpu = Field(default="50m", description="the CPU that the pod requests")
    memory: Memory = Field(default="256Mi", description="the memory that the pod requests")
    memory_limit: Memory = Field(
        default="1Gi", description="the memory above which the pod is killed and restarted"
    )


class Prometheus(Section):
    """The metrics of the mesh, from istiod, every proxy and the kubelets."""

    enabled: bool = Field(default=False, description="whether Prometheus runs in the cluster")
    retention: Retention = Field(default="7d", description="how long metrics are kept")
    scrape_interval: ScrapeInterval = Field(
        default="15s", description="the time between two scrapes of a target"
    )
    storage: MetricsStorage = Field(
        default=MetricsStorage(), description="where the metrics are stored"
    )
    resources: MonitoringResources = Field(
        default=MonitoringResources(), description="the resources of Prometheus' pod"
    )


class Grafana(Section):
    """Read-only dashboards, through a port-forward."""

    enabled: bool = Field(default=False, description="whether Grafana runs in the cluster")


class Kiali(Section):
    """A read-only view of the mesh's topology, through a port-forward."""

    enabled: bool = Field(default=False, description="whether Kiali runs in the cluster")


class Observability(Section):
    """Prometheus, Alertmanager, Grafana and Kiali in their own namespace, without public endpoints.

    There are no traces.
    """

    prometheus: Prometheus = Field(
        default=Prometheus(), description="metrics, recording rules and alerts"
    )
    alertmanager: Alertmanager = Field(
        default=Alertmanager(), description="the receiver of the alerts"
    )
    grafana: Grafana = Field(default=Grafana(), description="dashboards")
    kiali: Kiali = Field(default=Kiali(), description="the mesh's topology")

    @property
    def parts(self) -> list[str]:
        """The names of the enabled parts."""
        return [name for name in type(self).model_fields if getattr(self, name).enabled]

    @property
    def enabled(self) -> bool:
        """Whether any part is enabled."""
        return bool(self.parts)
