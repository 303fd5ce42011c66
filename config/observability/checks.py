"""Checks of what observability needs of the rest of the stack."""

import math
from collections.abc import Iterator

from config import catalogue
from config.errors import Problem
from config.observability import MONITORING_NAMESPACE, Prometheus, prometheus_seconds
from config.resources import check_request
from config.scalars.quantities import quantity
from config.sections import Sections

# What a week-old figure on a node's own disk is worth: nothing, when the pod is replaced.
_LONGEST_ON_NODE = "15d"

# The least that a mesh writes, so that a size that cannot be enough is told before it is bought:
# ten proxies a node with 300 series each (the default statistics of a proxy after the ones that
# are dropped, measured) and 1,000 of istiod; 1.5 bytes a sample, Prometheus' own figure of 1 to 2
# (prometheus.io/docs/prometheus/latest/storage).
_PROXIES_PER_NODE, _SERIES_PER_PROXY, _SERIES_BESIDES = 10, 300, 1000
_BYTES_PER_SAMPLE = 1.5


def _check_needs_prometheus(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or sections.observability.prometheus.enabled:
        return
    for name in ("grafana", "kiali"):
        if getattr(sections.observability, name).enabled:
            yield Problem(
                path=("observability", name, "enabled"),
                what=f"{name} is on, and Prometheus is off",
                why="it shows Prometheus' figures and would have none",
                fix="write enabled: true at observability.prometheus, or false here",
                about=(("observability", "prometheus", "enabled"),),
            )


def _check_kiali(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or sections.istio is None:
        return
    version = sections.istio.version
    if sections.observability.kiali.enabled and catalogue.kiali_image(version) is None:
        yield Problem(
            path=("observability", "kiali", "enabled"),
            what=f"no Kiali is known that fits Istio {version}",
            why="another would misread the mesh's objects and show a topology that is not there",
            fix="write false, or a newer istio.version",
            about=(("istio", "version"),),
        )


def _check_namespace(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or sections.mesh is None:
        return
    if sections.observability.enabled and MONITORING_NAMESPACE in sections.mesh.namespaces:
        yield Problem(
            path=("mesh", "namespaces", MONITORING_NAMESPACE),
            what=f"observability makes the namespace {MONITORING_NAMESPACE} itself",
            why="Prometheus runs there without a sidecar, so that it still sees a mesh that is ill",
            fix="give your namespace another name, or turn observability off",
            about=(("observability",),),
        )


def _check_storage(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None or not sections.observability.prometheus.enabled:
        return
    prometheus = sections.observability.prometheus
    place = ("observability", "prometheus")
    on_node = prometheus.storage.storage_class is None
    if on_node and prometheus_seconds(prometheus.retention) > prometheus_seconds(_LONGEST_ON_NODE):
        yield Problem(
            path=(*place, "retention"),
            what=f"{prometheus.retention} are promised on storage that goes with the pod",
            why="without storage.storageClass the figures are lost when the pod moves or its "
            "configuration changes",
            fix=f"write at most {_LONGEST_ON_NODE}, or name a storageClass of the cluster",
            about=((*place, "storage", "storageClass"),),
        )
    if sections.machines is None:
        return
    nodes = max(len(sections.machines.nodes), 1)
    needed = math.ceil(_bytes(prometheus, nodes) / 2**30)
    if quantity(prometheus.storage.size) < quantity(f"{needed}Gi"):
        yield Problem(
            path=(*place, "storage", "size"),
            what=f"{prometheus.storage.size} do not hold {prometheus.retention} of a mesh on "
            f"{nodes} nodes",
            why=f"with {_PROXIES_PER_NODE} proxies a node they take about {needed} GiB, and "
            "Prometheus drops the oldest figures when the space is used up",
            fix=f"write {needed}Gi, or a shorter {'.'.join(place)}.retention",
            about=((*place, "retention"), (*place, "scrapeInterval"), ("machines", "nodes")),
        )


def _check_resources(sections: Sections) -> Iterator[Problem]:
    if sections.observability is None:
        return
    resources = sections.observability.prometheus.resources
    place = ("observability", "prometheus", "resources")
    yield from check_request(
        (*place, "memory"),
        resources.memory,
        resources.memory_limit,
        limit_path=(*place, "memoryLimit"),
    )


def _bytes(prometheus: Prometheus, nodes: int) -> float:
    series = nodes * _PROXIES_PER_NODE * _SERIES_PER_PROXY + _SERIES_BESIDES
    samples = (
        series
        * prometheus_seconds(prometheus.retention)
        / prometheus_seconds(prometheus.scrape_interval)
    )
    # A fifth is kept free for the write-ahead log and for compaction.
    return samples * _BYTES_PER_SAMPLE / 0.8


CHECKS = (
    _check_needs_prometheus,
    _check_kiali,
    _check_namespace,
    _check_storage,
    _check_resources,
)
