"""The Secrets of gateways: what is missing is said, and where a Secret of that name is."""

from collections.abc import Mapping
from typing import Any

import pytest

from components.gates import credentials
from config import Mesh

OUTSIDE = {
    "host": "api.partner.example",
    "owner": "team-payments@example.no",
    "purpose": "settle card payments",
    "legalBasis": "GDPR art. 6(1)(b), agreement of 2026",
    "country": "NO",
    "namespaces": ["shop"],
    "tls": "originate",
    "caSecret": "partner-ca",
}
PAIR = {"tls.crt": "x", "tls.key": "x"}


class FakeApi:
    """Secrets by namespace and name."""

    def __init__(self, secrets: Mapping[str, Mapping[str, str] | None]) -> None:
        self._secrets = secrets

    def items(self, path: str, *, fieldSelector: str) -> list[Any]:
        assert path == "/api/v1/secrets"
        wanted = fieldSelector.removeprefix("metadata.name=")
        return [
            {"metadata": {"namespace": key.split("/")[0], "name": wanted}, "data": data}
            for key, data in self._secrets.items()
            if key.split("/")[1] == wanted
        ]


def missing(secrets: Mapping[str, Mapping[str, str] | None], **tls: str) -> list[str]:
    mesh = Mesh.model_validate(
        {"gateways": {"web": {"hosts": ["a.example"], "tls": {"secret": "web-tls", **tls}}}}
    )
    return credentials.missing(FakeApi(secrets), list(credentials.needs(mesh)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("secrets", "mode", "words"),
    [
        ({}, "SIMPLE", "the Secret istio-system/web-tls does not exist: the gateway resets"),
        ({"shop/web-tls": PAIR}, "SIMPLE", "does not exist; it is in shop, which the gateway"),
        ({"istio-system/web-tls": None}, "SIMPLE", "has no tls.crt and no tls.key"),
        ({"istio-system/web-tls": {"tls.crt": "x", "tls.key": ""}}, "SIMPLE", "has no tls.key"),
        ({"istio-system/web-tls": PAIR}, "MUTUAL", "has no ca.crt"),
        (
            {"istio-system/web-tls": PAIR, "shop/web-tls-cacert": {"ca.crt": "x"}},
            "MUTUAL",
            "has no ca.crt",
        ),
    ],
)
def test_a_missing_secret_is_named(
    secrets: Mapping[str, Mapping[str, str] | None], mode: str, words: str
) -> None:
    (line,) = missing(secrets, mode=mode)
    assert line.startswith("nordmesh:mesh.gateways.web.tls.secret: ")
    assert words in line


@pytest.mark.parametrize(
    ("secrets", "mode"),
    [
        ({"istio-system/web-tls": PAIR}, "SIMPLE"),
        ({"istio-system/web-tls": {"cert": "x", "key": "x"}}, "SIMPLE"),
        ({"istio-system/web-tls": {**PAIR, "ca.crt": "x"}}, "MUTUAL"),
        ({"istio-system/web-tls": PAIR, "istio-system/web-tls-cacert": {"cacert": "x"}}, "MUTUAL"),
    ],
)
def test_a_complete_secret_passes(secrets: Mapping[str, Mapping[str, str]], mode: str) -> None:
    assert missing(secrets, mode=mode) == []


def test_a_gateway_that_passes_tls_through_needs_no_secret() -> None:
    mesh = Mesh.model_validate(
        {"gateways": {"web": {"hosts": ["a.example"], "tls": {"mode": "PASSTHROUGH"}}}}
    )
    assert list(credentials.needs(mesh)) == []


def test_the_ca_of_a_host_outside_is_needed() -> None:
    mesh = Mesh.model_validate({"egress": {"hosts": {"partner": OUTSIDE}}})
    wanted = list(credentials.needs(mesh))
    (line,) = credentials.missing(FakeApi({}), wanted)  # type: ignore[arg-type]
    assert line.startswith("nordmesh:mesh.egress.hosts.partner.caSecret: ")
    assert "every call to it gets 503" in line
    ready = FakeApi({"istio-system/partner-ca": {"ca.crt": "x"}})
    assert credentials.missing(ready, wanted) == []  # type: ignore[arg-type]
