"""The key `mesh.gateways`: the hosts that clients outside the mesh can request."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from config.access import AccountReference
from config.base import Section, Unlimited
from config.gateways.jwt import Jwt
from config.istio import INGRESS_GATEWAY
from config.scalars.http import GatewayHosts
from config.scalars.names import ROOT_NAMESPACE, Label, SecretName
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.texts import reason

TlsMode = Literal["SIMPLE", "MUTUAL", "PASSTHROUGH"]
TlsVersion = Literal["TLSV1_2", "TLSV1_3"]
AnyHostReason = Annotated[
    str,
    reason(
        "any-host-reason-text",
        "reviewers must learn why the gateway accepts every host name; previews show the reason",
    ),
]


class Acme(Section):
    """Challenges of ACME (HTTP-01), which are answered in plain HTTP; the rest is redirected."""

    service: AccountReference | None = Field(
        default=None,
        description="the Service that answers them, as namespace/name; without it, cert-manager "
        "brings its own route",
        examples=["infra/acme-solver"],
    )
    port: Port = Field(default=80, description="the port of that Service")


class GatewayTls(Section):
    """TLS between a gateway and clients outside."""

    example: ClassVar = {"mode": "SIMPLE", "secret": "shop-tls"}

    mode: TlsMode = Field(
        default="SIMPLE",
        description="whether the gateway ends TLS, also asks for a client certificate, or passes "
        "TLS "
        "through to the service",
    )
    secret: SecretName | None = Field(
        default=None,
        description="the Secret with certificate and key, in the namespace of the gateway's pods",
    )
    min_version: TlsVersion = Field(
        default="TLSV1_2", description="the oldest TLS version that clients may use"
    )
    https_redirect: bool = Field(
        default=True, description="whether plain HTTP is redirected to https with status 301"
    )
    plain_http: bool = Field(
        default=False,
        description="whether the hosts are also served in plain HTTP; needs httpsRedirect: false",
    )
    acme: Acme | None = Field(
        default=None,
        description="challenges of ACME (HTTP-01), which are answered in plain HTTP and not "
        "redirected",
    )

    @model_validator(mode="after")
    def _secret_where_tls_ends(self) -> "GatewayTls":
        if self.mode == "PASSTHROUGH" and self.secret is not None:
            raise Refused(
                "gateway-secret-with-passthrough",
                "a Secret is set, but TLS is passed through",
                "with PASSTHROUGH the service holds the certificate, and the gateway "
                "never decrypts",
                "remove secret, or set mode: SIMPLE",
            )
        if self.mode != "PASSTHROUGH" and self.secret is None:
            raise Refused(
                "gateway-secret-missing",
                "secret is missing",
                f"with mode {self.mode} the gateway ends TLS, so it needs a certificate and a key",
                "set secret to the name of a Secret in the namespace of the gateway's "
                "pods, for example shop-tls",
            )
        return self

    @model_validator(mode="after")
    def _one_use_of_plain_http(self) -> "GatewayTls":
        if self.plain_http and self.https_redirect:
            raise Refused(
                "gateway-http-redirected-and-served",
                "plainHttp is set, but plain HTTP is redirected",
                "a request gets either an answer or a redirect",
                "set httpsRedirect: false to serve plain HTTP, or remove plainHttp",
            )
        if self.plain_http and self.mode == "PASSTHROUGH":
            raise Refused(
                "gateway-plain-http-with-passthrough",
                "plainHttp is set, but TLS is passed through",
                "the service behind PASSTHROUGH has protocol tcp, and plain HTTP needs http",
                "remove plainHttp, or set mode: SIMPLE",
            )
        if self.acme is not None and not self.https_redirect:
            raise Refused(
                "gateway-acme-without-redirect",
                "acme is set, but plain HTTP is not redirected",
                "acme is the exception from the redirect; with plainHttp, the service's routes "
                "answer every path",
                "remove httpsRedirect, or remove acme",
            )
        return self


class Gateway(Section):
    """Hosts that an ingress gateway accepts requests for."""

    ingress_gateway: Label = Field(
        default=INGRESS_GATEWAY,
        description="the ingress gateway of the mesh that accepts the requests",
    )
    namespace: Label = Field(
        default=ROOT_NAMESPACE,
        description="the namespace of the ingress gateway's pods and of the Secret of tls",
    )
    hosts: GatewayHosts = Field(
        description="the host names that it accepts, for example shop.example.com or *.example.com",
        examples=[["shop.example.com"]],
    )
    any_host: AnyHostReason | None = Field(
        default=None, description="why to use the host *, which accepts every request"
    )
    http_port: Port = Field(default=80, description="the ingress gateway's port for plain HTTP")
    https_port: Port = Field(default=443, description="the ingress gateway's port for TLS")
    tls: Annotated[GatewayTls | None, Unlimited("clients use plaintext")] = Field(
        default=None, description="TLS towards clients outside; without it they use plaintext"
    )
    jwt: Annotated[Jwt | None, Unlimited("clients need no token")] = Field(
        default=None, description="the tokens (JWT) that clients must send"
    )

    @model_validator(mode="after")
    def _hosts_and_ports(self) -> "Gateway":
        if "*" in self.hosts and self.any_host is None:
            raise Refused(
                "any-host-reason-missing",
                "the host * has no reason",
                "the gateway would accept requests for any name that points to your "
                "address, and no other gateway could have hosts",
                "list the names that clients request; if you mean all of them, add "
                "anyHost: <a reason>",
            )
        if "*" not in self.hosts and self.any_host is not None:
            raise Refused(
                "any-host-reason-unneeded",
                "anyHost is set, but hosts does not contain *",
                "a reason for something that is not done misleads reviewers",
                "remove anyHost",
            )
        if self.tls is not None and self.http_port == self.https_port:
            raise Refused(
                "gateway-ports-equal",
                f"httpPort and httpsPort are both {self.http_port}",
                "one port cannot serve both plaintext and TLS",
                "remove them to use 80 and 443, or use two ports of the ingress gateway",
            )
        return self

    def challenges(self, name: str) -> str | None:
        """The name of the Gateway that answers challenges of ACME, if there is one."""
        return f"{name}-acme" if self.tls is not None and self.tls.acme is not None else None

    @property
    def schemes(self) -> list[str]:
        """The schemes of the URLs at which clients get an answer, maybe after a redirect."""
        names = {"httpPort": "http", "httpsPort": "https"}
        return [names[key] for key in self.listens_on]

    @property
    def listens_on(self) -> dict[str, int]:
        """The ports of the ingress gateway that clients use, by their key in the stack file."""
        if self.tls is None:
            return {"httpPort": self.http_port}
        has_plain = self.tls.https_redirect or self.tls.plain_http
        plain = {"httpPort": self.http_port} if has_plain else {}
        return {**plain, "httpsPort": self.https_port}
