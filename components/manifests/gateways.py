"""Istio's Gateways: the hosts that an ingress gateway serves, in plaintext or with TLS."""

from components.manifests import Manifest
from config import Gateway
from config.gateways import GatewayTls
from config.istio.gateways import selector


def gateway(name: str, settings: Gateway) -> Manifest:
    """The hosts and ports of an ingress gateway; services have the routes."""
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": settings.namespace},
        "spec": {"selector": selector(settings.ingress_gateway), "servers": _servers(settings)},
    }


def reference(name: str, settings: Gateway) -> str:
    """The name of the Gateway in a VirtualService."""
    return f"{settings.namespace}/{name}"


def _servers(settings: Gateway) -> list[Manifest]:
    tls = settings.tls
    plain = {"number": settings.http_port, "name": "http", "protocol": "HTTP"}
    if tls is None:
        return [{"port": plain, "hosts": list(settings.hosts)}]
    redirect = {"port": plain, "hosts": list(settings.hosts), "tls": {"httpsRedirect": True}}
    secured = _tls_server(settings.https_port, list(settings.hosts), tls)
    return [secured, *([redirect] if tls.https_redirect else [])]


def _tls_server(number: int, hosts: list[str], tls: GatewayTls) -> Manifest:
    if tls.mode == "PASSTHROUGH":
        port = {"number": number, "name": "tls", "protocol": "TLS"}
        return {"port": port, "hosts": hosts, "tls": {"mode": tls.mode}}
    ends = {
        "mode": tls.mode,
        "credentialName": tls.secret,
        "minProtocolVersion": tls.min_version,
    }
    port = {"number": number, "name": "https", "protocol": "HTTPS"}
    return {"port": port, "hosts": hosts, "tls": ends}
