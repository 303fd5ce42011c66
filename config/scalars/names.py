"""Names of objects, hosts, users and interfaces."""

import ipaddress
import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import matching

ROOT_NAMESPACE = "istio-system"
"""The namespace of Istio, and of its policies for the whole mesh."""

DEFAULT_NAMESPACE = "default"
"""The namespace of every object that names none; it exists in every cluster."""

SYSTEM_NAMESPACES = (
    DEFAULT_NAMESPACE,
    ROOT_NAMESPACE,
    "kube-node-lease",
    "kube-public",
    "kube-system",
)
DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"  # and at most 253 characters
LABEL_KEY = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_LETTERS = str.maketrans({"å": "a", "æ": "ae", "ø": "o", "ð": "d", "þ": "th", "ß": "ss"})
LABEL_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


def as_label(value: str) -> str:
    """The nearest DNS label to a name, as a suggestion; `x` if nothing is left of it."""
    plain = unicodedata.normalize("NFKD", value.lower().translate(_LETTERS))
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    label = re.sub(r"[^a-z0-9]+", "-", plain)[:63].strip("-")
    return label or "x"


def use_label(value: str) -> str:
    """The fix of a name that is not a DNS label."""
    label = as_label(value)
    return f"use {label}" if label != "x" else "use a name of lower-case letters, for example shop"


def as_host(value: str) -> str | None:
    """The nearest DNS name to a host, as a suggestion: in ASCII, as clients ask for it."""
    wildcard, bare = ("*.", value[2:]) if value.startswith("*.") else ("", value)
    try:
        name = bare.strip().rstrip(".").lower().encode("idna").decode()
    except UnicodeError:
        return None
    is_host = re.fullmatch(DNS_NAME, name) and not re.fullmatch(r"[0-9.]+", name)
    return f"{wildcard}{name}" if is_host else None


@shaped(text(DNS_LABEL))
def _label(value: str) -> str:
    if re.fullmatch(DNS_LABEL, value):
        return value
    raise Refused(
        "dns-label-format",
        f"{value!r} is not a DNS label",
        "the name becomes part of a host name or a Kubernetes name: at most 63 lower-case "
        "letters, digits and hyphens, and no hyphen at either end",
        use_label(value),
    )


def subset_name(version: str) -> str:
    """The name of a version's subset. Istio accepts only DNS labels, so v1.2.0 becomes v1-2-0."""
    return version if re.fullmatch(DNS_LABEL, version) else as_label(version)


@shaped(text(LABEL_VALUE))
def _version(value: str) -> str:
    if re.fullmatch(LABEL_VALUE, value):
        return value
    nearest = re.sub(r"[^A-Za-z0-9._-]+", "-", value)[:63].strip("-._")
    raise Refused(
        "version-format",
        f"{value!r} cannot be the value of a label",
        "pods have their version as a label: at most 63 letters, digits, '.', '_' and '-', "
        "beginning and ending with a letter or a digit",
        f"use {nearest or 'v1'}, or the value that the pods have",
    )


@shaped(text(DNS_NAME, maxLength=63))
def _node_name(value: str) -> str:
    if len(value) <= 63 and re.fullmatch(DNS_NAME, value):
        return value
    raise Refused(
        "node-name-format",
        f"{value!r} cannot be the name of a node",
        "Kubernetes accepts lower-case letters, digits, hyphens and dots, and at most 63 "
        "characters, because the name is also a label",
        use_label(value),
    )


@shaped(text(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"))
def _service_label(value: str) -> str:
    if re.fullmatch(DNS_LABEL, value) and value[0].isalpha():
        return value
    if full := re.fullmatch(rf"(?P<namespace>{DNS_LABEL})/(?P<name>[a-z][-a-z0-9]*)", value):
        raise Refused(
            "service-name-namespace",
            f"{value!r} is a namespace and a name",
            "an entry has its own name, and sets the namespace in a key",
            f"use {full['name']}, and set namespace: {full['namespace']}; for a second Service of "
            f"that name, use another name, and set service: {full['name']}",
        )
    proposal = as_label(value)
    if not proposal[0].isalpha():
        proposal = as_label(f"svc-{proposal}")
    raise Refused(
        "service-name-format",
        f"{value!r} cannot be the name of a Kubernetes Service",
        "the API server accepts only DNS labels that begin with a letter",
        f"use {proposal}",
    )


@shaped(text(DNS_NAME, maxLength=253))
def _dns_name(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        pass
    else:
        raise Refused(
            "endpoint-address",
            f"{value} is an address, not a DNS name",
            "the API server's certificate contains the name; with a stable name, "
            "control-plane nodes can be added or moved without new certificates",
            "use a name such as api.prod.example.internal; nodes resolve it without a DNS server",
        )
    host, colon, port = value.partition(":")
    if colon and port.isdigit():
        raise Refused(
            "endpoint-port",
            f"{value!r} contains a port",
            "the API server always listens on 6443, which nordmesh adds to the name",
            f"use {host}",
        )
    if value.split(".")[-1] in ("localhost", "svc") or value.endswith(".cluster.local"):
        raise Refused(
            "endpoint-inside",
            f"{value} already has a meaning on every node or in every pod",
            "each node would look for the API server on itself, or among the cluster's services",
            "use a name of your own, for example api.prod.example.internal",
        )
    if len(value) <= 253 and re.fullmatch(DNS_NAME, value):
        return value
    raise Refused(
        "dns-name-format",
        f"{value!r} is not a DNS name",
        "the nodes and the API server's certificate need lower-case labels separated by dots",
        f"use {name}"
        if (name := as_host(value))
        else "use a name such as api.prod.example.internal",
    )


@shaped(text(DNS_NAME, maxLength=253))
def _host_name(value: str) -> str:
    # An IPv4 address has the shape of a DNS name.
    if len(value) <= 253 and re.fullmatch(DNS_NAME, value):
        return value
    raise Refused(
        "host-name-format",
        f"{value!r} is neither a DNS name nor an IPv4 address",
        "a scheme, a port or a path would be read as part of the host's name",
        f"use {name}"
        if (name := as_host(value))
        else "use a value such as ntp.example.internal or 192.0.2.123",
    )


def _other_host(value: str) -> str:
    if value.split(".")[-1] != "localhost" and not value.startswith("127."):
        return value
    raise Refused(
        "host-name-loopback",
        f"{value} is the machine itself",
        "each machine that looks for the host would find itself",
        "use the host's name or address, for example ntp.example.internal",
    )


@shaped(text(r"[a-z][a-z0-9._-]*", maxLength=15))
def _interface(value: str) -> str:
    shorter = value[:15].rstrip("-_.")
    # IFNAMSIZ in linux/if.h is 16, with the terminating zero.
    if len(value) > 15:
        raise Refused(
            "interface-name-length",
            f"the bridge's name {value!r} has {len(value)} characters",
            "Linux refuses interface names of more than 15 characters",
            f"use {shorter}" if re.fullmatch(r"[a-z][a-z0-9._-]*", shorter) else "use nordmesh0",
        )
    if re.fullmatch(r"[a-z][a-z0-9._-]*", value):
        return value
    raise Refused(
        "interface-name-format",
        f"{value!r} cannot be the name of a bridge",
        "the name is used for an interface and for directories: lower-case letters, "
        "digits, '.', '_' and '-', beginning with a letter",
        "use nordmesh0",
    )


@shaped(text(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", maxLength=253))
def _secret_name(value: str) -> str:
    if "-----BEGIN" in value or "\n" in value.strip():
        raise Refused(
            "secret-name-content",
            "this is the content of a secret, not its name",
            "anyone who can read the stack file or its git history has the key",
            "create a Secret of type kubernetes.io/tls in the cluster and use its name; "
            "rotate this key, even if you delete it from the file",
        )
    if len(value) <= 253 and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", value):
        return value
    raise Refused(
        "secret-name-format",
        f"{value!r} is not the name of a Secret",
        "a name consists of lower-case letters, digits, hyphens and dots; it has no "
        "namespace, since the Secret must be in the namespace of the gateway's pods",
        f"use {name}"
        if value.count("/") == 1
        and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name := value.partition("/")[2])
        else "use a name such as shop-tls",
    )


@shaped({"type": "string", "pattern": f"^{LABEL_KEY}(=.*)?$"})
def _label_key(value: str) -> str:
    if re.fullmatch(LABEL_KEY, value.partition("=")[0]):
        return value
    raise Refused(
        "label-key-format",
        f"{value!r} is not a label name",
        "a pod is close to the caller if both have the same values for these labels",
        "use a name such as topology.kubernetes.io/zone",
    )


Label = Annotated[str, AfterValidator(_label)]
Version = Annotated[str, AfterValidator(_version)]
NodeName = Annotated[str, AfterValidator(_node_name)]
ServiceName = Annotated[str, AfterValidator(_service_label)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
InterfaceName = Annotated[str, AfterValidator(_interface)]
UserName = Annotated[
    str,
    matching(
        "user-name-format",
        # useradd accepts fewer names than sshd does, which asks the machine, or its directory.
        r"[A-Za-z_][A-Za-z0-9_.@-]{0,63}",
        "a Linux user name",
        "SSH logs in as this user",
        "use the user of your provider's image, for example root or debian",
    ),
]
SecretName = Annotated[str, AfterValidator(_secret_name)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
HostName = Annotated[str, AfterValidator(_host_name)]
OtherHost = Annotated[HostName, AfterValidator(_other_host)]
