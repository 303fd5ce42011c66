"""Checks of tokens at gateways: their keys can be fetched, and the proxies can verify them."""

from collections.abc import Iterator

from config import Gateway
from config.errors import KeyPath, Problem
from config.gateways.jwt import JwtIssuer
from config.sections import Sections


def _each(sections: Sections) -> Iterator[tuple[Gateway, KeyPath]]:
    gateways = sections.mesh.gateways if sections.mesh is not None else {}
    for name, gateway in gateways.items():
        if gateway.jwt is not None:
            yield gateway, ("mesh", "gateways", name, "jwt")


def _issuers(sections: Sections) -> Iterator[tuple[Gateway, JwtIssuer, KeyPath]]:
    for gateway, path in _each(sections):
        for index, issuer in enumerate(gateway.jwt.issuers if gateway.jwt else ()):
            yield gateway, issuer, (*path, "issuers", f"[{index}]")


def _check_tls(sections: Sections) -> Iterator[Problem]:
    for gateway, path in _each(sections):
        if gateway.tls is not None and gateway.tls.mode == "PASSTHROUGH":
            yield Problem(
                code="jwt-with-passthrough",
                path=path,
                what="tokens are required, but TLS is passed through",
                why="the gateway cannot see requests inside TLS, so it cannot verify their tokens",
                fix="set tls.mode to SIMPLE",
                about=((*path[:-1], "tls"),),
            )


def _check_fetched(sections: Sections) -> Iterator[Problem]:
    hosts = sections.mesh.egress.hosts if sections.mesh is not None else {}
    allowed = {(host.host, port.number) for host in hosts.values() for port in host.ports}
    for _, issuer, path in _issuers(sections):
        host, port = issuer.jwks_host, issuer.jwks_port
        if host is not None and (host, port) not in allowed:
            yield Problem(
                code="jwks-host-not-listed",
                path=(*path, "jwksUri"),
                what=f"{host}, port {port}, is not in mesh.egress.hosts",
                why="istiod fetches the keys from it; the list says who operates it and in which "
                "country, and the policy pack judges that",
                fix=f"add it to mesh.egress.hosts with namespaces: [istio-system], or set jwks to "
                f"the keys of {issuer.issuer}",
                about=(("mesh", "egress", "hosts"),),
            )


def _check_same_keys(sections: Sections) -> Iterator[Problem]:
    known: dict[tuple[str, str, str], tuple[JwtIssuer, KeyPath]] = {}
    for gateway, issuer, path in _issuers(sections):
        claim = (gateway.namespace, gateway.ingress_gateway, issuer.issuer)
        other, where = known.setdefault(claim, (issuer, path))
        if other != issuer:
            yield Problem(
                code="jwt-issuer-differs",
                path=path,
                what=f"{issuer.issuer} has other keys or audiences in {'.'.join(where[2:])}",
                why="both gateways have the same pods, which verify an issuer's tokens in one way",
                fix="use the same keys and audiences in both",
                about=(where,),
            )


def _check_proxies(sections: Sections) -> Iterator[Problem]:
    values = sections.istio.values if sections.istio is not None else {}
    pilot = values.get("pilot")
    env = pilot.get("env") if isinstance(pilot, dict) else None
    if not isinstance(env, dict) or str(env.get("PILOT_ENABLE_ALPN_FILTER")).lower() != "false":
        return
    for _, path in _each(sections):
        yield Problem(
            code="jwt-needs-istio-proxies",
            path=path,
            what="tokens are required, but the proxies are a plain Envoy "
            "(PILOT_ENABLE_ALPN_FILTER is false)",
            why="only Istio's own proxies verify tokens; a plain Envoy refuses the configuration, "
            "and the gateway would serve nobody",
            fix="remove jwt from this stack, or use Istio's own images",
            about=(("istio", "values"),),
        )


CHECKS = (_check_tls, _check_fetched, _check_same_keys, _check_proxies)
