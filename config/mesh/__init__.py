"""The section `mesh`: which namespaces are in it, and who may talk how."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from config.access import AccountReference
from config.base import Section, defaults
from config.egress import Egress
from config.gateways import Gateway
from config.mtls import MtlsGate, MtlsMode
from config.scalars.names import Label, ServiceName
from config.scalars.numbers import PodCount
from config.services import Service
from config.workloads import Workload


class Namespace(Section):
    """A namespace of the mesh."""

    injection: bool = Field(default=True, description="whether pods of the namespace get a sidecar")
    mtls: MtlsMode | None = Field(
        default=None, description="the namespace's mTLS mode, where mesh.mtls does not fit"
    )
    limit_view: bool = Field(
        default=False,
        description="whether its proxies know only what its pods are declared to call",
    )
    calls: list[AccountReference] = Field(
        default=[],
        description="services besides mesh.services that its pods call, where limitView is true",
    )
    pods: PodCount | None = Field(
        default=None, description="how many pods it has at most, to check that their proxies fit"
    )


class Mesh(Section):
    """The mesh's policy: which namespaces are in it, who may talk how, who gets requests."""

    mtls: MtlsMode = Field(default="PERMISSIVE", description="the mesh-wide mTLS mode")
    mtls_gate: MtlsGate = Field(
        default=MtlsGate(), description="how plaintext is looked for before a mode becomes STRICT"
    )
    namespaces: dict[Label, Annotated[Namespace, BeforeValidator(defaults)]] = Field(
        default={}, description="the mesh's namespaces, by name"
    )
    services: dict[ServiceName, Service] = Field(
        default={}, description="the services with split traffic, by name"
    )
    egress: Egress = Field(
        default=Egress(), description="what may be called outside the cluster, and why"
    )
    workloads: dict[Label, Workload] = Field(
        default={}, description="Deployments whose sidecars have a size of their own, by name"
    )
    gateways: dict[Label, Gateway] = Field(
        default={}, description="the hosts that the mesh answers to from outside, by name"
    )

    @property
    def injected(self) -> list[str]:
        """The namespaces whose pods get a sidecar, sorted by name."""
        return sorted(name for name, namespace in self.namespaces.items() if namespace.injection)
