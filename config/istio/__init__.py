"""The section `istio`: the mesh's control plane, gateways and the proxies' defaults."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from config.base import Section, Unlimited
from config.istio.gateways import GatewayDeployment, IngressGateway, Replicas
from config.resources import ProxyLimits, ProxyRequests, Resources
from config.scalars.durations import CertificateLifetime, Debounce, Readiness
from config.scalars.names import DNS_NAME, Label, ServiceName
from config.scalars.numbers import Concurrency, Sampling
from config.scalars.releases import Hub, Version
from config.scalars.texts import matching, reason

Profile = Literal["default", "demo", "minimal"]
OutboundTrafficPolicy = Literal["REGISTRY_ONLY", "ALLOW_ANY"]
LogTarget = Literal["none", "stdout", "stderr"]
LogFormat = Literal["text", "json"]

INGRESS_GATEWAY = "istio-ingressgateway"
EGRESS_GATEWAY = "istio-egressgateway"

TrustDomain = Annotated[
    str,
    matching(
        DNS_NAME,
        "a trust domain",
        "it is the first part of every identity in the mesh (spiffe://<trust domain>/ns/...): "
        "lower-case labels joined by dots",
        "write cluster.local, or a name of yours such as prod.example.internal",
        longest=253,
    ),
]
Collector = Annotated[
    str,
    matching(
        r"[a-z0-9.-]+:\d{1,5}",
        "a host and a port",
        "proxies send traces in Zipkin's format there",
        "write such as zipkin.istio-system:9411",
    ),
]
UnsupportedReason = Annotated[
    str,
    reason("whoever reviews the next upgrade must learn why an unsupported pair was let through"),
]


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
    certificate_lifetime: CertificateLifetime = Field(
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
    debounce_after: Debounce = Field(
        default="10ms", description="how long istiod waits for further changes before it sends one"
    )


class AccessLog(Section):
    """A line for each request that a proxy has seen. It may hold personal data."""

    target: LogTarget = Field(description="where proxies write the log", examples=["stdout"])
    format: LogFormat = Field(default="text", description="how a line is written")


class Tracing(Section):
    """Traces of requests. They hold addresses and paths: off, as the guides want in production."""

    enabled: bool = Field(default=False, description="whether proxies send traces")
    sampling: Sampling = Field(
        default=1.0, description="the share of requests that leave a trace, in percent"
    )
    collector: Collector = Field(
        default="zipkin.istio-system:9411",
        description="the host and port that takes traces in Zipkin's format",
    )


class Istio(Section):
    """The mesh that istioctl installs."""

    version: Version = Field(description="the Istio release", examples=["1.17.6"])
    hub: Hub = Field(
        default="docker.io/istio",
        description="where Istio's images are named to come from",
    )
    allow_unsupported: UnsupportedReason | None = Field(
        default=None,
        description="why an unsupported pair of Kubernetes and Istio is wanted all the same",
    )
    profile: Profile = Field(default="default", description="Istio's installation profile")
    pilot: Pilot = Field(default=Pilot(), description="the control plane, istiod")
    ingress_gateways: Annotated[
        dict[ServiceName, IngressGateway] | None,
        Unlimited("the profile's gateway is installed", "{} for no gateway into the mesh"),
    ] = Field(default=None, description="the gateways into the mesh, by name")
    egress_gateways: Annotated[
        dict[ServiceName, GatewayDeployment],
        Unlimited(f"{EGRESS_GATEWAY} is installed", "{} for no gateway out of the mesh"),
    ] = Field(
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
    trust_domain: TrustDomain = Field(
        default="cluster.local", description="the first part of every identity in the mesh"
    )
    tracing: Tracing = Field(default=Tracing(), description="traces of requests")
    proxy: Proxy = Field(default=Proxy(), description="the sidecars' resources and start")
    readiness_timeout: Readiness = Field(
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
