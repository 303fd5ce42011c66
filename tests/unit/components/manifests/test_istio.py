"""The IstioOperator document: gateways and their exposure, the control plane, the overlay."""

from typing import Any

import pytest
import yaml

from components.manifests import Manifest
from components.manifests.istio_operator import control_plane, gateways
from config import Istio
from tests.support.golden import check
from tests.unit.components.manifests.test_golden import ISTIO

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
        "proxy": {"certificateLifetime": "1h", "drainDuration": "1m1.5s"},
        "pathNormalization": "MERGE_SLASHES",
        "http10": True,
        "overlay": {"meshConfig": {"accessLogFormat": "%PROTOCOL%"}},
    }
)


def gateway(istio: Istio, name: str) -> Manifest:
    components = gateways(istio)["spec"]["components"].values()
    (match,) = (item for items in components for item in items if item["name"] == name)
    return dict(match)


def with_gateway(version: str = "1.16.5", **settings: object) -> Istio:
    return Istio.model_validate({"version": version, "ingressGateways": {"edge": settings}})


def test_gateways_match_their_golden_file() -> None:
    check(
        "istio-operator-gateways.yaml",
        yaml.safe_dump_all([control_plane(GATEWAYS), gateways(GATEWAYS)], sort_keys=False),
    )


def names(istio: Istio, kind: str) -> list[str]:
    return [item["name"] for item in gateways(istio)["spec"]["components"].get(kind, [])]


def test_declared_gateways_replace_those_of_the_profile() -> None:
    assert names(with_gateway(), "ingressGateways") == ["edge"]


@pytest.mark.parametrize(
    ("profile", "ingress"),
    [
        ("default", ["istio-ingressgateway"]),
        ("demo", ["istio-ingressgateway"]),
        ("minimal", []),
    ],
)
def test_the_profile_decides_the_default_ingress_gateway(profile: str, ingress: list[str]) -> None:
    istio = Istio.model_validate({"version": "1.16.5", "profile": profile})
    assert names(istio, "ingressGateways") == ingress
    assert names(istio, "egressGateways") == ["istio-egressgateway"]


def test_the_control_plane_document_disables_gateways() -> None:
    components = control_plane(GATEWAYS)["spec"]["components"]
    for kind in ("ingressGateways", "egressGateways"):
        assert [item["enabled"] for item in components[kind]] == [False]


def test_overlay_components_go_to_the_control_plane_only() -> None:
    overlay = {"components": {"cni": {"enabled": True}}, "meshConfig": {"rootNamespace": "x"}}
    istio = Istio.model_validate({"version": "1.16.5", "overlay": overlay})
    assert control_plane(istio)["spec"]["components"]["cni"] == {"enabled": True}
    assert "cni" not in gateways(istio)["spec"]["components"]
    for document in (control_plane(istio), gateways(istio)):
        assert document["spec"]["meshConfig"]["rootNamespace"] == "x"


def test_no_gateway_needs_a_load_balancer() -> None:
    for istio in (ISTIO, GATEWAYS):
        for name in istio.gateways:
            assert gateway(istio, name)["k8s"]["service"]["type"] in ("ClusterIP", "NodePort")


def test_topology_spread_counts_each_version_separately() -> None:
    def generation(version: str) -> Any:
        patches = gateway(with_gateway(version), "edge")["k8s"]["overlays"][0]["patches"]
        return patches[0]["value"]

    assert generation("1.16.5") == generation("1.16.5") != generation("1.16.7")


@pytest.mark.parametrize(
    ("expose", "duration", "drain", "grace"),
    [
        (None, "20s", "20s", None),
        (None, "5s", "20s", None),
        (None, "25s", "25s", None),
        (None, "1m1.5s", "61.5s", 67),
        ({"type": "HostPort", "nodes": ["worker-1"]}, "1m", "5s", None),
    ],
)
def test_a_gateway_drains_for_long_requests(
    expose: dict[str, Any] | None, duration: str, drain: str, grace: int | None
) -> None:
    """A host port is free only after its pod has ended."""
    settings = {
        "version": "1.16.5",
        "proxy": {"drainDuration": duration},
        "ingressGateways": {"edge": {"expose": expose} if expose else {}},
    }
    k8s = gateway(Istio.model_validate(settings), "edge")["k8s"]
    config = k8s["podAnnotations"]["proxy.istio.io/config"]
    assert config == f"terminationDrainDuration: {drain}"
    patches = {patch["path"]: patch["value"] for patch in k8s["overlays"][0]["patches"]}
    assert patches.get("spec.template.spec.terminationGracePeriodSeconds") == grace


def test_a_single_replica_does_not_block_a_drain() -> None:
    assert gateway(with_gateway(), "edge")["k8s"]["podDisruptionBudget"] == {"minAvailable": 0}
    two = with_gateway(replicas={"min": 2})
    assert gateway(two, "edge")["k8s"]["podDisruptionBudget"] == {"minAvailable": 1}


def test_the_access_log_defaults_to_the_profile() -> None:
    assert "accessLogFile" not in control_plane(ISTIO)["spec"]["meshConfig"]
    istio = Istio.model_validate({"version": "1.16.5", "accessLog": {"target": "none"}})
    assert control_plane(istio)["spec"]["meshConfig"]["accessLogFile"] == ""


def test_istio_values_override_everything_else() -> None:
    istio = ISTIO.model_copy(
        update={"values": {"global": {"proxy": {"resources": {"limits": {"cpu": "4000m"}}}}}}
    )
    values = control_plane(istio)["spec"]["values"]
    resources = values["global"]["proxy"]["resources"]
    assert resources["limits"] == {"cpu": "4000m", "memory": "1024Mi"}
    assert resources["requests"] == {"cpu": "100m", "memory": "128Mi"}
