"""NetworkPolicies: who may call whom and which hosts outside, for pods without a sidecar too.

They say what the AuthorizationPolicies, Sidecars and ServiceEntries of the mesh say, in terms of
namespaces, labels and addresses. A NetworkPolicy knows no service account, method, path or host
name.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from components.manifests import Manifest
from components.manifests.sidecar import may_call
from config import (
    ROOT_NAMESPACE,
    Caller,
    EgressHost,
    Mesh,
    Service,
    account,
    entry_of,
    ports,
    selector,
)
from config.observability import MONITORING_NAMESPACE

_API = "networking.k8s.io/v1"
_NAME_LABEL = "kubernetes.io/metadata.name"  # the API server sets it on every namespace
_ANY_POD: Manifest = {"namespaceSelector": {}}
_DNS: Manifest = {
    "namespaceSelector": {"matchLabels": {_NAME_LABEL: "kube-system"}},
    "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
}
_ANYWHERE = "0.0.0.0/0"
_LINK_LOCAL = "169.254.0.0/16"  # the metadata service of a provider's machines

EGRESS = "egress"
"""The name of the policy of what the pods of a namespace may call."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """The cluster's addresses. api_servers: the control planes', as pods reach them."""

    pod_cidr: str
    service_cidr: str
    api_servers: Sequence[str]


def callers(name: str, services: Mapping[str, Service]) -> Manifest:
    """The declared callers of a service's pods; with an empty list, no pod may call them.

    A caller that is a service is its pods; one that is a service account is every pod of its
    namespace. The node's own probes need no rule. A proxy's statistics stay open: the API server
    reads them for the gates, from an address that no policy can name.
    """
    service = services[name]
    rules = [_rule(caller, service, services) for caller in service.callers or []]
    stats: Manifest = {"ports": [_tcp(ports.PROXY_STATS)]}
    scraped = {
        "from": [_namespace(MONITORING_NAMESPACE)],
        "ports": [_tcp(ports.AGENT_STATS)],
    }
    return _policy(
        f"{service.kubernetes_name(name)}-callers",
        service.namespace,
        pods=service.pod_labels(name),
        ingress=[*rules, stats, scraped],
    )


def egress(mesh: Mesh, networks: Networks) -> list[Manifest]:
    """What the pods of each namespace of the mesh, and of Istio's, may call."""
    namespaces = [
        _policy(
            EGRESS,
            name,
            egress=[
                {"to": _inside(name, mesh)},
                *_common(networks),
                *_outside(_direct(mesh, name), networks),
            ],
        )
        for name in mesh.namespaces
    ]
    # istiod fetches the keys of tokens itself, whatever way the entry names.
    for_istiod = [host for host in mesh.egress.hosts.values() if ROOT_NAMESPACE in host.namespaces]
    istio = _policy(
        EGRESS,
        ROOT_NAMESPACE,
        egress=[{"to": [_ANY_POD]}, *_common(networks), *_outside(for_istiod, networks)],
    )
    return [*namespaces, istio, *_gateway(mesh, networks)]


def monitoring(mesh: Mesh, networks: Networks) -> Manifest:
    """What the pods of the namespace monitoring may call.

    The ports that Prometheus scrapes on nodes may be any address's, so that a new node changes
    nothing here.
    """
    hosts = [x for x in mesh.egress.hosts.values() if MONITORING_NAMESPACE in x.namespaces]
    scraped: Manifest = {"ports": [_tcp(port) for port in (ports.KUBELET, ports.ETCD_METRICS)]}
    return _policy(
        EGRESS,
        MONITORING_NAMESPACE,
        egress=[{"to": [_ANY_POD]}, *_common(networks), scraped, *_outside(hosts, networks)],
    )


def _gateway(mesh: Mesh, networks: Networks) -> Iterator[Manifest]:
    hosts = mesh.egress.by_gateway
    if hosts:
        yield _policy(
            f"{EGRESS}-gateway",
            ROOT_NAMESPACE,
            pods=selector(mesh.egress.gateway),
            egress=_outside(list(hosts.values()), networks),
        )


def _rule(caller: Caller, service: Service, services: Mapping[str, Service]) -> Manifest:
    namespace, _ = account(caller, services)
    peer = _namespace(namespace)
    if caller.service is not None:
        called = str(entry_of(caller.service, services))
        peer |= {"podSelector": {"matchLabels": services[called].pod_labels(called)}}
    elif caller.gateway is not None:
        peer |= {"podSelector": {"matchLabels": selector(caller.gateway)}}
    numbers = [service.ports[port] if isinstance(port, str) else port for port in caller.ports]
    # The mesh's callers speak TCP. The pods' own ports are known only where the caller lists them.
    return {"from": [peer], "ports": [_tcp(number) for number in numbers] or [{"protocol": "TCP"}]}


def _inside(namespace: str, mesh: Mesh) -> list[Manifest]:
    """The pods of the cluster that a namespace may call: all, or with limitView those it names."""
    settings = mesh.namespaces[namespace]
    if not settings.limit_view:
        return [_ANY_POD]
    peers = [_namespace(namespace), _namespace(ROOT_NAMESPACE), _DNS]
    peers += [
        _namespace(service.namespace) | {"podSelector": {"matchLabels": service.pod_labels(name)}}
        for name, service in sorted(mesh.services.items())
        if service.namespace != namespace and may_call(namespace, name, mesh)
    ]
    others = {reference.partition("/")[0] for reference in settings.calls} - {namespace}
    return [*peers, *(_namespace(other) for other in sorted(others))]


def _common(networks: Networks) -> list[Manifest]:
    """What every pod may call: the API server, as its Service leads there."""
    servers = [_block(f"{address}/32") for address in networks.api_servers]
    return [{"to": servers, "ports": [_tcp(ports.API)]}]


def _direct(mesh: Mesh, namespace: str) -> list[EgressHost]:
    """The hosts that pods of a namespace call themselves."""
    return [
        host
        for host in mesh.egress.hosts.values()
        if host.through == "direct" and namespace in host.namespaces
    ]


def _outside(hosts: Sequence[EgressHost], networks: Networks) -> list[Manifest]:
    """Hosts outside, by their addresses; without addresses, their ports of any address outside."""
    inside = [networks.pod_cidr, networks.service_cidr, _LINK_LOCAL]
    anywhere = {"ipBlock": {"cidr": _ANYWHERE, "except": inside}}
    return [
        {
            "to": [_block(f"{address}/32") for address in host.addresses] or [anywhere],
            "ports": [_tcp(port.number) for port in host.ports],
        }
        for host in hosts
    ]


def _namespace(name: str) -> Manifest:
    return {"namespaceSelector": {"matchLabels": {_NAME_LABEL: name}}}


def _block(cidr: str) -> Manifest:
    return {"ipBlock": {"cidr": cidr}}


def _tcp(number: int) -> Manifest:
    return {"protocol": "TCP", "port": number}


def _policy(
    name: str,
    namespace: str,
    *,
    pods: Mapping[str, str] | None = None,
    ingress: list[Manifest] | None = None,
    egress: list[Manifest] | None = None,
) -> Manifest:
    """A policy of the namespace's pods with these labels, by default of all of them."""
    spec: Manifest = {"podSelector": {"matchLabels": dict(pods)} if pods else {}}
    if ingress is not None:
        spec |= {"policyTypes": ["Ingress"], "ingress": ingress}
    if egress is not None:
        spec |= {"policyTypes": ["Egress"], "egress": egress}
    return {
        "apiVersion": _API,
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
