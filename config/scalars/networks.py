"""Addresses and networks."""

import ipaddress
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

_IPV4 = r"(\d{1,3}\.){3}\d{1,3}"
_NETWORK = rf"{_IPV4}/([0-9]|[12]\d|3[0-2])"


@shaped(text(_IPV4))
def _ipv4(value: str) -> str:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        raise Refused(
            f"{value!r} is not an IP address",
            "SSH and the other nodes reach the node at this address; a name could come to mean "
            "another machine",
            "write the node's IPv4 address, such as 192.0.2.11",
        ) from None
    if address.version == 6:
        raise Refused(
            f"{value} is an IPv6 address",
            "pods and services have IPv4 addresses here, and so must the nodes between them",
            "write the node's IPv4 address",
        )
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        raise Refused(
            f"{value} is not an address of a machine",
            "the other nodes could not reach the node there",
            "write the address that the node has on the network it shares with the other nodes",
        )
    return str(address)


@shaped(text(_NETWORK))
def _network(value: str) -> str:
    if "/" not in value:
        # Not /24 for any: of an address that ends in another number it would have bits set behind.
        length = "24 or the length that fits" if value.endswith(".0") else "32 for it alone"
        raise Refused(
            f"{value!r} has no prefix length",
            "a network is an address and the number of its fixed bits",
            f"write {value}/{length}" if value else "write such as 10.244.0.0/16",
        )
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise Refused(
            f"{value!r} is not a network",
            "a network is an IPv4 address and the number of its fixed bits, from 0 to 32",
            "write such as 10.244.0.0/16",
        ) from None
    if network.version == 6:
        raise Refused(
            f"{value} is an IPv6 network",
            "pods, services and container nodes have IPv4 addresses here",
            "write an IPv4 network, such as 10.244.0.0/16",
        )
    if value.split("/")[0] != str(network.network_address):
        raise Refused(
            f"{value} has bits set behind its prefix of {network.prefixlen} bits",
            "it is not clear whether an address or a network is meant, and Kubernetes refuses it",
            f"write {network}",
        )
    return str(network)


def _subnet(value: str) -> str:
    if ipaddress.ip_network(value).prefixlen > 29:
        raise Refused(
            f"{value} is too small",
            "besides the nodes it holds the network, gateway and broadcast addresses",
            "write a /29 or larger, such as 10.66.0.0/24",
        )
    return value


def _service_network(value: str) -> str:
    length = ipaddress.ip_network(value).prefixlen
    if not 12 <= length <= 28:
        raise Refused(
            f"{value} has {32 - length} bits for service addresses",
            "the API server takes at most 20 of them, and kubeadm needs at least ten addresses",
            "write a network from /12 to /28, such as 10.96.0.0/12",
        )
    return value


def _pod_network(value: str) -> str:
    if ipaddress.ip_network(value).prefixlen > 24:
        raise Refused(
            f"{value} is smaller than what one node takes",
            "Kubernetes gives each node a /24 of the pods' network",
            "write a /24 or larger, such as 10.244.0.0/16",
        )
    return value


Ipv4 = Annotated[str, AfterValidator(_ipv4)]
Network = Annotated[str, AfterValidator(_network)]
Subnet = Annotated[Network, AfterValidator(_subnet)]
ServiceNetwork = Annotated[Network, AfterValidator(_service_network)]
PodNetwork = Annotated[Network, AfterValidator(_pod_network)]
