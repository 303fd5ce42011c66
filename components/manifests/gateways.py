"""Istio's Gateways: the hosts that an ingress gateway serves, in plaintext or with TLS."""

from components.manifests import Manifest
from config import Gateway
from config.gateways import GatewayTls
from config.istio.gateways import selector

NETWORKING = "networking.istio.io/v1beta1"
_CHALLENGES = "/.well-known/acme-challenge/"


def gateway(name: str, settings: Gateway) -> Manifest:
    """The hosts and ports of an ingress gateway; services have the routes."""
    return {
        "apiVersion": NETWORKING,
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": settings.namespace},
        "spec": {"selector": selector(settings.ingress_gateway), "servers": _servers(settings)},
    }


def challenges(name: str, settings: Gateway) -> list[Manifest]:
    """The Gateway and VirtualService of plain HTTP that answer challenges and redirect the rest.

    A server's own httpsRedirect would redirect the challenges, too. Routes for `/` come last, so
    those that cert-manager makes for single challenges go first. No service has a dot in its name,
    so the VirtualService cannot be another's; Istio refuses one in the name of a Gateway.
    """
    tls = settings.tls
    if tls is None or tls.acme is None:
        return []
    namespace = settings.namespace
    server = {"port": _plain(settings), "hosts": list(settings.hosts)}
    redirect: Manifest = {"redirect": {"scheme": "https", "redirectCode": 301}}
    routes = [redirect]
    if tls.acme.service is not None:
        home, _, service = tls.acme.service.partition("/")
        host = f"{service}.{home}.svc.cluster.local"
        destination = {"host": host, "port": {"number": tls.acme.port}}
        challenge = {"match": [{"uri": {"prefix": _CHALLENGES}}]}
        routes.insert(0, challenge | {"route": [{"destination": destination}]})
    return [
        {
            "apiVersion": NETWORKING,
            "kind": "Gateway",
            "metadata": {"name": settings.challenges(name), "namespace": namespace},
            "spec": {"selector": selector(settings.ingress_gateway), "servers": [server]},
        },
        {
            "apiVersion": NETWORKING,
            "kind": "VirtualService",
            "metadata": {"name": f"{name}.acme", "namespace": namespace},
            "spec": {
                "hosts": list(settings.hosts),
                "gateways": [f"{namespace}/{settings.challenges(name)}"],
                "http": routes,
            },
        },
    ]


def reference(name: str, settings: Gateway) -> str:
    """The name of the Gateway in a VirtualService."""
    return f"{settings.namespace}/{name}"


def _servers(settings: Gateway) -> list[Manifest]:
    tls = settings.tls
    plain: Manifest = {"port": _plain(settings), "hosts": list(settings.hosts)}
    if tls is None:
        return [plain]
    secured = _tls_server(settings.https_port, list(settings.hosts), tls)
    if tls.plain_http:
        return [secured, plain]
    if tls.acme is not None or not tls.https_redirect:
        return [secured]
    return [secured, {**plain, "tls": {"httpsRedirect": True}}]


def _plain(settings: Gateway) -> Manifest:
    return {"number": settings.http_port, "name": "http", "protocol": "HTTP"}


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
