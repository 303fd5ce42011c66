"""The key `mesh.egress`: the hosts outside that may be called, by whom and why."""

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from config.base import Section
from config.countries import COUNTRIES, EEA, NOT_ISO
from config.istio import EGRESS_GATEWAY
from config.scalars.durations import Window
from config.scalars.names import (
    DNS_LABEL,
    DNS_NAME,
    SYSTEM_NAMESPACES,
    Label,
    SecretName,
    as_host,
)
from config.scalars.networks import Ipv4
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import Claim, Statement, reason, statement

Protocol = Literal["HTTPS", "HTTP", "TLS", "TCP"]
Through = Literal["gateway", "direct"]
EgressTls = Literal["passthrough", "originate"]

_INSIDE = ("svc", "local", "localhost", *SYSTEM_NAMESPACES)
_INSIDE_DOMAINS = "|".join(_INSIDE)
_WITH_A_DOT = rf"(?![0-9.]+$)(\*\.)?{DNS_LABEL}(\.{DNS_LABEL})+"


@shaped(text(rf"(?!.*\.({_INSIDE_DOMAINS})$){_WITH_A_DOT}", maxLength=253))
def _host(value: str) -> str:
    _refuse_more_than_a_host(value)
    bare = value.removeprefix("*.")
    if value.startswith("*") and "." not in bare:
        raise Refused(
            "egress-host-any",
            f"{value!r} would allow any host",
            "an allow-list must not allow everything; a wildcard is for the hosts of one owner",
            "list the hosts that are called, or use a wildcard below a domain, for "
            "example *.storage.partner.example",
        )
    labels = bare.split(".")
    if bare and (labels[-1] in _INSIDE or "." not in bare):
        raise Refused(
            "egress-host-inside",
            f"{value} is a host inside the cluster",
            "the mesh already knows the cluster's services; an entry for one would send "
            "its requests outside the mesh, without mTLS",
            "remove the entry; callers of a service in the mesh are set at "
            "mesh.services.<name>.callers",
        )
    if len(value) <= 253 and re.fullmatch(DNS_NAME, bare):
        return value
    raise Refused(
        "egress-host-format",
        f"{value!r} is not a host name",
        "proxies compare it with the name that a client requests: lower-case labels "
        "separated by dots",
        f"use {ascii_host}"
        if (ascii_host := as_host(value))
        else "use a name such as api.partner.example",
    )


def _refuse_more_than_a_host(value: str) -> None:
    """Refuse a URL, a login, an address and a port, each with the host that may be meant."""
    if "@" in value:
        host = value.rpartition("@")[2].split("/")[0].split(":")[0]
        raise Refused(
            "egress-host-login",
            "this contains a user or a password",
            "anyone who can read the stack file or its git history has it; the mesh does "
            "not log in to hosts",
            f"use {host}, and change the password, even if you delete it from the file",
        )
    if "://" in value or "/" in value:
        name = value.split("://")[-1].split("/")[0].split(":")[0]
        raise Refused(
            "egress-host-url",
            f"{value!r} is a URL, not a host",
            "the mesh allows hosts and ports; it does not look at paths",
            f"use {name}"
            if re.fullmatch(DNS_NAME, name) and not _is_address(name)
            else "use a host such as api.partner.example",
        )
    if _is_address(value.split("/")[0]):
        raise Refused(
            "egress-host-address",
            f"{value} is an address, not a host",
            "certificates and contracts are for names; an address can silently move to "
            "someone else",
            f"use the host's name, and add addresses: [{value}] if DNS should not resolve it",
        )
    name, colon, port = value.partition(":")
    if colon:
        raise Refused(
            "egress-host-port",
            f"{value!r} contains a port",
            "a host may have several ports, each with its own protocol",
            f"use {name}, and set ports: [{{number: {port or 443}, protocol: HTTPS}}]",
        )


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _statement(code: str, what: str, example: str, *, least: int = 10) -> Statement:
    return statement(
        code,
        f"does not say {what}",
        "anyone who reviews what leaves the mesh, or audits it, must be able to read it here",
        f"use a text such as: {example}",
        least=least,
    )


@shaped({"enum": sorted(COUNTRIES)})
def _country(value: object) -> object:
    if isinstance(value, str) and value in COUNTRIES:
        return value
    proposal = value.strip().upper() if isinstance(value, str) else ""
    proposal = NOT_ISO.get(proposal, proposal)
    raise Refused(
        "country-format",
        f"{value!r} is not a country code",
        "a transfer outside the EEA needs a legal basis, so nordmesh must know where the "
        "host's operator stores the data",
        f"use {proposal}"
        if proposal in COUNTRIES
        else "use a two-letter ISO 3166 code in capitals, for example NO, DE or US",
    )


Host = Annotated[str, AfterValidator(_host)]
Owner = Annotated[
    str,
    _statement("egress-owner", "who is responsible for it", "team-payments@example.no", least=3),
]
Purpose = Annotated[
    str, _statement("egress-purpose", "what is sent there, and what for", "settle card payments")
]
LegalBasis = Annotated[
    str,
    _statement(
        "egress-legal-basis",
        "on what legal basis",
        "GDPR art. 6(1)(b), processor agreement of 2026-01-12",
    ),
]
TransferBasis = Annotated[
    str,
    _statement(
        "egress-transfer-basis",
        "on what basis data leaves the EEA",
        "standard contractual clauses of 2021, signed 2026-01-12",
    ),
]
WildcardReason = Annotated[
    str,
    _statement(
        "egress-wildcard-reason",
        "why a wildcard is needed",
        "each tenant's bucket has its own host",
    ),
]
GateReason = Annotated[
    str,
    reason(
        "egress-gate-reason",
        "reviewers must learn why calls may be cut off, or why the list does not apply to all",
    ),
]
Country = Annotated[str, BeforeValidator(_country), Claim()]


class EgressPort(Section):
    """A port of a host outside, and its protocol."""

    number: Port = Field(description="the port", examples=[443])
    protocol: Protocol = Field(
        description="the protocol of clients: HTTPS, HTTP, TLS (any other protocol that begins "
        "with TLS) or TCP (also for STARTTLS, for example PostgreSQL, MySQL and SMTP)",
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
        description="the team or person that is responsible for it",
        examples=["team-payments@example.no"],
    )
    purpose: Purpose = Field(
        description="what is sent to it, and what for", examples=["settle card payments"]
    )
    legal_basis: LegalBasis = Field(
        description="the legal basis for sending it",
        examples=["GDPR art. 6(1)(b), processor agreement of 2026-01-12"],
    )
    country: Country = Field(
        description="the country whose law applies to the data at the host's operator (ISO 3166)",
        examples=["NO"],
    )
    transfer_basis: TransferBasis | None = Field(
        default=None, description="the legal basis for a transfer to a country outside the EEA"
    )
    namespaces: list[Label] = Field(
        description="the namespaces that may call it", examples=[["shop"]]
    )
    through: Through = Field(
        default="gateway",
        description="whether requests leave through the egress gateway or from each pod's own "
        "proxy",
    )
    tls: EgressTls = Field(
        default="passthrough",
        description="whether the client's own TLS is passed through, or the proxy originates TLS "
        "for a "
        "client that speaks HTTP",
    )
    ca_secret: SecretName | None = Field(
        default=None,
        description="the Secret in istio-system with the CA (key ca.crt) that verifies the host's "
        "certificate, if it is not a public CA",
    )
    addresses: list[Ipv4] = Field(
        default=[],
        description="the host's addresses, if proxies should not ask DNS; clients still need a "
        "DNS record, or call an address",
    )
    wildcard_reason: WildcardReason | None = Field(
        default=None, description="why a wildcard is needed"
    )

    @property
    def is_wildcard(self) -> bool:
        """Whether the host matches all names below a domain."""
        return self.host.startswith("*.")

    @property
    def in_eea(self) -> bool:
        """Whether data sent to the host stays in the EEA."""
        return self.country in EEA

    @property
    def may_call(self) -> list[str]:
        """The namespaces that may call it, each once, sorted."""
        return sorted(set(self.namespaces))


class EgressGate(Section):
    """The measurement before REGISTRY_ONLY: which workloads call hosts that are not listed."""

    window: Window = Field(default="30s", description="how long nordmesh looks for such calls")
    override: GateReason | None = Field(
        default=None, description="why to set REGISTRY_ONLY without a measurement"
    )
    trial: GateReason | None = Field(
        default=None,
        description="why hosts that are not listed are still allowed: with ALLOW_ANY, the list "
        "applies to listed hosts only",
    )


class Egress(Section):
    """The hosts outside the cluster that may be called; all others are refused."""

    gateway: Label = Field(
        default=EGRESS_GATEWAY,
        description="the entry of istio.egressGateways through which requests leave the mesh",
    )
    gate: EgressGate = Field(
        default=EgressGate(),
        description="how nordmesh looks for calls that REGISTRY_ONLY would refuse",
    )
    hosts: dict[Label, EgressHost] = Field(
        default={}, description="the hosts that may be called, by a name of your choice"
    )

    @property
    def by_gateway(self) -> dict[str, EgressHost]:
        """The hosts that are called through the gateway."""
        return {name: host for name, host in self.hosts.items() if host.through == "gateway"}
