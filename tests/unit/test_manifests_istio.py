"""The IstioOperator document: gateways, how they are exposed, the control plane, last resorts."""

from typing import Any

import pytest
import yaml

from components.manifests import Manifest
from components.manifests.istio_operator import control_plane, gateways
from config import Istio
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
    components = gateways(istio)["spec"]["components"].values()
    (found,) = (item for items in components for item in items if item["name"] == name)
    return dict(found)


def with_gateway(version: str = "1.16.5", **settings: object) -> Istio:
    return Istio.model_validate({"version": version, "ingressGateways": {"edge": settings}})


def test_gateways() -> None:
    check(
        "istio-operator-gateways.yaml",
        yaml.safe_dump_all([control_plane(GATEWAYS), gateways(GATEWAYS)], sort_keys=False),
    )


def names(istio: Istio, kind: str) -> list[str]:
    return [item["name"] for item in gateways(istio)["spec"]["components"].get(kind, [])]


def test_a_gateway_that_is_named_takes_the_place_of_the_profiles() -> None:
    assert names(with_gateway(), "ingressGateways") == ["edge"]


@pytest.mark.parametrize(
    ("profile", "ingress"),
    [
        ("default", ["istio-ingressgateway"]),
        ("demo", ["istio-ingressgateway"]),
        ("minimal", []),
    ],
)
def test_an_ingress_gateway_comes_with_the_profile(profile: str, ingress: list[str]) -> None:
    istio = Istio.model_validate({"version": "1.16.5", "profile": profile})
    assert names(istio, "ingressGateways") == ingress
    assert names(istio, "egressGateways") == ["istio-egressgateway"]


def test_the_control_plane_comes_without_gateways() -> None:
    components = control_plane(GATEWAYS)["spec"]["components"]
    for kind in ("ingressGateways", "egressGateways"):
        assert [item["enabled"] for item in components[kind]] == [False]


def test_components_of_the_overlay_are_the_control_planes() -> None:
    overlay = {"components": {"cni": {"enabled": True}}, "meshConfig": {"rootNamespace": "x"}}
    istio = Istio.model_validate({"version": "1.16.5", "overlay": overlay})
    assert control_plane(istio)["spec"]["components"]["cni"] == {"enabled": True}
    assert "cni" not in gateways(istio)["spec"]["components"]
    for document in (control_plane(istio), gateways(istio)):
        assert document["spec"]["meshConfig"]["rootNamespace"] == "x"


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
    assert "accessLogFile" not in control_plane(ISTIO)["spec"]["meshConfig"]
    istio = Istio.model_validate({"version": "1.16.5", "accessLog": {"target": "none"}})
    assert control_plane(istio)["spec"]["meshConfig"]["accessLogFile"] == ""


def test_istio_values_come_last() -> None:
    istio = ISTIO.model_copy(
        update={"values": {"global": {"proxy": {"resources": {"limits": {"cpu": "4000m"}}}}}}
    )
    values = control_plane(istio)["spec"]["values"]
    resources = values["global"]["proxy"]["resources"]
    assert resources["limits"] == {"cpu": "4000m", "memory": "1024Mi"}
    assert resources["requests"] == {"cpu": "100m", "memory": "128Mi"}
