"""Addresses and networks."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

NOT_FOR_HOSTS = tuple(
    ipaddress.IPv4Network(network)
    for network in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
)
"""Networks that no machine, pod or service can be reached in: this host, links, multicast."""

_IPV4 = r"(\d{1,3}\.){3}\d{1,3}"
_NETWORK = rf"{_IPV4}/([0-9]|[12]\d|3[0-2])"


@shaped(text(_IPV4))
def _ipv4(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise Refused(
            "ipv4-format",
            f"{value!r} is not an IP address",
            "SSH and the other nodes connect to the node at this address; a name could "
            "later point to another machine",
            "use the node's IPv4 address, for example 192.0.2.11",
        ) from None
    if address.version == 6:
        raise Refused(
            "ipv4-version",
            f"{value} is an IPv6 address",
            "pods and services use IPv4, so the nodes must too",
            "use the node's IPv4 address",
        )
    if any(address in network for network in NOT_FOR_HOSTS):
        raise Refused(
            "ipv4-not-a-host",
            f"{value} is not the address of a machine",
            "other machines cannot reach it: it is for one host, one link or a group of hosts",
            "use the address that the machine has on the network that it shares with the nodes",
        )
    return str(address)


def _network(example: str, *, of_hosts: bool = False) -> AfterValidator:
    """Accept networks. of_hosts: whether machines, pods or services have addresses in it."""

    def check(value: str) -> str:
        if "/" not in value and (of_hosts or re.fullmatch(_IPV4, value)):
            raise _without_length(value, example, of_hosts=of_hosts)
        try:
            network = ipaddress.ip_network(value, strict=False)
        except ValueError:
            raise Refused(
                "network-format",
                f"{value!r} is not a network",
                "a network is an IPv4 address and its prefix length, from 0 to 32",
                f"use a network such as {example}",
            ) from None
        if network.version == 6:
            raise Refused(
                "network-version",
                f"{value} is an IPv6 network",
                "pods, services and container nodes use IPv4",
                f"use an IPv4 network, for example {example}",
            )
        if value.split("/")[0] != str(network.network_address):
            raise Refused(
                "network-host-bits",
                f"{value} has bits set after its prefix of {network.prefixlen} bits",
                "it could mean an address or a network, and Kubernetes refuses it",
                f"use {network}",
            )
        for reserved in NOT_FOR_HOSTS if of_hosts else ():
            if network.overlaps(reserved):
                raise Refused(
                    "network-not-for-hosts",
                    f"{value} overlaps {reserved}, which is reserved",
                    "machines do not route loopback, link-local and multicast addresses, so "
                    "nothing in this network could be reached",
                    f"use a private network, for example {example}",
                )
        return str(network)

    return AfterValidator(shaped(text(_NETWORK))(check))


def _without_length(value: str, example: str, *, of_hosts: bool) -> Refused:
    if of_hosts:
        return Refused(
            "network-size-missing",
            f"{value!r} has no prefix length",
            "a network is an address and its prefix length, which is how many machines or pods "
            "fit in",
            f"use a network such as {example}",
        )
    # Not /24 for every address: one that does not end in .0 would have host bits set.
    length = "24 or the length that fits" if value.endswith(".0") else "32 for it alone"
    return Refused(
        "network-prefix-length",
        f"{value!r} has no prefix length",
        "a network is an address and its prefix length",
        f"use {value}/{length}",
    )


def _subnet(value: str) -> str:
    if ipaddress.ip_network(value).prefixlen > 29:
        raise Refused(
            "subnet-size",
            f"{value} is too small",
            "besides the nodes, it must hold the network, gateway and broadcast addresses",
            "use a /29 or larger, for example 10.66.0.0/24",
        )
    return value


def _service_network(value: str) -> str:
    length = ipaddress.ip_network(value).prefixlen
    if not 12 <= length <= 28:
        raise Refused(
            "service-network-size",
            f"{value} has {32 - length} bits for service addresses",
            "the API server accepts at most 20 bits, and kubeadm needs at least ten addresses",
            "use a network from /12 to /28, for example 10.96.0.0/12",
        )
    return value


def _pod_network(value: str) -> str:
    if ipaddress.ip_network(value).prefixlen > 24:
        raise Refused(
            "pod-network-minimum",
            f"{value} is too small for even one node",
            "Kubernetes gives each node a /24 of the pod network",
            "use a /24 or larger, for example 10.244.0.0/16",
        )
    return value


Ipv4 = Annotated[str, AfterValidator(_ipv4)]
Network = Annotated[str, _network("192.0.2.0/24")]
Subnet = Annotated[str, _network("10.66.0.0/24", of_hosts=True), AfterValidator(_subnet)]
ServiceNetwork = Annotated[
    str, _network("10.96.0.0/12", of_hosts=True), AfterValidator(_service_network)
]
PodNetwork = Annotated[str, _network("10.244.0.0/16", of_hosts=True), AfterValidator(_pod_network)]
