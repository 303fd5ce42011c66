"""The section `mesh`: which namespaces are in it, and who may talk how."""

from typing import Literal

from pydantic import Field

from stacks.config.base import Section
from stacks.config.gateways import Gateway
from stacks.config.services import Service
from stacks.fields import Label, ServiceName

MtlsMode = Literal["PERMISSIVE", "STRICT"]


class Namespace(Section):
    """A namespace of the mesh."""

    injection: bool = Field(default=True, description="whether pods of the namespace get a sidecar")
    mtls: MtlsMode | None = Field(
        default=None, description="the namespace's mTLS mode, where mesh.mtls does not fit"
    )


class Mesh(Section):
    """The mesh's policy: which namespaces are in it, who may talk how, who gets requests."""

    mtls: MtlsMode = Field(default="PERMISSIVE", description="the mesh-wide mTLS mode")
    namespaces: dict[Label, Namespace] = Field(
        default={}, description="the mesh's namespaces, by name"
    )
    services: dict[ServiceName, Service] = Field(
        default={}, description="the services with split traffic, by name"
    )
    gateways: dict[Label, Gateway] = Field(
        default={}, description="the hosts that the mesh answers to from outside, by name"
    )

    @property
    def injected(self) -> list[str]:
        """The namespaces whose pods get a sidecar, sorted by name."""
        return sorted(name for name, namespace in self.namespaces.items() if namespace.injection)
