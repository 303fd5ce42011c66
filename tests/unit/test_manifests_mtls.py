"""The manifests of mTLS modes, and the statistics that proxies keep, against golden files."""

import re

import pytest
import yaml

from components.manifests import mtls, proxy_stats
from config import ROOT_NAMESPACE, Service
from tests.unit.test_manifests import check

METRICS = {
    "namespace": "shop",
    "port": 8080,
    "stable": "v1",
    "mtls": {"mode": "STRICT", "ports": {9090: "PERMISSIVE", 8081: "DISABLE"}},
}


def test_modes() -> None:
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


@pytest.mark.parametrize(
    ("name", "kept"),
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
def test_proxies_keep_what_gates_read_and_little_else(name: str, kept: bool) -> None:
    expressions = proxy_stats.matcher()["inclusionRegexps"]
    assert any(re.fullmatch(one, name) for one in expressions) is kept
