"""The section `mesh.gateways`: which hosts the mesh answers to from outside, and how."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from config.base import Section, Unlimited
from config.istio import INGRESS_GATEWAY
from config.scalars.http import GatewayHosts
from config.scalars.names import ROOT_NAMESPACE, Label, SecretName
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.texts import reason

TlsMode = Literal["SIMPLE", "MUTUAL", "PASSTHROUGH"]
TlsVersion = Literal["TLSV1_2", "TLSV1_3"]
AnyHostReason = Annotated[
    str, reason("whoever reviews this must learn why every name may be asked for; previews show it")
]


class GatewayTls(Section):
    """How clients outside are talked to in TLS."""

    mode: TlsMode = Field(
        default="SIMPLE",
        description="what the gateway does with TLS: end it, ask for a client certificate as well, "
        "or hand it through to the service",
    )
    secret: SecretName | None = Field(
        default=None,
        description="the name of the Secret with certificate and key, beside the gateway's pods",
    )
    min_version: TlsVersion = Field(
        default="TLSV1_2", description="the oldest TLS version that clients may speak"
    )
    https_redirect: bool = Field(
        default=True, description="whether plain HTTP is answered with 301 to https"
    )

    @model_validator(mode="after")
    def _secret_where_tls_ends(self) -> "GatewayTls":
        if self.mode == "PASSTHROUGH" and self.secret is not None:
            raise Refused(
                "a Secret is named, and TLS is handed through",
                "with PASSTHROUGH the service has the certificate; the gateway never sees inside",
                "remove secret, or write mode: SIMPLE",
            )
        if self.mode != "PASSTHROUGH" and self.secret is None:
            raise Refused(
                "secret is missing",
                f"with mode {self.mode} TLS ends at the gateway, which needs certificate and key",
                "write secret: and the name of a Secret beside the gateway's pods, as shop-tls",
            )
        return self


class Gateway(Section):
    """Hosts that an ingress gateway takes requests for."""

    ingress_gateway: Label = Field(
        default=INGRESS_GATEWAY,
        description="the ingress gateway of the mesh that takes the requests",
    )
    namespace: Label = Field(
        default=ROOT_NAMESPACE,
        description="where the ingress gateway's pods and the Secret of tls are",
    )
    hosts: GatewayHosts = Field(
        description="the host names that it answers to, such as shop.example.com or *.example.com",
        examples=[["shop.example.com"]],
    )
    any_host: AnyHostReason | None = Field(
        default=None, description="why the host * is wanted, which takes every request"
    )
    http_port: Port = Field(default=80, description="the ingress gateway's port for plain HTTP")
    https_port: Port = Field(default=443, description="the ingress gateway's port for TLS")
    tls: Annotated[GatewayTls | None, Unlimited("clients talk in plaintext")] = Field(
        default=None, description="TLS towards clients outside; without it they talk in plaintext"
    )

    @model_validator(mode="after")
    def _hosts_and_ports(self) -> "Gateway":
        if "*" in self.hosts and self.any_host is None:
            raise Refused(
                "the host * is here without a reason",
                "the gateway would answer to every name that anyone points at your address, and no "
                "other gateway could have a host of its own",
                "write the names that clients use; if all are meant, add anyHost: <a reason>",
            )
        if "*" not in self.hosts and self.any_host is not None:
            raise Refused(
                "anyHost is here, and the host * is not",
                "a reason for what is not done misleads whoever reads it",
                "remove anyHost",
            )
        if self.tls is not None and self.http_port == self.https_port:
            raise Refused(
                f"httpPort and httpsPort are both {self.http_port}",
                "one port cannot talk in plaintext and in TLS",
                "remove them for 80 and 443, or write two ports of the ingress gateway",
            )
        return self

    @property
    def listens_on(self) -> dict[str, int]:
        """The ports of the ingress gateway that clients use, by their key in the stack file."""
        if self.tls is None:
            return {"httpPort": self.http_port}
        plain = {"httpPort": self.http_port} if self.tls.https_redirect else {}
        return {**plain, "httpsPort": self.https_port}
