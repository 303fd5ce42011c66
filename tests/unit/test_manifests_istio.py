"""The IstioOperator document: gateways, how they are exposed, the control plane, last resorts."""

from typing import Any

import pytest
import yaml

from components.manifests import Manifest
from components.manifests.istio_operator import istio_operator
from stacks.config import Istio
from tests.unit.test_manifests import ISTIO, check

GATEWAYS = Istio.model_validate(
    {
        "version": "1.16.5",
        "profile": "minimal",
        "pilot": {
            "replicas": {"min": 2, "max": 3},
            "requests": {"cpu": "1", "memory": "2Gi"},
            "debounceAfter": "50ms",
        },
        "ingressGateways": {
            "edge": {"expose": {"type": "HostPort", "nodes": ["worker-1", "worker-2"]}},
            "inside": {"replicas": {"min": 2, "max": 4}, "targetCpu": 60},
            "istio-ingressgateway": {
                "replicas": {"min": 2},
                "expose": {"type": "NodePort", "nodes": ["worker-1", "worker-2"]},
                "ports": [{"name": "https", "port": 443, "nodePort": 30443}],
            },
            "shop": {
                "expose": {"type": "ExternalIPs", "addresses": ["192.0.2.80"]},
                "ports": [{"name": "tcp-db", "port": 5432, "targetPort": 15432}],
            },
        },
        "egressGateways": {},
        "accessLog": {"target": "stdout", "format": "json"},
        "trustDomain": "prod.example.internal",
        "tracing": {"enabled": True, "sampling": 5},
        "proxy": {"certificateLifetime": "1h"},
        "overlay": {"meshConfig": {"pathNormalization": {"normalization": "MERGE_SLASHES"}}},
    }
)


def gateway(istio: Istio, name: str) -> Manifest:
    components = istio_operator(istio)["spec"]["components"]
    (found,) = (
        item
        for kind in ("ingressGateways", "egressGateways")
        for item in components[kind]
        if item["name"] == name
    )
    return dict(found)


def with_gateway(version: str = "1.16.5", **settings: object) -> Istio:
    return Istio.model_validate({"version": version, "ingressGateways": {"edge": settings}})


def test_gateways() -> None:
    check(
        "istio-operator-gateways.yaml",
        yaml.safe_dump_all([istio_operator(GATEWAYS)], sort_keys=False),
    )


def test_the_profiles_gateway_is_off_where_another_is_named() -> None:
    istio = with_gateway()
    assert gateway(istio, "istio-ingressgateway")["enabled"] is False
    assert gateway(istio, "edge")["enabled"] is True


@pytest.mark.parametrize(("profile", "enabled"), [("default", 1), ("demo", 1), ("minimal", 0)])
def test_an_ingress_gateway_comes_with_the_profile(profile: str, enabled: int) -> None:
    istio = Istio.model_validate({"version": "1.16.5", "profile": profile})
    components = istio_operator(istio)["spec"]["components"]
    assert [item["enabled"] for item in components["ingressGateways"]] == [bool(enabled)]
    assert [item["enabled"] for item in components["egressGateways"]] == [True]


def test_no_gateway_waits_for_a_load_balancer() -> None:
    for istio in (ISTIO, GATEWAYS):
        for name in istio.gateways:
            assert gateway(istio, name)["k8s"]["service"]["type"] in ("ClusterIP", "NodePort")


def test_another_version_spreads_its_pods_anew() -> None:
    def generation(version: str) -> Any:
        patches = gateway(with_gateway(version), "edge")["k8s"]["overlays"][0]["patches"]
        return patches[0]["value"]

    assert generation("1.16.5") == generation("1.16.5") != generation("1.16.7")


def test_a_single_pod_does_not_hold_up_a_drain() -> None:
    assert gateway(with_gateway(), "edge")["k8s"]["podDisruptionBudget"] == {"minAvailable": 0}
    two = with_gateway(replicas={"min": 2})
    assert gateway(two, "edge")["k8s"]["podDisruptionBudget"] == {"minAvailable": 1}


def test_the_access_log_is_the_profiles_unless_named() -> None:
    assert "accessLogFile" not in istio_operator(ISTIO)["spec"]["meshConfig"]
    istio = Istio.model_validate({"version": "1.16.5", "accessLog": {"target": "none"}})
    assert istio_operator(istio)["spec"]["meshConfig"]["accessLogFile"] == ""


def test_istio_values_come_last() -> None:
    istio = ISTIO.model_copy(
        update={"values": {"global": {"proxy": {"resources": {"limits": {"cpu": "4000m"}}}}}}
    )
    values = istio_operator(istio)["spec"]["values"]
    resources = values["global"]["proxy"]["resources"]
    assert resources["limits"] == {"cpu": "4000m", "memory": "1024Mi"}
    assert resources["requests"] == {"cpu": "100m", "memory": "128Mi"}
