"""The part `egress` of the section `mesh`: which hosts outside may be called, by whom and why."""

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from config.base import Section
from config.eea import EEA
from config.istio import EGRESS_GATEWAY
from config.scalars.names import DNS_NAME, Label
from config.scalars.networks import Ipv4
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.texts import statement

Protocol = Literal["HTTPS", "HTTP", "TLS", "TCP"]
Through = Literal["gateway", "direct"]
EgressTls = Literal["passthrough", "originate"]

_INSIDE = ("svc", "local", "localhost")


def _host(value: str) -> str:
    bare = value.removeprefix("*.")
    if "@" in value:
        host = value.rpartition("@")[2].split("/")[0].split(":")[0]
        raise Refused(
            "there is a user or a password in it",
            "whoever reads the stack file, or its history, has it; the mesh logs in nowhere",
            f"write {host}, and replace the password, even if you delete it from the file",
        )
    if "://" in value or "/" in value:
        host = value.split("://")[-1].split("/")[0]
        raise Refused(
            f"{value!r} is an address of a page, not a host",
            "the mesh allows hosts and their ports; it does not look at paths before it connects",
            f"write {host.split(':')[0]}" if host else "write such as api.partner.example",
        )
    if _is_address(value.split("/")[0]):
        raise Refused(
            f"{value} is an address, not a host",
            "a certificate and a contract are for a name; who has an address can change unseen",
            f"write the host's name, and addresses: [{value}] if DNS is not to be asked for it",
        )
    name, colon, port = value.partition(":")
    if colon:
        raise Refused(
            f"{value!r} has a port in it",
            "a host may have several ports, each with its protocol",
            f"write {name}, and the port in ports: [{{number: {port or 443}, protocol: HTTPS}}]",
        )
    if value.startswith("*") and "." not in bare:
        raise Refused(
            f"{value!r} would allow any host",
            "an allow-list that allows everything is none; a wildcard stands for one owner's hosts",
            "write the hosts that are called, or a wildcard below a domain, such as "
            "*.storage.partner.example",
        )
    labels = bare.split(".")
    if labels[-1] in _INSIDE or "." not in bare:
        raise Refused(
            f"{value} is a host inside the cluster",
            "the mesh knows the cluster's own services; an entry for one would take its requests "
            "out of the mesh, without mTLS",
            "remove it; who may call a service of the mesh is said by its callers",
        )
    if len(value) <= 253 and re.fullmatch(DNS_NAME, bare):
        return value
    raise Refused(
        f"{value!r} is not a host name",
        "proxies compare it with the name that a client asks for: lower-case labels joined by dots",
        "write such as api.partner.example",
    )


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _said(what: str, example: str, *, least: int = 10) -> AfterValidator:
    return statement(
        f"does not say {what}",
        "whoever reviews what leaves the mesh, and the authority that asks, must learn it here",
        f"write such as: {example}",
        least=least,
    )


def _country(value: object) -> object:
    if value is False:  # YAML 1.1 reads the word no as false
        return "NO"
    if isinstance(value, str) and re.fullmatch(r"[A-Z]{2}", value):
        return value
    proposal = value.strip().upper() if isinstance(value, str) else ""
    raise Refused(
        f"{value!r} is not a country's code",
        "what leaves the EEA needs a basis for the transfer, so the program must know where the "
        "host's operator keeps the data",
        f"write {proposal}"
        if re.fullmatch(r"[A-Z]{2}", proposal)
        else "write the two capital letters of ISO 3166, such as NO, DE or US",
    )


Host = Annotated[str, AfterValidator(_host)]
Owner = Annotated[str, _said("who answers for it", "team-payments@example.no", least=3)]
Purpose = Annotated[str, _said("what is sent there, and what for", "settle card payments")]
LegalBasis = Annotated[
    str, _said("on what legal basis", "GDPR art. 6(1)(b), processor agreement of 2026-01-12")
]
TransferBasis = Annotated[
    str,
    _said(
        "on what basis data leaves the EEA",
        "standard contractual clauses of 2021, signed 2026-01-12",
    ),
]
WildcardReason = Annotated[
    str, _said("why a wildcard is needed", "each tenant's bucket has a host of its own")
]
Country = Annotated[str, BeforeValidator(_country)]


class EgressPort(Section):
    """A port of a host outside, and what is spoken on it."""

    number: Port = Field(description="the port", examples=[443])
    protocol: Protocol = Field(
        description="what clients speak: HTTPS, HTTP, TLS (any other protocol in TLS) or TCP",
        examples=["HTTPS"],
    )


class EgressHost(Section):
    """A host outside the cluster that some namespaces may call."""

    host: Host = Field(
        description="the host's full name; *.domain with a wildcardReason",
        examples=["api.partner.example"],
    )
    ports: list[EgressPort] = Field(
        default=[EgressPort(number=443, protocol="HTTPS")],
        description="the host's ports that may be called",
    )
    owner: Owner = Field(
        description="who answers for it: a team or a person", examples=["team-payments@example.no"]
    )
    purpose: Purpose = Field(
        description="what is sent there, and what for", examples=["settle card payments"]
    )
    legal_basis: LegalBasis = Field(
        description="the legal basis of what is sent",
        examples=["GDPR art. 6(1)(b), processor agreement of 2026-01-12"],
    )
    country: Country = Field(
        description="the country whose law the host's operator keeps the data under (ISO 3166)",
        examples=["NO"],
    )
    transfer_basis: TransferBasis | None = Field(
        default=None, description="on what basis data goes to a country outside the EEA"
    )
    namespaces: list[Label] = Field(
        description="the namespaces that may call it", examples=[["shop"]]
    )
    through: Through = Field(
        default="gateway",
        description="whether requests leave by the egress gateway or by each pod's own proxy",
    )
    tls: EgressTls = Field(
        default="passthrough",
        description="whether the client's own TLS is passed on, or made by the proxy for a client "
        "that speaks HTTP",
    )
    ca_secret: Label | None = Field(
        default=None,
        description="the Secret in istio-system with the CA (key ca.crt) that the host's "
        "certificate is verified with, where the public CAs do not know it",
    )
    addresses: list[Ipv4] = Field(
        default=[], description="the host's addresses, where DNS is not to be asked for them"
    )
    wildcard_reason: WildcardReason | None = Field(
        default=None, description="why a wildcard is needed"
    )

    @property
    def is_wildcard(self) -> bool:
        """Whether the host stands for all names below a domain."""
        return self.host.startswith("*.")

    @property
    def in_eea(self) -> bool:
        """Whether the host's data stays in the EEA."""
        return self.country in EEA

    @property
    def may_call(self) -> list[str]:
        """The namespaces that may call it, each once, sorted."""
        return sorted(set(self.namespaces))


class Egress(Section):
    """What may be called outside the cluster; the rest is refused."""

    gateway: Label = Field(
        default=EGRESS_GATEWAY,
        description="the entry of istio.egressGateways that requests leave the mesh by",
    )
    hosts: dict[Label, EgressHost] = Field(
        default={}, description="the hosts that may be called, by a name of your choice"
    )

    @property
    def by_gateway(self) -> dict[str, EgressHost]:
        """The hosts that are called through the gateway."""
        return {name: host for name, host in self.hosts.items() if host.through == "gateway"}
