"""Names of objects, hosts, users and interfaces."""

import ipaddress
import re
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import matching

ROOT_NAMESPACE = "istio-system"
"""Where Istio runs, and where its policies are for the whole mesh."""

SYSTEM_NAMESPACES = ("default", ROOT_NAMESPACE, "kube-node-lease", "kube-public", "kube-system")
DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
DNS_NAME = rf"{DNS_LABEL}(\.{DNS_LABEL})*"  # besides, at most 253 characters
LABEL_KEY = r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
LABEL_VALUE = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"


def as_label(value: str) -> str:
    """The nearest DNS label of a name, to propose one; `x` where nothing is left of it."""
    label = re.sub(r"[^a-z0-9]+", "-", value.lower())[:63].strip("-")
    return label or "x"


@shaped(text(DNS_LABEL))
def _label(value: str) -> str:
    if re.fullmatch(DNS_LABEL, value):
        return value
    raise Refused(
        f"{value!r} is not a DNS label",
        "the name becomes a host name or a Kubernetes name: at most 63 lower-case letters, digits "
        "and hyphens, with no hyphen at either end",
        f"write {as_label(value)}",
    )


@shaped(text(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"))
def _service_label(value: str) -> str:
    if re.fullmatch(DNS_LABEL, value) and value[0].isalpha():
        return value
    proposal = as_label(value)
    if not proposal[0].isalpha():
        proposal = as_label(f"svc-{proposal}")
    raise Refused(
        f"{value!r} is not a name that a Kubernetes Service may have",
        "a Service's name is a DNS label that begins with a letter; the API server refuses others",
        f"write {proposal}",
    )


@shaped(text(DNS_NAME, maxLength=253))
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
    if len(value) <= 253 and re.fullmatch(DNS_NAME, value):
        return value
    raise Refused(
        f"{value!r} is not a DNS name",
        "the nodes and the API server's certificate need lower-case labels joined by dots",
        "write a name such as api.prod.example.internal",
    )


@shaped(text(DNS_NAME, maxLength=253))
def _host_name(value: str) -> str:
    # An IPv4 address has the shape of a DNS name.
    if len(value) <= 253 and re.fullmatch(DNS_NAME, value):
        return value
    raise Refused(
        f"{value!r} is neither a DNS name nor an IPv4 address",
        "nodes ask this host; a scheme, a port or a path would be part of its name",
        "write such as ntp.example.internal or 192.0.2.123",
    )


@shaped(text(r"[a-z][a-z0-9._-]*", maxLength=15))
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


def _secret_name(value: str) -> str:
    if "-----BEGIN" in value or "\n" in value.strip():
        raise Refused(
            "the content of a secret is here, not its name",
            "the stack file is in git: a key in it has to be replaced, also when it is removed",
            "make a Secret of type kubernetes.io/tls in the cluster and write its name; replace "
            "this key",
        )
    if len(value) <= 253 and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", value):
        return value
    raise Refused(
        f"{value!r} is not the name of a Secret",
        "a name has lower-case letters, digits, hyphens and dots; there is no namespace in it, the "
        "Secret is beside the gateway's pods",
        "write such as shop-tls",
    )


def _label_key(value: str) -> str:
    if re.fullmatch(LABEL_KEY, value.partition("=")[0]):
        return value
    raise Refused(
        f"{value!r} is not a label's name",
        "pods are near the caller whose values of these labels are the caller's",
        "write such as topology.kubernetes.io/zone",
    )


Label = Annotated[str, AfterValidator(_label)]
ServiceName = Annotated[str, AfterValidator(_service_label)]
DnsName = Annotated[str, AfterValidator(_dns_name)]
InterfaceName = Annotated[str, AfterValidator(_interface)]
UserName = Annotated[
    str,
    matching(
        r"[a-z_][a-z0-9_-]{0,31}",
        "a Linux user name",
        "SSH logs in as this user",
        "write the user that your provider's image has, such as root or debian",
    ),
]
SecretName = Annotated[str, AfterValidator(_secret_name)]
LabelKey = Annotated[str, AfterValidator(_label_key)]
HostName = Annotated[str, AfterValidator(_host_name)]
