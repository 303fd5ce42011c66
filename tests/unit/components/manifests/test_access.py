"""Manifests of egress, authorization, Sidecar and proxy resources against golden files."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from components.manifests import Manifest, authorization, echo, egress, sidecar, workloads
from config import Mesh, Workload, catalogue
from config.istio import Proxy
from tests.support.golden import check

WHY = {
    "owner": "team-payments@example.no",
    "purpose": "settle card payments",
    "legalBasis": "GDPR art. 6(1)(b), processor agreement of 2026-01-12",
    "country": "NO",
    "namespaces": ["shop"],
}
MESH = Mesh.model_validate(
    {
        "namespaces": {
            "shop": {"limitView": True, "calls": ["monitoring/prometheus"]},
            "backend": {"mtls": "STRICT"},
        },
        "services": {
            "checkout": {
                "namespace": "shop",
                "port": 8080,
                "stable": "v1",
                "serviceAccount": "checkout",
                "callers": [
                    {"gateway": "istio-ingressgateway", "paths": ["/", "/cart/*"]},
                    {"serviceAccount": "backend/reports", "methods": ["GET"], "ports": [8080]},
                ],
            },
            "payment": {
                "namespace": "backend",
                "port": 8080,
                "stable": "v1",
                "serviceAccount": "payment",
                "callers": [{"service": "checkout"}],
            },
            "ledger": {
                "namespace": "backend",
                "port": 8080,
                "stable": "v1",
                "callers": [{"service": "backend/payment"}],
            },
            "rates": {"namespace": "backend", "port": 8080, "stable": "v1"},
            "vault": {"namespace": "backend", "port": 8080, "stable": "v1", "callers": []},
        },
        "egress": {
            "hosts": {
                "acquirer": {
                    **WHY,
                    "host": "api.acquirer.example",
                    "country": "US",
                    "transferBasis": "standard contractual clauses of 2021",
                    "namespaces": ["shop", "backend", "shop"],
                },
                "rates": {
                    **WHY,
                    "host": "rates.bank.example",
                    "tls": "originate",
                    "caSecret": "bank-ca",
                },
                "mail": {**WHY, "host": "mail.example", "tls": "originate", "through": "direct"},
                "legacy": {
                    **WHY,
                    "host": "legacy.bank.example",
                    "ports": [{"number": 8080, "protocol": "HTTP"}],
                },
                "database": {
                    **WHY,
                    "host": "db.bank.example",
                    "ports": [
                        {"number": 5432, "protocol": "TCP"},
                        {"number": 443, "protocol": "HTTPS"},
                    ],
                    "addresses": ["192.0.2.50", "192.0.2.51"],
                    "through": "direct",
                },
                "buckets": {
                    **WHY,
                    "host": "*.store.example",
                    "wildcardReason": "each tenant has its own host",
                    "through": "direct",
                },
            }
        },
    }
)
SMALL = Workload.model_validate(
    {
        "namespace": "shop",
        "requests": {"cpu": "50m", "memory": "64Mi"},
        "concurrency": 1,
        "holdApplicationUntilProxyStarts": True,
    }
)


def egress_objects() -> list[Manifest]:
    objects = egress.gateway_objects(MESH.egress)
    for name, host in MESH.egress.hosts.items():
        objects += [*egress.way(name, host, MESH.egress), egress.service_entry(name, host)]
    return objects


def access_objects() -> list[Manifest]:
    declared = ("checkout", "payment", "ledger", "vault")
    return [authorization.authorization_policy(name, MESH.services) for name in declared]


def client_objects() -> list[Manifest]:
    image = catalogue.ECHO_IMAGE
    deployment = echo.echo_deployment(
        "checkout", "v1", namespace="shop", image=image, account="checkout"
    )
    return [
        echo.service_account("checkout", "shop"),
        deployment,
        echo.client_deployment("shop", image=image),
    ]


DOCUMENTS: dict[str, Callable[[], list[Manifest]]] = {
    "access.yaml": access_objects,
    "accounts.yaml": client_objects,
    "egress.yaml": egress_objects,
    "sidecar.yaml": lambda: [sidecar.sidecar(name, MESH) for name in ("shop", "backend")],
    "workload.yaml": lambda: [workloads.deployment("checkout-v1", SMALL, Proxy())],
}


@pytest.mark.parametrize("file", sorted(DOCUMENTS))
def test_manifests_match_their_golden_files(file: str) -> None:
    check(file, yaml.safe_dump_all(DOCUMENTS[file](), sort_keys=False))


def test_an_empty_list_of_callers_renders_no_rule() -> None:
    # ALLOW without rules denies every request; an empty rule would allow every request.
    assert "rules" not in authorization.authorization_policy("vault", MESH.services)["spec"]


@pytest.mark.parametrize("name", ["checkout", "payment", "ledger"])
def test_every_rule_names_a_principal(name: str) -> None:
    for rule in authorization.authorization_policy(name, MESH.services)["spec"]["rules"]:
        assert rule["from"][0]["source"]["principals"]


@pytest.mark.parametrize(
    ("settings", "annotations"),
    [
        (
            {"limits": {"cpu": "4"}},
            {
                "sidecar.istio.io/proxyCPU": "100m",
                "sidecar.istio.io/proxyMemory": "128Mi",
                "sidecar.istio.io/proxyCPULimit": "4",
                "sidecar.istio.io/proxyMemoryLimit": "1024Mi",
            },
        ),
        ({"concurrency": 0}, {"proxy.istio.io/config": '{"concurrency": 0}'}),
        (
            {"drainDuration": "1m30s"},
            {"proxy.istio.io/config": '{"terminationDrainDuration": "90s"}'},
        ),
        (
            {"holdApplicationUntilProxyStarts": False},
            {"proxy.istio.io/config": '{"holdApplicationUntilProxyStarts": false}'},
        ),
    ],
)
def test_setting_one_proxy_resource_sets_all_four(
    settings: dict[str, Any], annotations: dict[str, str]
) -> None:
    workload = Workload.model_validate({"namespace": "shop", **settings})
    assert workloads.annotations(workload, Proxy()) == annotations
