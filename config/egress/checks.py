"""Checks of the egress allow-list: each host can be called as listed, and only listed hosts can."""

import ipaddress
from collections.abc import Iterator

from config import ROOT_NAMESPACE, EgressHost
from config.errors import KeyPath, Problem, nearest
from config.mesh.checks import check_injected
from config.observability import MONITORING_NAMESPACE
from config.scalars.http import covers
from config.sections import Sections
from config.services.hosts import cluster_names

_HOSTS = ("mesh", "egress", "hosts")


def _check_outbound_policy(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None or sections.istio.outbound_traffic_policy == "REGISTRY_ONLY":
        return
    # No proxy is between Alertmanager and its hosts, whatever the policy.
    hosts = _hosts(sections).values()
    if all(host.may_call == [MONITORING_NAMESPACE] for host in hosts):
        return
    if sections.mesh is not None and sections.mesh.egress.gate.trial is not None:
        return
    yield Problem(
        code="egress-policy-allows-any",
        path=("istio", "outboundTrafficPolicy"),
        what=f"{sections.istio.outbound_traffic_policy} allows every host, despite the allow-list",
        why="mesh.egress.hosts would look like a control on what leaves the EEA without being one",
        fix="use REGISTRY_ONLY, remove mesh.egress.hosts, or write the reason for a trial at "
        "mesh.egress.gate.trial",
        about=(_HOSTS, ("mesh", "egress", "gate")),
    )


def _check_gateway(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None or sections.mesh is None:
        return
    egress, known = sections.mesh.egress, sorted(sections.istio.egress_gateways)
    if egress.gateway not in known and egress.by_gateway:
        passing = ", ".join(host.host for host in egress.by_gateway.values())
        guess = nearest(egress.gateway, known)
        yield Problem(
            code="egress-gateway-unknown",
            path=("mesh", "egress", "gateway"),
            what=f"there is no gateway {egress.gateway} in istio.egressGateways",
            why=f"calls to {passing} go through it and would get 503",
            fix=f"use {guess}"
            if guess
            else f"add {egress.gateway}: {{}} to istio.egressGateways, or set through: direct",
            about=(("istio", "egressGateways"),),
        )
    elif egress.by_gateway:
        ports = {port.port for port in sections.istio.egress_gateways[egress.gateway].ports}
        missing = " and ".join(map(str, sorted({80, 443} - ports)))
        if missing:
            yield Problem(
                code="egress-gateway-ports",
                path=("mesh", "egress", "gateway"),
                what=f"the gateway {egress.gateway} has no port {missing}",
                why="clients' proxies send it HTTP on port 80 and TLS on port 443",
                fix=f"add both to istio.egressGateways.{egress.gateway}.ports, or remove "
                "ports, which means these two",
                about=(("istio", "egressGateways", egress.gateway, "ports"),),
            )


def _check_services(sections: Sections) -> Iterator[Problem]:
    services = sections.mesh.services if sections.mesh is not None else {}
    names = {name: key for key, x in services.items() for name in cluster_names(key, x)}
    for name, host in _hosts(sections).items():
        owner = next((names[x] for x in names if x == host.host or covers(host.host, x)), None)
        if owner is not None:
            yield Problem(
                code="egress-host-of-service",
                path=(*_HOSTS, name, "host"),
                what=f"{host.host} is a name of mesh.services.{owner}",
                why="its requests would leave the mesh, without mTLS, and find nobody",
                fix="remove the entry; callers of a service in the mesh are set at "
                f"mesh.services.{owner}.callers",
                about=(("mesh", "services", owner),),
            )


def _check_same_host(sections: Sections) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, host in _hosts(sections).items():
        owner = owners.setdefault(host.host, name)
        if owner != name:
            yield Problem(
                code="egress-host-duplicate",
                path=(*_HOSTS, name, "host"),
                what=f"{host.host} is already listed as {owner}",
                why="it would be undefined which of the two entries applies",
                fix=f"add its ports and namespaces to {owner}, and remove {name}",
                about=((*_HOSTS, owner, "host"),),
            )


def _check_namespaces(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        if not host.namespaces:
            yield Problem(
                code="egress-namespaces-empty",
                path=(*_HOSTS, name, "namespaces"),
                what=f"no namespace may call {host.host}",
                why="the entry would allow nothing, although a reader would think it does",
                fix="list the namespaces that call it, for example [shop], or remove the entry",
            )
        for index, namespace in enumerate(host.namespaces):
            path = (*_HOSTS, name, "namespaces", f"[{index}]")
            if _is_outside_the_mesh(sections, namespace):
                continue
            yield from check_injected(
                path,
                namespace,
                sections.mesh,
                unknown="only proxies of the mesh know the host, so nobody in that "
                "namespace could call it",
                bare="without sidecars its pods can call any host that their node can "
                "reach, on the list or not",
                otherwise=", or remove this entry",
            )


def _check_transfers(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        if not host.in_eea and host.transfer_basis is None:
            yield Problem(
                code="egress-transfer-basis-missing",
                path=(*_HOSTS, name, "transferBasis"),
                what=f"transferBasis is missing: {host.host} is in {host.country}, outside the EEA",
                why="after Schrems II (C-311/18), personal data may leave the EEA only on "
                "a basis from chapter V of the GDPR, and Datatilsynet will ask for it",
                fix="add the basis, for example: standard contractual clauses of 2021, "
                "signed 2026-01-12; or an adequacy decision with its number",
                about=((*_HOSTS, name, "country"),),
            )


def _check_wildcards(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        path = (*_HOSTS, name)
        if not host.is_wildcard:
            if host.wildcard_reason is not None:
                yield Problem(
                    code="egress-wildcard-reason-unneeded",
                    path=(*path, "wildcardReason"),
                    what=f"{host.host} is not a wildcard",
                    why="a reason for something that is not there misleads reviewers",
                    fix="remove it",
                    about=((*path, "host"),),
                )
            continue
        if host.wildcard_reason is None:
            yield Problem(
                code="egress-wildcard-reason-missing",
                path=(*path, "wildcardReason"),
                what=f"wildcardReason is missing: {host.host} allows hosts that nobody has named",
                why="it allows anyone who gets a name below the domain, possibly another "
                "customer of it",
                fix="list the hosts that are called, or add the reason why that is not possible",
                about=((*path, "host"),),
            )
        for key, wrong, why in (
            ("tls", host.tls == "originate", "the proxy would not know which name to verify"),
            (
                "through",
                host.through == "gateway",
                "the gateway would not know which host a request is for",
            ),
            ("addresses", bool(host.addresses), "each name below the domain has its own addresses"),
        ):
            if wrong:
                yield Problem(
                    code="egress-wildcard-conflict",
                    path=(*path, key),
                    what=f"{host.host} is a wildcard, which {key} does not support",
                    why=why,
                    fix={
                        "tls": "set tls: passthrough, or list the hosts one by one",
                        "through": "set through: direct, or list the hosts one by one",
                        "addresses": "remove it, or list the hosts one by one",
                    }[key],
                    about=((*path, "host"),),
                )


def _check_ports(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        path, ports = (*_HOSTS, name, "ports"), host.ports
        numbers = [port.number for port in ports]
        if not ports:
            yield Problem(
                code="egress-ports-empty",
                path=path,
                what=f"no port of {host.host} may be called",
                why="the entry would allow nothing, although a reader would think it does",
                fix="list the ports that are called, or remove ports: the default is 443",
            )
        for index, number in enumerate(numbers):
            if number in numbers[:index]:
                yield Problem(
                    code="egress-port-duplicate",
                    path=(*path, f"[{index}]", "number"),
                    what=f"port {number} is listed twice",
                    why="a port has one protocol",
                    fix="remove one of the two",
                )
        through = (*_HOSTS, name, "through")
        if host.through == "gateway" and any(port.protocol == "TCP" for port in ports):
            yield Problem(
                code="egress-tcp-through-gateway",
                path=through,
                what="TCP cannot go through the egress gateway",
                why="a plain TCP connection does not name a host, which is how the gateway routes",
                fix="set through: direct, or protocol: TLS if the client speaks TLS",
                about=(path,),
            )
        elif host.through == "gateway" and len(ports) > 1:
            yield Problem(
                code="egress-gateway-one-port",
                path=path,
                what=f"{host.host} has {len(ports)} ports, but is called through the gateway",
                why="the gateway routes by host name, not by port",
                fix="keep the port that is called, for example 443, or set through: direct",
                about=(through,),
            )


def _check_origination(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        path = (*_HOSTS, name)
        if (
            host.ports
            and host.tls == "originate"
            and [port.protocol for port in host.ports] != ["HTTPS"]
        ):
            yield Problem(
                code="egress-originate-ports",
                path=(*path, "ports"),
                what="tls: originate needs exactly one port, with protocol HTTPS",
                why="clients speak HTTP on port 80, and the proxy forwards it as HTTPS to "
                "that one port",
                fix="set ports: [{number: 443, protocol: HTTPS}], or tls: passthrough",
                about=((*path, "tls"),),
            )
        if host.ca_secret is not None and (host.tls, host.through) != ("originate", "gateway"):
            yield Problem(
                code="egress-ca-secret-unused",
                path=(*path, "caSecret"),
                what="caSecret is used only by the gateway, and only when it originates TLS",
                why="it would have no effect here, and the public CAs would verify the certificate",
                fix="set tls: originate and through: gateway, or remove caSecret",
                about=((*path, "tls"), (*path, "through")),
            )


def _check_addresses(sections: Sections) -> Iterator[Problem]:
    owners: dict[tuple[str, int], str] = {}
    for name, host in _hosts(sections).items():
        path = (*_HOSTS, name, "addresses")
        tcp = [port.number for port in host.ports if port.protocol == "TCP"]
        if tcp and not host.addresses:
            yield Problem(
                code="egress-addresses-missing",
                path=path,
                what=f"addresses is missing: {host.host} is called over TCP",
                why="a TCP connection does not name a host; without the host's addresses, "
                f"every connection to port {tcp[0]} of any host would be allowed",
                fix="add the host's IPv4 addresses, for example addresses: [192.0.2.50]",
                about=((*_HOSTS, name, "ports"),),
            )
        for index, address in enumerate(host.addresses):
            yield from _check_inside(sections, (*path, f"[{index}]"), address)
            for port in tcp:
                owner = owners.setdefault((address, port), name)
                if owner != name:
                    yield Problem(
                        code="egress-address-duplicate",
                        path=(*path, f"[{index}]"),
                        what=f"{address} with TCP port {port} is already listed as {owner}",
                        why="proxies could not tell the two hosts apart",
                        fix=f"use one entry for both, or the address that {name} has",
                        about=((*_HOSTS, owner, "addresses"),),
                    )


def _check_inside(sections: Sections, path: KeyPath, address: str) -> Iterator[Problem]:
    if sections.kubernetes is None:
        return
    for key, network in (
        ("podCidr", sections.kubernetes.pod_cidr),
        ("serviceCidr", sections.kubernetes.service_cidr),
    ):
        if ipaddress.IPv4Address(address) in ipaddress.IPv4Network(network):
            yield Problem(
                code="egress-address-in-cluster",
                path=path,
                what=f"{address} is inside kubernetes.{key} ({network}), the cluster's own network",
                why="the list is for hosts outside; requests to pods and services stay in "
                "the mesh, with mTLS",
                fix="use the address that the host has outside the cluster, or remove it",
                about=(("kubernetes", key),),
            )


def _is_outside_the_mesh(sections: Sections, namespace: str) -> bool:
    """Whether it has a caller without a sidecar: istiod for the keys of tokens, or Alertmanager."""
    observability = sections.observability
    sends_alerts = observability is not None and observability.alertmanager.enabled
    return namespace == ROOT_NAMESPACE or (sends_alerts and namespace == MONITORING_NAMESPACE)


def _hosts(sections: Sections) -> dict[str, EgressHost]:
    return sections.mesh.egress.hosts if sections.mesh else {}


CHECKS = (
    _check_outbound_policy,
    _check_gateway,
    _check_services,
    _check_same_host,
    _check_namespaces,
    _check_transfers,
    _check_wildcards,
    _check_ports,
    _check_origination,
    _check_addresses,
)
