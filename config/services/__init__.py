"""The key `mesh.services`: how requests are split, routed and protected."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from config.access import Caller
from config.base import NullAllowed, Section, Unlimited
from config.mtls import Selector, ServiceMtls
from config.scalars.durations import Duration
from config.scalars.http import Host
from config.scalars.names import ROOT_NAMESPACE, Label
from config.scalars.numbers import Port
from config.services.canary import Canary
from config.services.resilience import (
    Affinity,
    ConnectionPool,
    LoadBalancer,
    LocalitySettings,
    OutlierDetection,
)
from config.services.routes import FaultInjection, Mirror, Retries, Testers

Protocol = Literal["http", "grpc", "tcp"]


class Service(Section):
    """A service whose requests are split between a stable subset and a canary."""

    namespace: Label = Field(description="the namespace of the service", examples=["shop"])
    port: Port = Field(
        description="the Service's port that these settings apply to; its other ports are not "
        "changed",
        examples=[8080],
    )
    stable: Label = Field(description="the stable version's label", examples=["v1"])
    canary: Annotated[Canary | None, NullAllowed()] = Field(
        default=None, description="the new version that gets a share of the requests"
    )
    protocol: Protocol = Field(
        default="http",
        description="the protocol of the port, as in its name or appProtocol in the Service",
    )
    hosts: list[Host] = Field(
        default=[], description="further hosts of the service, for example shop.example.com"
    )
    gateway: Label | None = Field(
        default=None, description="the entry of mesh.gateways that also routes to it"
    )
    in_mesh: bool = Field(
        default=True, description="whether the routes apply to callers inside the mesh"
    )
    export_to: Annotated[list[str], Unlimited("the routes apply to callers everywhere")] = Field(
        default=[],
        description="the namespaces whose callers the routes apply to, . for its own; none means "
        "all",
    )
    testers: list[Testers] = Field(
        default=[],
        description="requests that get one subset, whatever the weight; the first match wins",
    )
    mirror: Mirror | None = Field(default=None, description="copies of requests for the canary")
    personal_data: bool = Field(
        default=False, description="whether its requests contain personal data"
    )
    timeout: Duration | None = Field(
        default=None, description="how long a request may take, including retries"
    )
    retries: Retries | None = Field(
        default=None, description="how often a failed request is sent again"
    )
    fault: FaultInjection | None = Field(
        default=None, description="faults that are injected on purpose"
    )
    load_balancer: LoadBalancer | None = Field(
        default=None, description="how a pod of a subset is chosen"
    )
    affinity: Affinity | None = Field(
        default=None,
        description="session affinity: the request attribute that selects a pod of a subset",
    )
    connection_pool: Annotated[ConnectionPool | None, Unlimited("nothing is limited")] = Field(
        default=None, description="limits above which requests are refused immediately"
    )
    outlier_detection: Annotated[
        OutlierDetection | None,
        Unlimited("a failing pod keeps its requests", "{} for its defaults"),
    ] = Field(default=None, description="when a failing pod is ejected from load balancing")
    locality: LocalitySettings | None = Field(
        default=None, description="which pods are preferred by locality"
    )
    selector: Selector | None = Field(
        default=None,
        description="the labels of the service's pods, as in the selector of its Service; by "
        "default "
        "app: and the service's name",
        examples=[{"app.kubernetes.io/name": "checkout"}],
    )
    service_account: Label = Field(
        default="default", description="the service account that the service's pods run as"
    )
    callers: Annotated[
        list[Caller] | None, Unlimited("anyone may call it", "[] to allow nobody")
    ] = Field(
        default=None,
        description="the callers that may call it; [] allows nobody, no list allows anyone",
    )
    mtls: ServiceMtls | None = Field(
        default=None, description="the mTLS modes of the service's pods and their ports"
    )

    def pod_labels(self, name: str) -> dict[str, str]:
        """The labels of the service's pods: those of the stack file, or `app: <name>`."""
        return self.selector or {"app": name}

    def mtls_labels(self, name: str) -> dict[str, str]:
        """The labels of the pods that the service's own mTLS modes apply to."""
        own = self.mtls.selector if self.mtls is not None else None
        return own or self.pod_labels(name)

    @property
    def weights(self) -> dict[str, int]:
        """Each subset's share of the requests in percent; they sum to 100."""
        if self.canary is None:
            return {self.stable: 100}
        return {
            self.stable: 100 - self.canary.weight,
            self.canary.subset: self.canary.weight,
        }


def account(caller: Caller, services: Mapping[str, Service]) -> tuple[str, str]:
    """The namespace and the service account of a caller."""
    if caller.service is not None:
        called = services[caller.service.split("/")[-1]]
        return called.namespace, called.service_account
    if caller.service_account is not None:
        namespace, _, name = caller.service_account.partition("/")
        return namespace, name
    return ROOT_NAMESPACE, f"{caller.gateway}-service-account"  # as Istio's gateways name theirs
