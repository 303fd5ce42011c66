"""Checks of the egress allow-list: that each host can be called as written, and is the only way."""

import ipaddress
from collections.abc import Iterator

from config import EgressHost
from config.errors import KeyPath, Problem, nearest
from config.mesh.checks import check_injected
from config.sections import Sections

_HOSTS = ("mesh", "egress", "hosts")


def _check_outbound_policy(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None or not _hosts(sections):
        return
    if sections.istio.outbound_traffic_policy != "REGISTRY_ONLY":
        yield Problem(
            path=("istio", "outboundTrafficPolicy"),
            what=f"{sections.istio.outbound_traffic_policy} lets every host through, beside an "
            "allow-list",
            why="mesh.egress.hosts would look like a control of what leaves the EEA and be none",
            fix="write REGISTRY_ONLY, or remove mesh.egress.hosts",
            about=(_HOSTS,),
        )


def _check_gateway(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None or sections.mesh is None:
        return
    egress, known = sections.mesh.egress, sorted(sections.istio.egress_gateways)
    if egress.gateway not in known and egress.by_gateway:
        passing = ", ".join(host.host for host in egress.by_gateway.values())
        guess = nearest(egress.gateway, known)
        yield Problem(
            path=("mesh", "egress", "gateway"),
            what=f"there is no gateway {egress.gateway} in istio.egressGateways",
            why=f"{passing} would be called through it, and answered with 503",
            fix=f"write {guess}"
            if guess
            else f"add {egress.gateway}: {{}} to istio.egressGateways, or write through: direct",
            about=(("istio", "egressGateways"),),
        )
    elif egress.by_gateway:
        ports = {port.port for port in sections.istio.egress_gateways[egress.gateway].ports}
        missing = " and ".join(map(str, sorted({80, 443} - ports)))
        if missing:
            yield Problem(
                path=("mesh", "egress", "gateway"),
                what=f"the gateway {egress.gateway} has no port {missing}",
                why="the clients' proxies send it HTTP on port 80 and TLS on port 443",
                fix=f"write both at istio.egressGateways.{egress.gateway}.ports, or no ports "
                "there, which means these two",
                about=(("istio", "egressGateways", egress.gateway, "ports"),),
            )


def _check_same_host(sections: Sections) -> Iterator[Problem]:
    owners: dict[str, str] = {}
    for name, host in _hosts(sections).items():
        owner = owners.setdefault(host.host, name)
        if owner != name:
            yield Problem(
                path=(*_HOSTS, name, "host"),
                what=f"{host.host} is on the list already, as {owner}",
                why="which of the two decides would be left to chance",
                fix=f"write its ports and namespaces at {owner}, and remove {name}",
                about=((*_HOSTS, owner, "host"),),
            )


def _check_namespaces(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        if not host.namespaces:
            yield Problem(
                path=(*_HOSTS, name, "namespaces"),
                what=f"no namespace may call {host.host}",
                why="the entry would allow nothing, and a reader would think that it does",
                fix="write the namespaces that call it, such as [shop], or remove the entry",
            )
        for index, namespace in enumerate(host.namespaces):
            path = (*_HOSTS, name, "namespaces", f"[{index}]")
            yield from check_injected(
                path,
                namespace,
                sections.mesh,
                unknown="only proxies of the mesh know the host, so nobody there could call it",
                bare="without sidecars its pods call any host that their node can reach, on the "
                "list or not",
                otherwise=", or remove it here",
            )


def _check_transfers(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        if not host.in_eea and host.transfer_basis is None:
            yield Problem(
                path=(*_HOSTS, name, "transferBasis"),
                what=f"transferBasis is missing: {host.host} is in {host.country}, outside the EEA",
                why="after Schrems II (C-311/18) personal data may leave the EEA only on a basis "
                "of chapter V of the GDPR, and Datatilsynet will ask for it",
                fix="write such as: standard contractual clauses of 2021, signed 2026-01-12; "
                "or an adequacy decision with its number",
                about=((*_HOSTS, name, "country"),),
            )


def _check_wildcards(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        path = (*_HOSTS, name)
        if not host.is_wildcard:
            if host.wildcard_reason is not None:
                yield Problem(
                    path=(*path, "wildcardReason"),
                    what=f"{host.host} is no wildcard",
                    why="a reason for what is not there misleads whoever reviews the list",
                    fix="remove it",
                    about=((*path, "host"),),
                )
            continue
        if host.wildcard_reason is None:
            yield Problem(
                path=(*path, "wildcardReason"),
                what=f"wildcardReason is missing: {host.host} allows hosts that nobody has named",
                why="whoever gets a name below the domain, a customer of it perhaps, is allowed",
                fix="write the hosts that are called, or why that cannot be done",
                about=((*path, "host"),),
            )
        for key, wrong, why in (
            ("tls", host.tls == "originate", "the proxy could not know which name to verify"),
            ("through", host.through == "gateway", "the gateway would not know which is meant"),
            ("addresses", bool(host.addresses), "each name below the domain has its own"),
        ):
            if wrong:
                yield Problem(
                    path=(*path, key),
                    what=f"{host.host} is a wildcard, and {key} does not go with it",
                    why=why,
                    fix={
                        "tls": "write tls: passthrough, or the hosts one by one",
                        "through": "write through: direct, or the hosts one by one",
                        "addresses": "remove it, or write the hosts one by one",
                    }[key],
                    about=((*path, "host"),),
                )


def _check_ports(sections: Sections) -> Iterator[Problem]:
    for name, host in _hosts(sections).items():
        path, ports = (*_HOSTS, name, "ports"), host.ports
        numbers = [port.number for port in ports]
        if not ports:
            yield Problem(
                path=path,
                what=f"no port of {host.host} may be called",
                why="the entry would allow nothing, and a reader would think that it does",
                fix="write the ports that are called, or remove ports: the default is 443",
            )
        for index, number in enumerate(numbers):
            if number in numbers[:index]:
                yield Problem(
                    path=(*path, f"[{index}]", "number"),
                    what=f"port {number} is there already",
                    why="a port has one protocol",
                    fix="remove one of the two",
                )
        through = (*_HOSTS, name, "through")
        if host.through == "gateway" and any(port.protocol == "TCP" for port in ports):
            yield Problem(
                path=through,
                what="TCP cannot go through the egress gateway",
                why="a plain TCP connection has no host name in it, and the gateway tells hosts "
                "apart by that",
                fix="write through: direct, or protocol: TLS if the client speaks TLS",
                about=(path,),
            )
        elif host.through == "gateway" and len(ports) > 1:
            yield Problem(
                path=path,
                what=f"{host.host} has {len(ports)} ports and is called through the gateway",
                why="the gateway tells hosts apart by their name, and not their ports",
                fix="leave the one that is called, such as 443, or write through: direct",
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
                path=(*path, "ports"),
                what="tls: originate takes one port with HTTPS, and this is something else",
                why="clients speak HTTP on port 80, and the proxy makes HTTPS to that port of it",
                fix="write ports: [{number: 443, protocol: HTTPS}], or tls: passthrough",
                about=((*path, "tls"),),
            )
        if host.ca_secret is not None and (host.tls, host.through) != ("originate", "gateway"):
            yield Problem(
                path=(*path, "caSecret"),
                what="caSecret is used by the gateway alone, when it makes the TLS",
                why="here it would be without effect, and the certificate be verified by others",
                fix="write tls: originate and through: gateway, or remove caSecret",
                about=((*path, "tls"), (*path, "through")),
            )


def _check_addresses(sections: Sections) -> Iterator[Problem]:
    owners: dict[tuple[str, int], str] = {}
    for name, host in _hosts(sections).items():
        path = (*_HOSTS, name, "addresses")
        tcp = [port.number for port in host.ports if port.protocol == "TCP"]
        if tcp and not host.addresses:
            yield Problem(
                path=path,
                what=f"addresses is missing: {host.host} is called over TCP",
                why="a TCP connection has no host name in it; without the host's addresses, every "
                f"connection to port {tcp[0]} of any host would be let through",
                fix="write the host's IPv4 addresses, such as addresses: [192.0.2.50]",
                about=((*_HOSTS, name, "ports"),),
            )
        for index, address in enumerate(host.addresses):
            yield from _check_inside(sections, (*path, f"[{index}]"), address)
            for port in tcp:
                owner = owners.setdefault((address, port), name)
                if owner != name:
                    yield Problem(
                        path=(*path, f"[{index}]"),
                        what=f"{address} with TCP port {port} is {owner} already",
                        why="the proxies could not tell the two hosts apart",
                        fix=f"write one entry for both, or the address that {name} has",
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
                path=path,
                what=f"{address} lies in kubernetes.{key} ({network}), inside the cluster",
                why="the list is for hosts outside; requests to pods and services stay in the "
                "mesh, with mTLS",
                fix="write the address that the host has outside the cluster, or remove it",
                about=(("kubernetes", key),),
            )


def _hosts(sections: Sections) -> dict[str, EgressHost]:
    return sections.mesh.egress.hosts if sections.mesh else {}


CHECKS = (
    _check_outbound_policy,
    _check_gateway,
    _check_same_host,
    _check_namespaces,
    _check_transfers,
    _check_wildcards,
    _check_ports,
    _check_origination,
    _check_addresses,
)
