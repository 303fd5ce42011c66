"""The section `istio`: the mesh's control plane, gateways and the proxies' defaults."""

from typing import Literal

from pydantic import Field, JsonValue

from stacks.config.base import Section
from stacks.fields import Concurrency, Cpu, Hub, Memory, Reason, Version

Profile = Literal["default", "demo", "minimal"]
OutboundTrafficPolicy = Literal["REGISTRY_ONLY", "ALLOW_ANY"]


class Resources(Section):
    """An amount of CPU and one of memory."""

    cpu: Cpu
    memory: Memory


class ProxyRequests(Resources):
    """What a proxy is sure to get."""

    cpu: Cpu = Field(default="100m", description="CPU in cores or thousandths of a core")
    memory: Memory = Field(default="128Mi", description="memory in bytes, with a unit")


class ProxyLimits(Resources):
    """What a proxy may take at most."""

    cpu: Cpu = Field(default="2000m", description="CPU in cores or thousandths of a core")
    memory: Memory = Field(default="1024Mi", description="memory in bytes, with a unit")


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
    egress_gateway: bool = Field(
        default=True, description="whether traffic that leaves the mesh has a gateway of its own"
    )
    outbound_traffic_policy: OutboundTrafficPolicy = Field(
        default="REGISTRY_ONLY",
        description="what proxies do with hosts that the mesh does not know",
    )
    proxy: Proxy = Field(default=Proxy(), description="the sidecars' resources and start")
    values: dict[str, JsonValue] = Field(
        default={}, description="what is merged into IstioOperator spec.values, as a last resort"
    )

    @property
    def revision(self) -> str:
        """The version as a DNS label, the name that the control plane is installed under."""
        return self.version.replace(".", "-")
