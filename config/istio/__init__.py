"""The section `istio`: the control plane, the gateways and the defaults of proxies."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from config.base import Section, Unlimited
from config.istio.gateways import GatewayDeployment, IngressGateway, Replicas
from config.resources import ProxyLimits, ProxyRequests, Resources
from config.scalars.durations import CertificateLifetime, Debounce, Drain, Readiness
from config.scalars.names import DNS_NAME, Label, ServiceName
from config.scalars.numbers import Concurrency, Sampling
from config.scalars.releases import Hub, Version
from config.scalars.texts import matching, reason

Profile = Literal["default", "demo", "minimal"]
OutboundTrafficPolicy = Literal["REGISTRY_ONLY", "ALLOW_ANY"]
PathNormalization = Literal["NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES"]
LogTarget = Literal["none", "stdout", "stderr"]
LogFormat = Literal["text", "json"]

INGRESS_GATEWAY = "istio-ingressgateway"
EGRESS_GATEWAY = "istio-egressgateway"

TrustDomain = Annotated[
    str,
    matching(
        "trust-domain-format",
        DNS_NAME,
        "a trust domain",
        "it is the first part of every identity in the mesh (spiffe://<trust domain>/ns/...): "
        "lower-case labels separated by dots",
        "use cluster.local, or your own name, for example prod.example.internal",
        longest=253,
    ),
]
Collector = Annotated[
    str,
    matching(
        "collector-format",
        # at most 65535: Envoy would not start
        r"[a-z0-9.-]+:([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5])",
        "a host and a port",
        "proxies send traces to it in Zipkin's format",
        "use a value such as zipkin.istio-system:9411",
    ),
]
UnsupportedReason = Annotated[
    str,
    reason(
        "unsupported-pair-reason",
        "anyone who reviews the next upgrade must learn why an unsupported pair was allowed",
    ),
]


class Proxy(Section):
    """The resources, start-up and end of proxies.

    All defaults but the hold and the drain are Istio's.
    """

    requests: ProxyRequests = Field(
        default=ProxyRequests(), description="the resources that a proxy requests"
    )
    limits: ProxyLimits = Field(default=ProxyLimits(), description="the most that a proxy may use")
    concurrency: Concurrency = Field(
        default=2,
        description="the number of Envoy's worker threads; 0 means one for each core of the limit",
    )
    hold_application_until_proxy_starts: bool = Field(
        default=True,
        description="whether an application waits until its proxy is ready",
    )
    drain_duration: Drain = Field(
        default="20s",
        description="how long the proxy of a pod that ends still serves requests in progress",
    )
    certificate_lifetime: CertificateLifetime = Field(
        default="24h",
        description="how long a proxy's certificate is valid; it is renewed after half of that",
    )


class Pilot(Section):
    """The control plane, istiod."""

    replicas: Replicas = Field(default=Replicas(), description="the number of istiod pods")
    requests: Resources | None = Field(
        default=None,
        description="the resources that istiod requests, if they differ from the profile's",
    )
    limits: Resources | None = Field(
        default=None, description="the most that istiod may use; no limit by default"
    )
    debounce_after: Debounce = Field(
        default="10ms", description="how long istiod waits for further changes before it sends them"
    )


class AccessLog(Section):
    """A line for each request that a proxy handles. It may contain personal data."""

    target: LogTarget = Field(description="where proxies write the log", examples=["stdout"])
    format: LogFormat = Field(default="text", description="the format of a line")


class Tracing(Section):
    """Traces of requests. They contain addresses and paths, so they are off by default."""

    enabled: bool = Field(default=False, description="whether proxies send traces")
    sampling: Sampling = Field(
        default=1.0, description="the percentage of requests that are traced"
    )
    collector: Collector = Field(
        default="zipkin.istio-system:9411",
        description="the host and port that accept traces in Zipkin's format",
    )


class Istio(Section):
    """The mesh that istioctl installs."""

    version: Version = Field(description="the Istio release", examples=["1.17.6"])
    hub: Hub = Field(
        default="docker.io/istio",
        description="the registry and path of Istio's images",
    )
    allow_unsupported: UnsupportedReason | None = Field(
        default=None,
        description="why to use an unsupported pair of Kubernetes and Istio",
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
        description="whether proxies refuse or allow hosts that the mesh does not know",
    )
    path_normalization: PathNormalization = Field(
        default="DECODE_AND_MERGE_SLASHES",
        description="how proxies normalize the paths of requests before they match and forward "
        "them",
    )
    http10: bool = Field(
        default=False, description="whether proxies accept HTTP/1.0; otherwise they answer 426"
    )
    access_log: AccessLog | None = Field(
        default=None, description="the proxies' access log, if it differs from the profile's"
    )
    trust_domain: TrustDomain = Field(
        default="cluster.local", description="the first part of every identity in the mesh"
    )
    tracing: Tracing = Field(default=Tracing(), description="traces of requests")
    proxy: Proxy = Field(default=Proxy(), description="the resources and start-up of sidecars")
    readiness_timeout: Readiness = Field(
        default="8m", description="how long an install waits for istiod and the gateways"
    )
    values: dict[str, JsonValue] = Field(
        default={},
        description="settings that are merged into IstioOperator spec.values, as a last resort",
        examples=[{"global": {"logAsJson": True}}],
    )
    overlay: dict[str, JsonValue] = Field(
        default={},
        description="settings that are merged into IstioOperator spec, as a last resort",
        examples=[{"meshConfig": {"enablePrometheusMerge": True}}],
    )

    @property
    def revision(self) -> str:
        """The revision that the control plane is installed under: the version as a DNS label."""
        return self.version.replace(".", "-")

    @property
    def ingress(self) -> dict[Label, IngressGateway]:
        """The gateways into the mesh, by name; the profile's if the stack file has none."""
        if self.ingress_gateways is not None:
            return self.ingress_gateways
        return {} if self.profile == "minimal" else {INGRESS_GATEWAY: IngressGateway()}

    @property
    def gateways(self) -> dict[Label, GatewayDeployment]:
        """All gateways, by name."""
        return {**self.egress_gateways, **self.ingress}
