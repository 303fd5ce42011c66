"""PeerAuthentication against golden files, reading modes back, and the proxy metrics to keep."""

import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from components.manifests import mtls, proxy_stats
from config import ROOT_NAMESPACE, Service
from tests.support.golden import check

METRICS = {
    "namespace": "shop",
    "port": 8080,
    "stable": "v1",
    "mtls": {"mode": "STRICT", "ports": {9090: "PERMISSIVE", 8081: "DISABLE"}},
}


def test_manifests_match_their_golden_file() -> None:
    service = Service.model_validate(METRICS)
    assert service.mtls is not None
    ports_only = service.mtls.model_copy(update={"mode": None, "selector": {"role": "db"}})
    documents = [
        mtls.peer_authentication(ROOT_NAMESPACE, "PERMISSIVE"),
        mtls.peer_authentication("legacy", "DISABLE"),
        mtls.service_peer_authentication("checkout", service, service.mtls),
        mtls.service_peer_authentication(
            "db", service.model_copy(update={"mtls": ports_only}), ports_only
        ),
    ]
    check("mtls.yaml", yaml.safe_dump_all(documents, sort_keys=False))


MODES = st.sampled_from(["STRICT", "PERMISSIVE", "DISABLE"])


@given(mode=MODES)
def test_reading_the_mode_of_a_namespace_undoes_rendering(mode: str) -> None:
    assert mtls.modes_of(mtls.peer_authentication("shop", mode)) == mtls.Modes(mode=mode)


@given(
    mode=st.none() | MODES,
    ports=st.dictionaries(st.integers(min_value=1, max_value=65535), MODES, max_size=3),
)
def test_reading_the_modes_of_a_service_undoes_rendering(
    mode: str | None, ports: dict[int, str]
) -> None:
    service = Service.model_validate(METRICS)
    assert service.mtls is not None
    policy = service.mtls.model_copy(update={"mode": mode, "ports": ports})
    modes = mtls.modes_of(mtls.service_peer_authentication("checkout", service, policy))
    by_port = {str(port): port_mode for port, port_mode in ports.items()}
    assert modes == mtls.Modes(mode=mode, ports=by_port)
    assert {port: modes.mode_of(port) for port in by_port} == by_port
    assert modes.mode_of("none") == mode


@pytest.mark.parametrize("policy", [{}, {"spec": {}}, {"spec": "unknown"}, {"spec": {"mtls": "?"}}])
def test_a_policy_that_is_unknown_at_preview_has_no_mode(policy: dict[str, Any]) -> None:
    assert mtls.modes_of(policy) == mtls.Modes(mode=None)


def test_a_port_without_a_mode_inherits_the_workload_mode() -> None:
    assert mtls.modes_of({"spec": {"portLevelMtls": {80: {}}}}).ports == {"80": mtls.INHERITED}


@pytest.mark.parametrize(
    ("name", "is_kept"),
    [
        ("cluster.outbound|8080|v2|checkout.shop.svc.cluster.local.upstream_rq_completed", True),
        ("cluster.outbound|8080|v2|checkout.shop.svc.cluster.local.upstream_rq_5xx", True),
        ("cluster.outbound|8080|v2|checkout.shop.svc.cluster.local.upstream_rq_time", True),
        ("cluster.outbound|8080||checkout.shop.svc.cluster.local.upstream_rq_completed", False),
        ("cluster.outbound|8080|v2|checkout.shop.svc.cluster.local.upstream_rq_200", False),
        ("cluster.inbound|9090||.grpc.14", True),
        ("cluster.inbound|9090||.grpc.success", False),
        ("cluster.outbound|9090|v2|checkout.shop.svc.cluster.local.grpc.14", False),
        ("http.inbound_0.0.0.0_8080.downstream_cx_ssl_total", True),
        ("http.InboundPassthroughClusterIpv4.downstream_cx_active", True),
        ("http.outbound_0.0.0.0_8080.downstream_cx_total", False),
        ("listener.0.0.0.0_15006.ssl.handshake", True),
        ("listener.0.0.0.0_15006.worker_0.downstream_cx_total", False),
        ("listener.0.0.0.0_15006.ssl.versions.TLSv1.3", False),
        ("tcp.inbound|9090||.downstream_cx_total", True),
    ],
)
def test_proxies_keep_only_the_metrics_that_the_gates_read(name: str, is_kept: bool) -> None:
    expressions = proxy_stats.matcher()["inclusionRegexps"]
    assert any(re.fullmatch(expression, name) for expression in expressions) is is_kept
