"""The section `istio`: the mesh's control plane, gateways and the proxies' defaults."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, JsonValue

from stacks.config.base import Section
from stacks.config.istio_gateways import (
    GatewayDeployment,
    IngressGateway,
    ProxyLimits,
    ProxyRequests,
    Replicas,
    Resources,
)
from stacks.fields import (
    Concurrency,
    Duration,
    Hub,
    Label,
    Reason,
    Refused,
    ServiceName,
    Version,
    seconds,
)

Profile = Literal["default", "demo", "minimal"]
OutboundTrafficPolicy = Literal["REGISTRY_ONLY", "ALLOW_ANY"]
LogTarget = Literal["none", "stdout", "stderr"]
LogFormat = Literal["text", "json"]

INGRESS_GATEWAY = "istio-ingressgateway"
EGRESS_GATEWAY = "istio-egressgateway"

_DNS_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_TRUST_DOMAIN = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*")


def _lifetime(value: str) -> str:
    # istiod signs nothing for longer than 90 days (MAX_WORKLOAD_CERT_TTL).
    if 600 <= seconds(value) <= 90 * 24 * 3600:
        return value
    raise Refused(
        f"a certificate for {value} is out of range",
        "proxies renew at half of the lifetime: much shorter, and a restart of istiod lets "
        "certificates run out; istiod signs none for more than 90 days",
        "write from 10m to 2160h; Istio's default is 24h",
    )


def _debounce(value: str) -> str:
    if seconds(value) <= 10:
        return value
    raise Refused(
        f"{value} is too long to wait for further changes",
        "istiod sends changes after 10 s at the latest (PILOT_DEBOUNCE_MAX); a revert must not "
        "wait that long",
        "write at most 1s, such as 100ms",
    )


def _readiness(value: str) -> str:
    if 10 <= seconds(value) <= 3600:
        return value
    raise Refused(
        f"{value} is no time that an install could be given",
        "it ends with an error when the control plane or a gateway is not ready by then",
        "write from 10s to 1h, such as 8m",
    )


def _sampling(value: float) -> float:
    if 0 <= value <= 100:
        return value
    raise Refused(
        f"{value} is not a share in percent",
        "it is how many of 100 requests leave a trace",
        "write a number from 0 to 100, such as 1",
    )


def _trust_domain(value: str) -> str:
    if len(value) <= 253 and _TRUST_DOMAIN.fullmatch(value):
        return value
    raise Refused(
        f"{value!r} is not a trust domain",
        "it is the first part of every identity in the mesh (spiffe://<trust domain>/ns/...): "
        "lower-case labels joined by dots",
        "write cluster.local, or a name of yours such as prod.example.internal",
    )


def _collector(value: str) -> str:
    if re.fullmatch(r"[a-z0-9.-]+:\d{1,5}", value):
        return value
    raise Refused(
        f"{value!r} is not a host and a port",
        "proxies send traces in Zipkin's format there",
        "write such as zipkin.istio-system:9411",
    )


class Proxy(Section):
    """The sidecars' resources and start; the defaults are Istio's own, but for the hold."""

    requests: ProxyRequests = Field(
        default=ProxyRequests(), description="what a proxy is sure to get"
    )
    limits: ProxyLimits = Field(default=ProxyLimits(), description="what a proxy may take at most")
    concurrency: Concurrency = Field(
        default=2, description="Envoy's worker threads; 0 means one for each core of the CPU limit"
    )
    hold_application_until_proxy_starts: bool = Field(
        default=True,
        description="whether an application waits for its proxy, against the start-up race",
    )
    certificate_lifetime: Annotated[Duration, AfterValidator(_lifetime)] = Field(
        default="24h", description="how long a proxy's certificate is valid; renewed at half of it"
    )


class Pilot(Section):
    """The control plane, istiod."""

    replicas: Replicas = Field(default=Replicas(), description="how many istiods there are")
    requests: Resources | None = Field(
        default=None, description="what istiod is sure to get, where the profile's does not fit"
    )
    limits: Resources | None = Field(
        default=None, description="what istiod may take at most; no limit by default"
    )
    debounce_after: Annotated[Duration, AfterValidator(_debounce)] = Field(
        default="25ms", description="how long istiod waits for further changes before it sends one"
    )


class AccessLog(Section):
    """A line for each request that a proxy has seen. It may hold personal data."""

    target: LogTarget = Field(description="where proxies write the log", examples=["stdout"])
    format: LogFormat = Field(default="text", description="how a line is written")


class Tracing(Section):
    """Traces of requests. They hold addresses and paths: off, as the guides want in production."""

    enabled: bool = Field(default=False, description="whether proxies send traces")
    sampling: Annotated[float, AfterValidator(_sampling)] = Field(
        default=1.0, description="the share of requests that leave a trace, in percent"
    )
    collector: Annotated[str, AfterValidator(_collector)] = Field(
        default="zipkin.istio-system:9411",
        description="the host and port that takes traces in Zipkin's format",
    )


class Istio(Section):
    """The mesh that istioctl installs."""

    version: Version = Field(description="the Istio release", examples=["1.16.5"])
    hub: Hub = Field(
        default="docker.io/istio",
        description="where Istio's images are named to come from",
    )
    allow_unsupported: Reason | None = Field(
        default=None,
        description="why an unsupported pair of Kubernetes and Istio is wanted all the same",
    )
    profile: Profile = Field(default="default", description="Istio's installation profile")
    pilot: Pilot = Field(default=Pilot(), description="the control plane, istiod")
    ingress_gateways: dict[ServiceName, IngressGateway] | None = Field(
        default=None, description="the gateways into the mesh, by name"
    )
    egress_gateways: dict[ServiceName, GatewayDeployment] = Field(
        default={EGRESS_GATEWAY: GatewayDeployment()},
        description="the gateways out of the mesh, by name",
    )
    outbound_traffic_policy: OutboundTrafficPolicy = Field(
        default="REGISTRY_ONLY",
        description="what proxies do with hosts that the mesh does not know",
    )
    access_log: AccessLog | None = Field(
        default=None, description="the proxies' access log, where the profile's does not fit"
    )
    trust_domain: Annotated[str, AfterValidator(_trust_domain)] = Field(
        default="cluster.local", description="the first part of every identity in the mesh"
    )
    tracing: Tracing = Field(default=Tracing(), description="traces of requests")
    proxy: Proxy = Field(default=Proxy(), description="the sidecars' resources and start")
    readiness_timeout: Annotated[Duration, AfterValidator(_readiness)] = Field(
        default="8m", description="how long an install waits for istiod and the gateways"
    )
    values: dict[str, JsonValue] = Field(
        default={}, description="what is merged into IstioOperator spec.values, as a last resort"
    )
    overlay: dict[str, JsonValue] = Field(
        default={}, description="what is merged into IstioOperator spec, as a last resort"
    )

    @property
    def revision(self) -> str:
        """The version as a DNS label, the name that the control plane is installed under."""
        return self.version.replace(".", "-")

    @property
    def ingress(self) -> dict[Label, IngressGateway]:
        """The gateways into the mesh, by name; the profile's where the stack names none."""
        if self.ingress_gateways is not None:
            return self.ingress_gateways
        return {} if self.profile == "minimal" else {INGRESS_GATEWAY: IngressGateway()}

    @property
    def gateways(self) -> dict[Label, GatewayDeployment]:
        """All gateways, by name."""
        return {**self.egress_gateways, **self.ingress}
