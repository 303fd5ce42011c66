"""Tokens that clients must send to a gateway: who signs them, and which requests need one."""

from collections.abc import Mapping

from components.manifests import Manifest
from components.manifests.gateways import CHALLENGES
from config import Gateway
from config.gateways.jwt import Jwt, JwtIssuer
from config.istio.gateways import selector
from config.scalars.http import covers

SUFFIX = "-jwt"
"""The end of the names of both objects; a service's policy ends in -callers."""


def objects(name: str, gateways: Mapping[str, Gateway], *, preflights: bool) -> list[Manifest]:
    """The objects of a gateway that requires tokens: first the issuers, then the requirement.

    gateways: the entries of mesh.gateways. preflights: whether browsers send CORS requests, which
    have no token.
    """
    gateway = gateways[name]
    jwt = gateway.jwt
    if jwt is None:
        return []
    rules = _rules(name, gateway, jwt, gateways, preflights=preflights)
    return [
        _object(
            "RequestAuthentication", name, gateway, {"jwtRules": list(map(_issuer, jwt.issuers))}
        ),
        _object("AuthorizationPolicy", name, gateway, {"action": "DENY", "rules": rules}),
    ]


def _issuer(issuer: JwtIssuer) -> Manifest:
    keys = {"jwksUri": issuer.jwks_uri} if issuer.jwks_uri else {"jwks": issuer.jwks}
    return {
        "issuer": issuer.issuer,
        "audiences": list(issuer.audiences),
        **keys,
        "forwardOriginalToken": True,
    }


def _rules(
    name: str, gateway: Gateway, jwt: Jwt, gateways: Mapping[str, Gateway], *, preflights: bool
) -> list[Manifest]:
    """The requests that are refused without a token of the issuers.

    They are those for the gateway's hosts, and those for no known host: a client that adds a port
    to a wildcard's name, or writes it in another way, gets no further than others.
    """
    without = [{"source": {"notRequestPrincipals": [f"{it.issuer}/*" for it in jwt.issuers]}}]
    limits: Manifest = {}
    challenges = [f"{CHALLENGES}*"] if gateway.tls is not None and gateway.tls.acme else []
    if open_paths := [*jwt.open_paths, *challenges]:
        limits["notPaths"] = open_paths
    if preflights:
        limits["notMethods"] = ["OPTIONS"]
    others = sorted(
        host
        for key, other in gateways.items()
        if key != name and _same_pods(other, gateway)
        for host in other.hosts
    )
    narrower = [host for host in others if any(covers(own, host) for own in gateway.hosts)]
    own: Manifest = {"hosts": _as_sent(gateway.hosts)}
    if narrower:
        own["notHosts"] = _as_sent(narrower)
    rules = [{"from": without, "to": [{"operation": {**own, **limits}}]}]
    if others:
        elsewhere = {"notHosts": _as_sent(others)}
        rules.append({"from": without, "to": [{"operation": {**elsewhere, **limits}}]})
    else:
        rules = [{"from": without, **({"to": [{"operation": limits}]} if limits else {})}]
    return rules


def _same_pods(one: Gateway, other: Gateway) -> bool:
    return (one.namespace, one.ingress_gateway) == (other.namespace, other.ingress_gateway)


def _as_sent(hosts: list[str]) -> list[str]:
    """The host names as clients send them: also with a port, where the format allows it."""
    return [form for host in hosts for form in (host, *([f"{host}:*"] if host[0] != "*" else []))]


def _object(kind: str, name: str, gateway: Gateway, spec: Manifest) -> Manifest:
    labels = {"matchLabels": selector(gateway.ingress_gateway)}
    return {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": kind,
        "metadata": {"name": f"{name}{SUFFIX}", "namespace": gateway.namespace},
        "spec": {"selector": labels, **spec},
    }
