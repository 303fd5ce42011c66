"""Scalar types of the stack file; each refuses a wrong value with what, why and the remedy."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

SYSTEM_NAMESPACES = ("default", "istio-system", "kube-node-lease", "kube-public", "kube-system")


class Refused(ValueError):
    """A value that the stack file may not hold: what is wrong, why it matters, what to write.

    Pydantic carries it to stacks.faults, which makes a problem with a path of it.
    """

    def __init__(self, what: str, why: str, instead: str) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.instead = instead


# --- names ---------------------------------------------------------------------------------------

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SERVICE_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def as_label(value: str) -> str:
    """The nearest DNS label of a name, to propose one; `x` where nothing is left of it."""
    label = re.sub(r"[^a-z0-9]+", "-", value.lower())[:63].strip("-")
    return label or "x"


def _label(value: str) -> str:
    if _LABEL.fullmatch(value):
        return value
    raise Refused(
        f"{value!r} is not a DNS label",
        "the name becomes a host name or a Kubernetes name: at most 63 lower-case letters, digits "
        "and hyphens, with no hyphen at either end",
        f"write {as_label(value)}",
    )


def _service_label(value: str) -> str:
    if _SERVICE_LABEL.fullmatch(value):
        return value
    proposal = as_label(value)
    if not proposal[0].isalpha():
        proposal = as_label(f"svc-{proposal}")
    raise Refused(
        f"{value!r} is not a name that a Kubernetes Service may have",
        "a Service's name is a DNS label that begins with a letter; the API server refuses others",
        f"write {proposal}",
    )


def _dns_name(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        raise Refused(
            f"{value} is an address, not a DNS name",
            "the name is written into the API server's certificate; a stable name lets "
            "control-plane nodes be added or moved without new certificates",
            "write a name such as api.prod.example.internal; the nodes resolve it by themselves",
        )
    host, colon, port = value.partition(":")
    if colon and port.isdigit():
        raise Refused(
            f"{value!r} has a port in it",
            "the API server always listens on 6443, which is added to the name",
            f"write {host}",
        )
    if len(value) <= 253 and all(_LABEL.fullmatch(part) for part in value.split(".")):
        return value
    raise Refused(
        f"{value!r} is not a DNS name",
        "the nodes and the API server's certificate need lower-case labels joined by dots",
        "write a name such as api.prod.example.internal",
    )


def _interface(value: str) -> str:
    # IFNAMSIZ in linux/if.h is 16, with the terminating zero.
    if len(value) > 15:
        raise Refused(
            f"the bridge's name {value!r} has {len(value)} characters",
            "Linux refuses interface names over 15 characters",
            f"write {value[:15].rstrip('-_.')}",
        )
    if re.fullmatch(r"[a-z][a-z0-9._-]*", value):
        return value
    raise Refused(
        f"{value!r} is not a name for a bridge",
        "the name is used for an interface and for directories: lower-case letters, digits, "
        "'.', '_' and '-', beginning with a letter",
        "write nordmesh0",
    )


def _user(value: str) -> str:
    if re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", value):
        return value
    raise Refused(
        f"{value!r} is not a Linux user name",
        "SSH logs in as this user",
        "write the user that your provider's image has, such as root or debian",
    )


# --- numbers -------------------------------------------------------------------------------------


def _whole(what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, str) and re.fullmatch(r"-?\d+", value.strip()):
            return int(value)
        # bool is an int in Python: `weight: true` would otherwise be 1.
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise Refused(f"{value!r} is not a whole number", *_whole_advice(what))

    return check


def _whole_advice(what: str) -> tuple[str, str]:
    return {
        "weight": (
            "a weight is the share of requests in percent that the canary gets; Istio takes whole "
            "numbers only",
            "write a whole number from 0 to 100, such as 10",
        ),
        "port": ("a port is a whole number", "write a whole number from 1 to 65535"),
        "concurrency": (
            "it is the number of Envoy's worker threads",
            "write a whole number, such as 2; 0 means one for each core of the proxy's CPU limit",
        ),
        "replicas": ("it is a number of pods", "write a whole number from 1, such as 2"),
        "utilisation": (
            "it is a share of the CPU request in percent",
            "write a whole number from 1 to 100, such as 80",
        ),
        "count": ("it is a number of pods", "write a whole number, such as 10"),
    }[what]


def _weight(value: int) -> int:
    if 0 <= value <= 100:
        return value
    raise Refused(
        f"{value} is not a share in percent",
        "the canary gets this many of 100 requests and the stable subset gets the rest; Istio "
        "refuses a route whose weights do not sum to 100",
        "write a number from 0 (no request reaches the canary) to 100",
    )


def _port(value: int) -> int:
    if 1 <= value <= 65535:
        return value
    raise Refused(f"{value} is not a port", "ports go from 1 to 65535", "write the port in use")


def _concurrency(value: int) -> int:
    if value >= 0:
        return value
    raise Refused(
        f"{value} is below 0",
        "it is the number of Envoy's worker threads",
        "write 2, or 0 for one for each core of the proxy's CPU limit",
    )


def _replicas(value: int) -> int:
    if value >= 1:
        return value
    raise Refused(
        f"{value} is less than one pod",
        "without a pod nothing is served; and the autoscaler does not start from none",
        "write 1 or more",
    )


def _utilisation(value: int) -> int:
    if 1 <= value <= 100:
        return value
    raise Refused(
        f"{value} is not a share in percent",
        "pods are added when they use more than this share of the CPU that they request",
        "write a number from 1 to 100, such as 80",
    )


def _node_port(value: int) -> int:
    if 30000 <= value <= 32767:
        return value
    raise Refused(
        f"{value} is not a port for a Service of type NodePort",
        "the API server takes these from 30000 to 32767",
        "write a free one of that range, or expose the gateway by HostPort or ExternalIPs, which "
        "take any port",
    )


# --- durations -----------------------------------------------------------------------------------

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+")
_SECONDS = {"ms": Decimal("0.001"), "s": Decimal(1), "m": Decimal(60), "h": Decimal(3600)}


def seconds(duration: str) -> Decimal:
    """The length in seconds of a duration as Go writes it, such as 1h30m or 100ms."""
    if _DURATION.fullmatch(duration) is None:
        raise ValueError(f"not a duration: {duration!r}")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    return sum((Decimal(number) * _SECONDS[unit] for number, unit in parts), Decimal(0))


def _duration(value: str) -> str:
    if _DURATION.fullmatch(value):
        return value
    raise Refused(
        f"{value!r} is not a duration",
        "a number alone could be milliseconds or hours",
        "write a number and its unit: ms, s, m or h, such as 100ms or 24h",
    )


def _count(value: int) -> int:
    if value >= 0:
        return value
    raise Refused(f"{value} is below 0", "it is a number of pods", "write 0 or more")


# --- networks ------------------------------------------------------------------------------------


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


def _network(value: str) -> str:
    if "/" not in value:
        raise Refused(
            f"{value!r} has no prefix length",
            "a network is an address and the number of its fixed bits",
            f"write {value}/24 or the length that fits" if value else "write such as 10.244.0.0/16",
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


# --- Kubernetes quantities -----------------------------------------------------------------------

_QUANTITY = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[mkMGTPE]|[KMGTPE]i|)")
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def quantity(value: str) -> Decimal:
    """The value of a Kubernetes quantity, such as 100m (0.1 cores) or 128Mi (bytes)."""
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(f"not a quantity: {value!r}")
    return Decimal(match["number"]) * _UNITS[match["unit"]]


def _number_as_text(value: Any) -> Any:
    # `cpu: 2` in YAML is a number.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


def _cpu(value: str) -> str:
    match = _QUANTITY.fullmatch(value)
    if match is None or match["unit"] not in ("", "m") or quantity(value) <= 0:
        raise Refused(
            f"{value!r} is not an amount of CPU",
            "CPU is counted in cores (2, 0.5) or in thousandths of a core (500m)",
            "write such as 100m or 2",
        )
    return value


def _memory(value: str) -> str:
    if not _QUANTITY.fullmatch(value) or quantity(value) <= 0:
        raise Refused(
            f"{value!r} is not an amount of memory",
            "memory is counted in bytes, with a unit such as Mi (1024 x 1024 bytes) or Gi",
            "write such as 128Mi",
        )
    if quantity(value) < 1024 * 1024:
        raise Refused(
            f"{value} of memory is less than a mebibyte",
            "a proxy could not start with it; without a unit it is bytes, and m means thousandths",
            f"write {value.rstrip('mkK')}Mi",
        )
    return value


# --- SSH -----------------------------------------------------------------------------------------

# OpenSSH's host key types; DSA is left out, OpenSSH 9.8 dropped it.
_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
_KEY_WHY = "the connection is pinned to this key, so that no other machine can pose as the node"
HOST_KEY_REMEDY = (
    "on the node, over your provider's console, run `cat /etc/ssh/ssh_host_ed25519_key.pub` and "
    "write its first two words"
)


def _host_key(value: str) -> str:
    words = value.split()
    if value.startswith("-----BEGIN"):
        raise Refused("this is a private key", _KEY_WHY, HOST_KEY_REMEDY)
    if len(words) >= 3 and words[0] not in _KEY_TYPES and words[1] in _KEY_TYPES:
        raise Refused(
            "this is a whole line of known_hosts",
            "the key alone is wanted: the address is the node's own field",
            f'write "{words[1]} {words[2]}"',
        )
    if not words or words[0] not in _KEY_TYPES:
        raise Refused(
            f"{_short(value)!r} does not begin with a type of host key ({', '.join(_KEY_TYPES)})",
            _KEY_WHY,
            HOST_KEY_REMEDY,
        )
    if len(words) < 2 or not _is_key_blob(words[1], words[0]):
        raise Refused(
            f"what follows {words[0]} is not the base64 text of such a key",
            _KEY_WHY,
            HOST_KEY_REMEDY,
        )
    return f"{words[0]} {words[1]}"  # the comment is no part of the key


def _is_key_blob(text: str, key_type: str) -> bool:
    """Whether text is base64 of an SSH public key (RFC 4253, 6.6): it begins with its type."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    head = len(key_type).to_bytes(4, "big") + key_type.encode()
    if key_type == "ssh-ed25519":
        return blob.startswith(head + (32).to_bytes(4, "big")) and len(blob) == len(head) + 36
    return blob.startswith(head) and len(blob) > len(head) + 64


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:21]}..."


# --- the rest ------------------------------------------------------------------------------------


def _hub(value: str) -> str:
    if re.fullmatch(r"[a-z0-9.-]+(:\d+)?(/[a-z0-9._-]+)+", value):
        return value
    raise Refused(
        f"{value!r} is not a place of images",
        "Istio puts /pilot and /proxyv2 behind it: a registry's host and a path, without scheme",
        "write docker.io/istio, or remove the key",
    )


def _reason(value: str) -> str:
    if len(value.strip()) >= 10:
        return value.strip()
    raise Refused(
        f"{value!r} is not a reason that a reader could judge",
        "whoever reviews the next upgrade must learn why an unsupported pair was let through",
        "write a sentence of at least 10 characters, or remove the key",
    )


def _http_url(value: str) -> str:
    if re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", value):
        return value.rstrip("/")
    if "@" in value:
        raise Refused(
            "the address has a user or password in it",
            "it is written into files on every node and shown in previews",
            "write the address alone; let the mirror trust the nodes' network",
        )
    raise Refused(
        f"{value!r} is not an http or https address",
        "nodes download from it: scheme, host and, if need be, port and path",
        "write such as http://10.66.0.1:8080",
    )


def _version(value: Any) -> Any:
    if isinstance(value, float | int) and not isinstance(value, bool):
        raise Refused(
            f"{value} is a number, not a version",
            "a version has three parts; with two of them YAML reads a number, and 1.20 becomes 1.2",
            "write all three parts, such as 1.23.17",
        )
    if isinstance(value, str):
        return value.strip().removeprefix("v")
    return value


Label = Annotated[str, AfterValidator(_label)]
ServiceName = Annotated[str, AfterValidator(_service_label)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
InterfaceName = Annotated[str, AfterValidator(_interface)]
UserName = Annotated[str, AfterValidator(_user)]
Weight = Annotated[int, BeforeValidator(_whole("weight")), AfterValidator(_weight)]
Port = Annotated[int, BeforeValidator(_whole("port")), AfterValidator(_port)]
Concurrency = Annotated[int, BeforeValidator(_whole("concurrency")), AfterValidator(_concurrency)]
ReplicaCount = Annotated[int, BeforeValidator(_whole("replicas")), AfterValidator(_replicas)]
Utilisation = Annotated[int, BeforeValidator(_whole("utilisation")), AfterValidator(_utilisation)]
NodePortNumber = Annotated[Port, AfterValidator(_node_port)]
Duration = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_duration)]
Count = Annotated[int, BeforeValidator(_whole("count")), AfterValidator(_count)]
Ipv4 = Annotated[str, AfterValidator(_ipv4)]
Network = Annotated[str, AfterValidator(_network)]
Subnet = Annotated[Network, AfterValidator(_subnet)]
ServiceNetwork = Annotated[Network, AfterValidator(_service_network)]
PodNetwork = Annotated[Network, AfterValidator(_pod_network)]
Hub = Annotated[str, AfterValidator(_hub)]
Reason = Annotated[str, AfterValidator(_reason)]
Cpu = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_cpu)]
Memory = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_memory)]
HostKey = Annotated[str, AfterValidator(_host_key)]
HttpUrl = Annotated[str, AfterValidator(_http_url)]
Version = Annotated[str, BeforeValidator(_version)]
