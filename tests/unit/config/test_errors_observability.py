"""Invalid settings of the section `observability`: each edit gives one error."""

import pytest

from config import StackConfig
from tests.unit.config.test_errors import Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

PROMETHEUS = "observability.prometheus"


ALL = [
    Wrong(
        "retention without a unit",
        {f"{PROMETHEUS}.retention": 7},
        f"{PROMETHEUS}.retention",
        "prometheus-duration-format",
        ("7 is not a", "use a value such as 7d"),
    ),
    Wrong(
        "retention in two units",
        {f"{PROMETHEUS}.retention": "1d12h"},
        f"{PROMETHEUS}.retention",
        "prometheus-duration-format",
        ("'1d12h' is not a", "one unit"),
    ),
    Wrong(
        "retention too short",
        {f"{PROMETHEUS}.retention": "30m"},
        f"{PROMETHEUS}.retention",
        "retention-minimum",
        ("30m is less than two hours", "at least 2h"),
    ),
    Wrong(
        "long retention without storage",
        {f"{PROMETHEUS}.retention": "90d", f"{PROMETHEUS}.storage": {"size": "200Gi"}},
        f"{PROMETHEUS}.retention",
        "retention-above-node-storage",
        (
            "storageClass",
            "at most 15d",
            "a retention of 90d",
        ),
    ),
    Wrong(
        "storage too small for the retention",
        {
            f"{PROMETHEUS}.retention": "90d",
            f"{PROMETHEUS}.storage": {"size": "2Gi", "storageClass": "fast"},
        },
        f"{PROMETHEUS}.storage.size",
        "storage-too-small",
        ("not hold 90d", "2 nodes", "use 7Gi"),
    ),
    Wrong(
        "storage is not a quantity",
        {f"{PROMETHEUS}.storage.size": "10GB"},
        f"{PROMETHEUS}.storage.size",
        "storage-format",
        ("'10GB' is not", "10Gi"),
    ),
    Wrong(
        "storage in bytes",
        {f"{PROMETHEUS}.storage.size": 10},
        f"{PROMETHEUS}.storage.size",
        "storage-minimum",
        ("10 of storage is less than a gibibyte",),
    ),
    Wrong(
        "storage class is not a name",
        {f"{PROMETHEUS}.storage.storageClass": "Fast Disk"},
        f"{PROMETHEUS}.storage.storageClass",
        "dns-label-format",
        ("not a DNS label", "use fast-disk"),
    ),
    Wrong(
        "scrapes too often",
        {f"{PROMETHEUS}.scrapeInterval": "1s"},
        f"{PROMETHEUS}.scrapeInterval",
        "scrape-interval-range",
        ("1s is not between 5s and 60s", "load on every proxy"),
    ),
    Wrong(
        "scrapes too rarely",
        {f"{PROMETHEUS}.scrapeInterval": "5m"},
        f"{PROMETHEUS}.scrapeInterval",
        "scrape-interval-range",
        ("5m is not between 5s and 60s",),
    ),
    Wrong(
        "memory request above its limit",
        {f"{PROMETHEUS}.resources": {"memory": "2Gi", "memoryLimit": "1Gi"}},
        f"{PROMETHEUS}.resources.memory",
        "request-above-limit",
        ("request of 2Gi is above the limit of 1Gi",),
    ),
    Wrong(
        "Grafana without Prometheus",
        {f"{PROMETHEUS}.enabled": False, "observability.grafana": {"enabled": True}},
        "observability.grafana.enabled",
        "dashboard-without-prometheus",
        ("Prometheus is",),
    ),
    Wrong(
        "Kiali without Prometheus",
        {f"{PROMETHEUS}.enabled": False, "observability.kiali": {"enabled": True}},
        "observability.kiali.enabled",
        "dashboard-without-prometheus",
        ("Prometheus is",),
    ),
    Wrong(
        "no Kiali for this Istio",
        {
            "observability.kiali": {"enabled": True},
            "istio.version": "1.12.9",
            "istio.allowUnsupported": "kept until the upgrade in January",
        },
        "observability.kiali.enabled",
        "kiali-version-unknown",
        ("Istio 1.12.9",),
    ),
    Wrong(
        "the namespace of observability in the mesh",
        {"mesh.namespaces.monitoring": {}},
        "mesh.namespaces.monitoring",
        "monitoring-namespace-reserved",
        ("the namespace monitoring itself",),
    ),
    Wrong(
        "an outside endpoint",
        {f"{PROMETHEUS}.remoteWrite": "https://metrics.example.com"},
        f"{PROMETHEUS}.remoteWrite",
        "key-unknown",
        ("there is no key remoteWrite",),
    ),
]


@pytest.fixture
def observed(container_stack: Values) -> Values:
    """A valid stack with Prometheus enabled."""
    return {**container_stack, "observability": {"prometheus": {"enabled": True, "storage": {}}}}


@pytest.mark.parametrize("wrong", ALL, ids=[wrong.name for wrong in ALL])
def test_an_invalid_observability_setting_is_refused(
    load: Load, observed: Values, wrong: Wrong
) -> None:
    expect(refusal(load, edited(observed, wrong.edit)), wrong)


def test_the_unedited_stack_is_valid(load: Load, observed: Values) -> None:
    config: StackConfig = load(observed)
    assert config.observability.parts == ["prometheus"]
