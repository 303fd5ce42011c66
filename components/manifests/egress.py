"""Istio's objects for hosts outside the cluster: who may call them, and on which path.

All are in istio-system. A host is exported to the namespaces that may call it; to the proxies of
the others it does not exist. Through the gateway, a request goes from the client's proxy to the
gateway in mTLS (the client's own TLS inside it), so that the gateway knows who calls.
"""

from collections.abc import Mapping

from components.manifests import Manifest
from config import ROOT_NAMESPACE, Egress, EgressHost, annotations
from config.istio.gateways import selector

_NETWORKING = "networking.istio.io/v1beta1"
_PUBLIC_CAS = "/etc/ssl/certs/ca-certificates.crt"  # of the proxies' image
_PLAIN_PORT = 80  # where a client speaks HTTP and the proxy makes TLS of it
# The egress gateway's ports of Istio's profiles: one for HTTP that the gateway reads, one for TLS
# that it passes on.
_HTTP_IN, _TLS_IN = 80, 443
_ALL_HOSTS = "egress"

PREFIX = "egress-"
"""The start of the names of all objects of a host; the rest is its key in the stack file."""


def service_entry(name: str, host: EgressHost) -> Manifest:
    """The ServiceEntry of the host, with its owner and purpose."""
    spec: Manifest = {
        "hosts": [host.host],
        "exportTo": _exported(host),
        "location": "MESH_EXTERNAL",
        "ports": _ports(host),
        "resolution": "NONE" if host.is_wildcard else "DNS",
    }
    if host.addresses:
        spec["resolution"] = "STATIC"
        spec["endpoints"] = [{"address": address} for address in host.addresses]
        # A TCP connection has no host name: a proxy sees its address only.
        if any(port.protocol == "TCP" for port in host.ports):
            spec["addresses"] = list(host.addresses)
    manifest = _object("ServiceEntry", f"{PREFIX}{name}", spec)
    manifest["metadata"]["annotations"] = why(host)
    return manifest


def why(host: EgressHost) -> dict[str, str]:
    """The annotations of a host's object: its owner, and why it may be called."""
    texts = {
        annotations.OWNER: host.owner,
        annotations.PURPOSE: host.purpose,
        annotations.LEGAL_BASIS: host.legal_basis,
        annotations.COUNTRY: host.country,
        annotations.TRANSFER_BASIS: host.transfer_basis,
        annotations.WILDCARD_REASON: host.wildcard_reason,
    }
    return {name: text for name, text in texts.items() if text is not None}


def way(name: str, host: EgressHost, egress: Egress) -> list[Manifest]:
    """The objects on the path of a host's requests, without its ServiceEntry."""
    objects = [_origination(name, host)] if host.tls == "originate" else []
    if host.through == "gateway":
        objects += [_gateway(name, host, egress.gateway), _virtual_service(name, host, egress)]
    return objects


def gateway_objects(egress: Egress) -> list[Manifest]:
    """The gateway's own objects: a subset for each host, the callers, and the access log."""
    hosts = egress.by_gateway
    return [_gateway_rule(egress, hosts), _gateway_policy(egress, hosts), _gateway_log(egress)]


def _origination(name: str, host: EgressHost) -> Manifest:
    """TLS that a proxy originates; it verifies the host's certificate by name and CA."""
    authority = (
        {"credentialName": host.ca_secret} if host.ca_secret else {"caCertificates": _PUBLIC_CAS}
    )
    tls = {"mode": "SIMPLE", "sni": host.host, "subjectAltNames": [host.host], **authority}
    port = {"number": _client_port(host)}
    spec = {
        "host": host.host,
        # Only the proxy that originates TLS may see it; otherwise there would be TLS in TLS.
        "exportTo": ["."] if host.through == "gateway" else host.may_call,
        "trafficPolicy": {"portLevelSettings": [{"port": port, "tls": tls}]},
    }
    return _object("DestinationRule", f"{PREFIX}{name}", spec)


def _gateway(name: str, host: EgressHost, at: str) -> Manifest:
    """The egress gateway's server for one host, selected by the TLS server name."""
    number = _port_in(host)
    protocol = "HTTPS" if number == _HTTP_IN else "TLS"
    server = {
        "port": {"number": number, "name": f"{protocol.lower()}-{name}", "protocol": protocol},
        "hosts": [host.host],
        "tls": {"mode": "ISTIO_MUTUAL"},
    }
    return _object("Gateway", f"{PREFIX}{name}", {"selector": selector(at), "servers": [server]})


def _virtual_service(name: str, host: EgressHost, egress: Egress) -> Manifest:
    """The host's route from the client's proxy to the gateway, and from there to the host."""
    spec: Manifest = {"hosts": [host.host], "exportTo": _exported(host)}
    outside = _route(host.host, _client_port(host))
    number = _port_in(host)
    door = f"{ROOT_NAMESPACE}/{PREFIX}{name}"
    to_gateway = _route(_service(egress.gateway), number, subset=name)
    at_client: Manifest = {"gateways": ["mesh"], "port": _client_port(host)}
    at_gateway: Manifest = {"gateways": [door], "port": number}
    spec["gateways"] = ["mesh", door]
    if number == _HTTP_IN:
        spec["http"] = [
            {"match": [at_client], "route": to_gateway},
            {"match": [at_gateway], "route": outside},
        ]
    else:
        spec["tls"] = [{"match": [{**at_client, "sniHosts": [host.host]}], "route": to_gateway}]
        spec["tcp"] = [{"match": [at_gateway], "route": outside}]
    return _object("VirtualService", f"{PREFIX}{name}", spec)


def _gateway_rule(egress: Egress, hosts: Mapping[str, EgressHost]) -> Manifest:
    spec = {
        "host": _service(egress.gateway),
        "exportTo": sorted({namespace for host in hosts.values() for namespace in host.may_call}),
        "subsets": [
            {
                "name": name,
                "trafficPolicy": {"tls": {"mode": "ISTIO_MUTUAL", "sni": host.host}},
            }
            for name, host in hosts.items()
        ],
    }
    return _object("DestinationRule", _ALL_HOSTS, spec)


def _gateway_policy(egress: Egress, hosts: Mapping[str, EgressHost]) -> Manifest:
    # A pod could bypass its proxy's routes and connect to the gateway directly.
    spec = {
        "selector": {"matchLabels": selector(egress.gateway)},
        "action": "ALLOW",
        "rules": [
            {
                "from": [{"source": {"namespaces": host.may_call}}],
                "when": [{"key": "connection.sni", "values": [host.host]}],
            }
            for host in hosts.values()
        ],
    }
    return {
        **_object("AuthorizationPolicy", _ALL_HOSTS, spec),
        "apiVersion": "security.istio.io/v1beta1",
    }


def _gateway_log(egress: Egress) -> Manifest:
    spec = {
        "selector": {"matchLabels": selector(egress.gateway)},
        "accessLogging": [{"providers": [{"name": "envoy"}]}],
    }
    return {
        **_object("Telemetry", _ALL_HOSTS, spec),
        "apiVersion": "telemetry.istio.io/v1alpha1",
    }


def _ports(host: EgressHost) -> list[Manifest]:
    if host.tls == "originate":
        # Clients must not use the host's own port: their TLS would bypass the gateway.
        plain = {"number": _PLAIN_PORT, "name": f"http-{_PLAIN_PORT}", "protocol": "HTTP"}
        return [{**plain, "targetPort": host.ports[0].number}]
    return [
        {
            "number": port.number,
            "name": f"{port.protocol.lower()}-{port.number}",
            "protocol": port.protocol,
        }
        for port in host.ports
    ]


def _exported(host: EgressHost) -> list[str]:
    # The gateway in this namespace needs the host, too.
    return [*host.may_call, *(["."] if host.through == "gateway" else [])]


def _port_in(host: EgressHost) -> int:
    """The gateway's port for a host: it routes HTTP, and passes TLS through."""
    reads = host.tls == "originate" or host.ports[0].protocol == "HTTP"
    return _HTTP_IN if reads else _TLS_IN


def _client_port(host: EgressHost) -> int:
    return _PLAIN_PORT if host.tls == "originate" else host.ports[0].number


def _route(host: str, port: int, **more: str) -> list[Manifest]:
    return [{"destination": {"host": host, **more, "port": {"number": port}}}]


def _service(gateway: str) -> str:
    return f"{gateway}.{ROOT_NAMESPACE}.svc.cluster.local"


def _object(kind: str, name: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": _NETWORKING,
        "kind": kind,
        "metadata": {"name": name, "namespace": ROOT_NAMESPACE},
        "spec": spec,
    }
