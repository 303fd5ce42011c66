"""The key `mesh.services`: how requests are split, routed and protected."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from config.access import Caller
from config.base import NullAllowed, Section, Unlimited
from config.mtls import Selector, ServiceMtls
from config.scalars.durations import Duration
from config.scalars.http import GatewayHost
from config.scalars.names import ROOT_NAMESPACE, Label, ServiceName, Version, subset_name
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.services.canary import Canary
from config.services.paths import EVERY_PATH, PathRoute
from config.services.ports import PortNames, Protocol, ServicePort, protocol_of
from config.services.resilience import (
    Affinity,
    ConnectionPool,
    LoadBalancer,
    LocalitySettings,
    OutlierDetection,
)
from config.services.routes import FaultInjection, Mirror, Retries, Testers

VersionLabel = Literal[
    "version", "app.kubernetes.io/version", "service.istio.io/canonical-revision"
]
"""The labels that proxies report with the requests, so that a version's share can be measured."""


class Service(Section):
    """A service whose requests are split between a stable subset and a canary."""

    example: ClassVar = {"namespace": "shop", "port": 8080, "stable": "v1"}

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["port"]}, {"required": ["ports"]}]}
    )

    namespace: Label = Field(description="the namespace of the service", examples=["shop"])
    service: ServiceName | None = Field(
        default=None,
        description="the name of its Service, if that is not the entry's: namespaces may have "
        "Services of the same name",
    )
    port: Port | None = Field(
        default=None,
        description="the Service's port that these settings apply to; its other ports are not "
        "changed",
        examples=[8080],
    )
    ports: PortNames = Field(
        default={},
        description="instead of port, the Service's ports that these settings apply to, by their "
        "names in the Service",
        examples=[{"http": 8080, "admin": 9090}],
    )
    split: Label | None = Field(
        default=None,
        description="the name in ports of the port that is split between stable and canary; by "
        "default http, or the only one",
    )
    protocols: dict[Label, Protocol] = Field(
        default={},
        description="the protocols of ports whose names do not say it, by name in ports",
        examples=[{"admin": "http"}],
    )
    stable: Version = Field(
        description="the stable version, as its pods have it in their label", examples=["v1"]
    )
    canary: Annotated[Canary | None, NullAllowed()] = Field(
        default=None, description="the new version that gets a share of the requests"
    )
    versions: list[Version] = Field(
        default=[],
        description="further versions, which get no share: testers reach them, and requests can be "
        "copied to them",
        examples=[["v3"]],
    )
    version_label: VersionLabel = Field(
        default="version", description="the label of the pods that holds their version"
    )
    protocol: Protocol = Field(
        default="http",
        description="the protocol of the port, as in its name or appProtocol in the Service; with "
        "ports, of those whose names do not say it",
    )
    hosts: list[GatewayHost] = Field(
        default=[],
        description="further hosts of the service, for example shop.example.com; * only at a "
        "gateway",
    )
    gateway: Label | None = Field(
        default=None, description="the entry of mesh.gateways that also routes to it"
    )
    paths: Annotated[
        list[PathRoute],
        Unlimited("all paths of its hosts are the service's", "remove gateway to serve none there"),
    ] = Field(
        default=[],
        description="the paths of its hosts at the gateway that are the service's; none "
        "means all that no other service has",
    )
    in_mesh: bool = Field(
        default=True, description="whether the routes apply to callers inside the mesh"
    )
    export_to: Annotated[
        list[str],
        Unlimited("the routes apply to callers everywhere", "use [.] for its own namespace alone"),
    ] = Field(
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
        "default app: and the Service's name",
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

    @model_validator(mode="after")
    def _one_port_is_split(self) -> "Service":
        if (self.port is None) == (not self.ports):
            raise Refused(
                "service-port-count",
                "port and ports are both set" if self.ports else "port is missing",
                "routes and limits apply to the ports that are named here, and to no others",
                "set port for a single port, or each port's name and number in ports",
            )
        if self.ports and self._split_name not in self.ports:
            names = ", ".join(sorted(self.ports))
            raise Refused(
                "split-port-unknown",
                f"{self.split} is not a name in ports"
                if self.split
                else f"split is missing, and none of {names} is named http",
                "the canary gets its share of the requests to one port; the requests to the "
                "other ports go to the stable version",
                f"set split to one of {names}",
            )
        if self.split is not None and not self.ports:
            raise Refused(
                "split-without-ports",
                "split is set without ports",
                "port is the only one, so it is split",
                "remove split",
            )
        return self

    @property
    def _split_name(self) -> str:
        return self.split or (next(iter(self.ports)) if len(self.ports) == 1 else "http")

    @property
    def split_port(self) -> ServicePort:
        """The port whose requests are split between the stable subset and the canary."""
        return self.named_ports[0]

    @property
    def named_ports(self) -> list[ServicePort]:
        """The ports that the settings apply to: first the one that is split, then by name."""
        if self.port is not None:
            return [ServicePort(None, self.port, self.protocol)]
        split = self._split_name
        return [
            ServicePort(
                name, self.ports[name], self.protocols.get(name, protocol_of(name, self.protocol))
            )
            for name in [split, *sorted(self.ports.keys() - {split})]
        ]

    @property
    def own_paths(self) -> list[PathRoute]:
        """The paths of its hosts at its gateway that are the service's."""
        return self.paths or [EVERY_PATH]

    def kubernetes_name(self, name: str) -> str:
        """The name of the Service, which its objects have too. name: that of the entry."""
        return self.service or name

    def full_name(self, name: str) -> str:
        """The namespace/name of the Service. name: that of the entry."""
        return f"{self.namespace}/{self.kubernetes_name(name)}"

    def pod_labels(self, name: str) -> dict[str, str]:
        """The labels of the service's pods: those of the stack file, or `app: <Service>`."""
        return self.selector or {"app": self.kubernetes_name(name)}

    def mtls_labels(self, name: str) -> dict[str, str]:
        """The labels of the pods that the service's own mTLS modes apply to."""
        own = self.mtls.selector if self.mtls is not None else None
        return own or self.pod_labels(name)

    @property
    def subsets(self) -> dict[str, str]:
        """The versions that routes can lead to, by their subsets: stable, canary and others."""
        return {subset_name(version): version for version in [*self.weights, *self.versions]}

    @property
    def weights(self) -> dict[str, int]:
        """Each version's share of the requests in percent; they sum to 100."""
        if self.canary is None:
            return {self.stable: 100}
        return {
            self.stable: 100 - self.canary.weight,
            self.canary.subset: self.canary.weight,
        }


def entry_of(reference: str, services: Mapping[str, Service]) -> str | None:
    """The entry of a service, by its own name or by the namespace/name of its Service."""
    namespace, _, name = reference.rpartition("/")
    if not namespace:
        return name if name in services else None
    wanted = (namespace, name)
    return next(
        (
            entry
            for entry, service in services.items()
            if (service.namespace, service.kubernetes_name(entry)) == wanted
        ),
        None,
    )


def account(caller: Caller, services: Mapping[str, Service]) -> tuple[str, str]:
    """The namespace and the service account of a caller."""
    if caller.service is not None:
        called = services[str(entry_of(caller.service, services))]
        return called.namespace, called.service_account
    if caller.service_account is not None:
        namespace, _, name = caller.service_account.partition("/")
        return namespace, name
    return ROOT_NAMESPACE, f"{caller.gateway}-service-account"  # as Istio's gateways name theirs
