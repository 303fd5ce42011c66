"""Tokens at a gateway: which requests are refused without one, and invalid settings."""

from collections.abc import Mapping
from typing import Any

import pytest

from components.manifests import Manifest, jwt
from config import Gateway
from tests.support.mocked import Recorder, kubernetes_objects, run
from tests.unit.config.test_errors import Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

ISSUER = "https://login.example.no"
KEYS = """{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}"""
SHOP = {"issuer": ISSUER, "jwks": KEYS, "audiences": ["shop"]}
JWT: Values = {"issuers": [SHOP]}
FIRST = "mesh.gateways.web.jwt.issuers[0]"


def rules(gateways: Values, name: str, *, preflights: bool = False) -> list[Manifest]:
    models = {key: Gateway.model_validate(values) for key, values in gateways.items()}
    issuers, requirement = jwt.objects(name, models, preflights=preflights)
    assert issuers["kind"] == "RequestAuthentication"
    assert requirement["spec"]["action"] == "DENY"
    assert requirement["spec"]["selector"] == issuers["spec"]["selector"]
    found: list[Manifest] = requirement["spec"]["rules"]
    return found


def meets(text: str, patterns: list[str]) -> bool:
    """Compare as Istio does: exactly, or with one * at the begin or end of the pattern."""
    return any(
        text.endswith(pattern[1:])
        if pattern.startswith("*")
        else text.startswith(pattern[:-1])
        if pattern.endswith("*")
        else text == pattern
        for pattern in patterns
    )


def is_refused(
    denied: list[Manifest], host: str, *, path: str = "/", method: str = "GET", of: str = ""
) -> bool:
    """Return whether a request is refused. of: the issuer of its token; empty without one."""
    request = {"hosts": host, "paths": path, "methods": method}

    def applies(operation: Mapping[str, list[str]]) -> bool:
        return all(
            not meets(request[key[3].lower() + key[4:]], values)
            if key.startswith("not")
            else meets(request[key], values)
            for key, values in operation.items()
        )

    return any(
        not (of and meets(f"{of}/user", rule["from"][0]["source"]["notRequestPrincipals"]))
        and any(applies(entry["operation"]) for entry in rule.get("to", [{"operation": {}}]))
        for rule in denied
    )


def test_a_gateway_accepts_tokens_of_its_issuers_only() -> None:
    denied = rules({"web": {"hosts": ["shop.example.com"], "jwt": JWT}}, "web")
    assert not is_refused(denied, "shop.example.com", of=ISSUER)
    assert is_refused(denied, "shop.example.com")
    assert is_refused(denied, "shop.example.com", of="https://login.example.nope")
    assert is_refused(denied, "other.example.com")


def test_open_paths_need_no_token() -> None:
    open_paths = JWT | {"openPaths": ["/healthz", "/static/*"]}
    denied = rules({"web": {"hosts": ["shop.example.com"], "jwt": open_paths}}, "web")
    for path in ("/healthz", "/static/site.css"):
        assert not is_refused(denied, "shop.example.com", path=path)
    for path in ("/healthz/x", "/static", "/pay"):
        assert is_refused(denied, "shop.example.com", path=path)


def test_challenges_of_acme_need_no_token() -> None:
    gateway = {"hosts": ["shop.example.com"], "tls": {"secret": "shop-tls", "acme": {}}}
    denied = rules({"web": gateway | {"jwt": JWT}}, "web")
    assert not is_refused(denied, "shop.example.com", path="/.well-known/acme-challenge/abc")
    assert is_refused(denied, "shop.example.com", path="/.well-known/x")
    without = {"hosts": ["shop.example.com"], "tls": {"secret": "shop-tls"}, "jwt": JWT}
    denied = rules({"web": without}, "web")
    assert is_refused(denied, "shop.example.com", path="/.well-known/acme-challenge/abc")


@pytest.mark.parametrize("preflights", [True, False])
def test_preflight_requests_of_browsers_need_no_token(preflights: bool) -> None:
    gateways = {"web": {"hosts": ["shop.example.com"], "jwt": JWT}}
    denied = rules(gateways, "web", preflights=preflights)
    assert is_refused(denied, "shop.example.com", method="OPTIONS") is not preflights
    assert is_refused(denied, "shop.example.com", method="POST")


@pytest.mark.parametrize(
    ("own", "other"),
    [
        ("shop.example.com", "www.example.com"),
        ("shop.example.com", "*.example.com"),
        ("shop.example.com", "*"),
        ("*.example.com", "open.example.com"),
        ("*", "open.example.com"),
    ],
)
def test_other_gateways_of_the_same_pods_need_no_token(own: str, other: str) -> None:
    any_host = {"anyHost": "a lab without its own names"}
    gateways = {
        "web": {"hosts": [own], "jwt": JWT} | (any_host if own == "*" else {}),
        "open": {"hosts": [other]} | (any_host if other == "*" else {}),
    }
    denied = rules(gateways, "web")
    hosts = [own.replace("*", "any"), other.replace("*", "any")]
    for suffix in ("", ":443"):
        if own[0] != "*" or not suffix:
            assert is_refused(denied, hosts[0] + suffix)
            assert not is_refused(denied, hosts[0] + suffix, of=ISSUER)
        if other[0] != "*" or not suffix:
            assert not is_refused(denied, hosts[1] + suffix)
    # A client cannot get around it with a port, which a wildcard's pattern does not cover.
    assert own[0] != "*" or is_refused(denied, hosts[0] + ":443")


def test_the_issuers_come_before_the_requirement(load: Load, container_stack: Values) -> None:
    config = load(with_tokens(container_stack))
    recorder: Recorder
    recorder, _ = run(config)
    kinds = [
        (manifest["kind"], manifest["metadata"]["name"])
        for manifest in kubernetes_objects(recorder)
        if manifest["metadata"]["name"] == "web-jwt"
    ]
    assert kinds == [("RequestAuthentication", "web-jwt"), ("AuthorizationPolicy", "web-jwt")]
    requirement = recorder.options["AuthorizationPolicy istio-system/web-jwt"]
    assert "RequestAuthentication istio-system/web-jwt" in requirement["depends_on"]


def with_tokens(stack: Values) -> Values:
    stack["istio"].pop("values", None)
    stack["mesh"]["gateways"] = {
        "web": {"hosts": ["shop.example.com"], "tls": {"secret": "shop-tls"}, "jwt": JWT}
    }
    return stack


def issuer(**more: Any) -> dict[str, object]:
    values = {key: value for key, value in (SHOP | more).items() if value is not None}
    return {"mesh.gateways.web.jwt": {"issuers": [values]}}


WRONG = [
    Wrong(
        "no issuer",
        {"mesh.gateways.web.jwt": {"issuers": []}},
        "mesh.gateways.web.jwt",
        "jwt-issuers-empty",
        ("refuse every request",),
    ),
    Wrong(
        "no audience",
        issuer(audiences=[]),
        FIRST,
        "jwt-audiences-empty",
        ("for another application",),
    ),
    Wrong("a wildcard", issuer(issuer="*"), f"{FIRST}.issuer", "jwt-claim-format", ("'*' is not",)),
    Wrong("no keys", issuer(jwks=None), FIRST, "jwks-count", ("neither jwksUri nor jwks",)),
    Wrong(
        "keys in clear text on their way",
        issuer(jwks=None, jwksUri="http://login.example.no/jwks.json"),
        f"{FIRST}.jwksUri",
        "jwks-uri-format",
        ("use https://login.example.no/jwks.json",),
    ),
    Wrong(
        "keys that are none",
        issuer(jwks="{}"),
        f"{FIRST}.jwks",
        "jwks-format",
        ("refuse every token",),
    ),
    Wrong(
        "a private key",
        issuer(jwks="""{"keys": [{"kty": "RSA", "n": "AQAB", "d": "hunter2"}]}"""),
        f"{FIRST}.jwks",
        "jwks-private-key",
        ("rotate this key",),
    ),
    Wrong(
        "keys of a host that is not listed",
        issuer(jwks=None, jwksUri="https://login.example.no/jwks.json"),
        f"{FIRST}.jwksUri",
        "jwks-host-not-listed",
        ("login.example.no, port 443, is not in", "namespaces: [istio-system]"),
    ),
    Wrong(
        "TLS that is passed through",
        {"mesh.gateways.web.tls": {"mode": "PASSTHROUGH"}},
        "mesh.gateways.web.jwt",
        "jwt-with-passthrough",
        ("set tls.mode to SIMPLE",),
    ),
    Wrong(
        "an issuer with two sets of keys",
        {
            "mesh.gateways.other": {
                "hosts": ["other.example.com"],
                "tls": {"secret": "other-tls"},
                "jwt": {"issuers": [SHOP | {"audiences": ["other"]}]},
            }
        },
        "mesh.gateways.other.jwt.issuers[0]",
        "jwt-issuer-differs",
        ("other keys or audiences in web.jwt.issuers.[0]",),
    ),
    Wrong(
        "proxies that cannot verify tokens",
        {"istio.values": {"pilot": {"env": {"PILOT_ENABLE_ALPN_FILTER": "false"}}}},
        "mesh.gateways.web.jwt",
        "jwt-needs-istio-proxies",
        ("the gateway would serve nobody",),
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_invalid_tokens_are_refused(load: Load, container_stack: Values, wrong: Wrong) -> None:
    error = refusal(load, edited(with_tokens(container_stack), wrong.edit))
    expect(error, wrong)
    assert "hunter2" not in str(error)


def test_keys_are_fetched_from_a_listed_host(load: Load, container_stack: Values) -> None:
    stack = with_tokens(container_stack)
    stack["istio"]["outboundTrafficPolicy"] = "REGISTRY_ONLY"
    edit = issuer(jwks=None, jwksUri="https://login.example.no/jwks.json")
    edit["mesh.egress"] = {
        "hosts": {
            "login": {
                "host": "login.example.no",
                "owner": "team-identity@example.no",
                "purpose": "keys of tokens",
                "legalBasis": "GDPR art. 6(1)(b), agreement of 2026-01-12",
                "country": "NO",
                "namespaces": ["istio-system"],
                "through": "direct",
            }
        }
    }
    config = load(edited(stack, edit))
    (rule,) = jwt.objects("web", config.mesh.gateways, preflights=False)[0]["spec"]["jwtRules"]
    assert rule == {
        "issuer": ISSUER,
        "audiences": ["shop"],
        "jwksUri": "https://login.example.no/jwks.json",
        "forwardOriginalToken": True,
    }
