"""The services of the section `mesh`: who gets which requests."""

from typing import Annotated, Literal

from pydantic import Field

from config.access import Caller
from config.base import NullAllowed, Section, Unlimited
from config.mtls import Selector, ServiceMtls
from config.scalars.durations import Duration
from config.scalars.http import Host
from config.scalars.names import Label
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
        description="the Service's port that all this is for; its other ports stay as they are",
        examples=[8080],
    )
    stable: Label = Field(description="the stable version's label", examples=["v1"])
    canary: Annotated[Canary | None, NullAllowed()] = Field(
        default=None, description="the version on trial"
    )
    protocol: Protocol = Field(
        default="http",
        description="what the port speaks, as its name or appProtocol in the Service says",
    )
    hosts: list[Host] = Field(
        default=[], description="more hosts that the service answers to, such as shop.example.com"
    )
    gateway: Label | None = Field(
        default=None, description="the entry of mesh.gateways that it is reached through as well"
    )
    in_mesh: bool = Field(
        default=True, description="whether the routes hold for callers inside the mesh"
    )
    export_to: Annotated[list[str], Unlimited("the routes hold for callers everywhere")] = Field(
        default=[],
        description="whose callers the routes hold for: namespaces, . for its own; none means all",
    )
    testers: list[Testers] = Field(
        default=[], description="requests that get one subset whatever the weight; first match wins"
    )
    mirror: Mirror | None = Field(default=None, description="copies for the version on trial")
    personal_data: bool = Field(
        default=False, description="whether its requests hold personal data"
    )
    timeout: Duration | None = Field(
        default=None, description="how long a request may take with all its retries"
    )
    retries: Retries | None = Field(
        default=None, description="how often a failed request is sent again"
    )
    fault: FaultInjection | None = Field(default=None, description="faults made on purpose")
    load_balancer: LoadBalancer | None = Field(
        default=None, description="how a pod of a subset is chosen"
    )
    affinity: Affinity | None = Field(
        default=None, description="which requests reach the same pod of a subset"
    )
    connection_pool: Annotated[ConnectionPool | None, Unlimited("no limit holds")] = Field(
        default=None, description="limits above which requests are refused at once"
    )
    outlier_detection: Annotated[
        OutlierDetection | None,
        Unlimited("a failing pod keeps its requests", "{} for its defaults"),
    ] = Field(default=None, description="when a failing pod is left out")
    locality: LocalitySettings | None = Field(
        default=None, description="which pods are near the caller"
    )
    selector: Selector | None = Field(
        default=None,
        description="the labels of the service's pods, as its Service selects them; without it, "
        "app: its name",
        examples=[{"app.kubernetes.io/name": "checkout"}],
    )
    service_account: Label = Field(
        default="default", description="the service account that the service's pods run as"
    )
    callers: Annotated[
        list[Caller] | None, Unlimited("anyone may call it", "[] to allow nobody")
    ] = Field(
        default=None, description="who may call it; [] means nobody, and no list means anybody"
    )
    mtls: ServiceMtls | None = Field(
        default=None, description="the mTLS modes of the service's pods and their ports"
    )

    def pod_labels(self, name: str) -> dict[str, str]:
        """The labels of the service's pods: those of the stack file, or `app: <name>`."""
        return self.selector or {"app": name}

    def mtls_labels(self, name: str) -> dict[str, str]:
        """The labels of the pods that the service's own mTLS modes are for."""
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
