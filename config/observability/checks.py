"""Checks of the section `observability` against the rest of the stack."""

import math
from collections.abc import Iterator

from config import catalogue
from config.errors import Problem
from config.observability import MONITORING_NAMESPACE, Prometheus, prometheus_seconds
from config.resources import check_request
from config.scalars.quantities import quantity
from config.sections import Sections

# Metrics on a node's own disk are lost when the pod is replaced.
_LONGEST_ON_NODE = "15d"

# The least that a mesh writes, so that a disk that is too small is refused before it is bought: ten
# proxies on each node with 300 series each (measured, with the default statistics of a proxy) and
# 1,000 series of istiod; 1.5 bytes a sample, where Prometheus documents 1 to 2
# (prometheus.io/docs/prometheus/latest/storage).
_PROXIES_PER_NODE, _SERIES_PER_PROXY, _SERIES_BESIDES = 10, 300, 1000
_BYTES_PER_SAMPLE = 1.5


def _check_needs_prometheus(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or sections.observability.prometheus.enabled:
        return
    for name in ("grafana", "kiali"):
        if getattr(sections.observability, name).enabled:
            yield Problem(
                code="dashboard-without-prometheus",
                path=("observability", name, "enabled"),
                what=f"{name} is enabled, but Prometheus is not",
                why="it shows metrics from Prometheus and would have none",
                fix="set observability.prometheus.enabled to true, or this to false",
                about=(("observability", "prometheus", "enabled"),),
            )


def _check_kiali(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or sections.istio is None:
        return
    version = sections.istio.version
    is_known = version in catalogue.ISTIO
    if sections.observability.kiali.enabled and is_known and catalogue.kiali_image(version) is None:
        yield Problem(
            code="kiali-version-unknown",
            path=("observability", "kiali", "enabled"),
            what=f"no Kiali version is known to work with Istio {version}",
            why="an incompatible version would misread the mesh's objects and show a "
            "wrong topology",
            fix="set this to false, or use a newer istio.version",
            about=(("istio", "version"),),
        )


def _check_namespace(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or sections.mesh is None:
        return
    if sections.observability.enabled and MONITORING_NAMESPACE in sections.mesh.namespaces:
        yield Problem(
            code="monitoring-namespace-reserved",
            path=("mesh", "namespaces", MONITORING_NAMESPACE),
            what=f"observability creates the namespace {MONITORING_NAMESPACE} itself",
            why="Prometheus runs there without a sidecar, so that it can still see a mesh "
            "that fails",
            fix="rename your namespace, or disable observability",
            about=(("observability",),),
        )


def _check_storage(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or not sections.observability.prometheus.enabled:
        return
    prometheus = sections.observability.prometheus
    base = ("observability", "prometheus")
    on_node = prometheus.storage.storage_class is None
    if on_node and prometheus_seconds(prometheus.retention) > prometheus_seconds(_LONGEST_ON_NODE):
        yield Problem(
            code="retention-above-node-storage",
            path=(*base, "retention"),
            what=f"a retention of {prometheus.retention} is too long for storage that is "
            "deleted with the pod",
            why="without storage.storageClass the metrics are lost when the pod moves or "
            "its configuration changes",
            fix=f"use at most {_LONGEST_ON_NODE}, or set storageClass to one of the "
            "cluster's classes",
            about=((*base, "storage", "storageClass"),),
        )
    if sections.machines is None:
        return
    nodes = max(len(sections.machines.nodes), 1)
    needed = math.ceil(_bytes(prometheus, nodes) / 2**30)
    if quantity(prometheus.storage.size) < quantity(f"{needed}Gi"):
        yield Problem(
            code="storage-too-small",
            path=(*base, "storage", "size"),
            what=f"{prometheus.storage.size} cannot hold {prometheus.retention} of metrics "
            f"from {nodes} nodes",
            why=f"with {_PROXIES_PER_NODE} proxies on each node they take about {needed} "
            "GiB, and Prometheus deletes the oldest metrics when the space is full",
            fix=f"use {needed}Gi, or a shorter {'.'.join(base)}.retention",
            about=((*base, "retention"), (*base, "scrapeInterval"), ("machines", "nodes")),
        )


def _check_resources(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None:
        return
    resources = sections.observability.prometheus.resources
    base = ("observability", "prometheus", "resources")
    yield from check_request(
        (*base, "memory"),
        resources.memory,
        resources.memory_limit,
        limit_path=(*base, "memoryLimit"),
    )


def _bytes(prometheus: Prometheus, nodes: int) -> float:
    series = nodes * _PROXIES_PER_NODE * _SERIES_PER_PROXY + _SERIES_BESIDES
    samples = (
        series
        * prometheus_seconds(prometheus.retention)
        / prometheus_seconds(prometheus.scrape_interval)
    )
    # A fifth stays free for the write-ahead log and for compaction.
    return samples * _BYTES_PER_SAMPLE / 0.8


CHECKS = (
    _check_needs_prometheus,
    _check_kiali,
    _check_namespace,
    _check_storage,
    _check_resources,
)
