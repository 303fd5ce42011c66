"""The section `mesh`: which namespaces are in it, and who may talk how."""

from pydantic import Field

from stacks.config.base import Section
from stacks.config.mtls import MtlsGate, MtlsMode
from stacks.config.services import Service
from stacks.fields import Label, ServiceName


class Namespace(Section):
    """A namespace of the mesh."""

    injection: bool = Field(default=True, description="whether pods of the namespace get a sidecar")
    mtls: MtlsMode | None = Field(
        default=None, description="the namespace's mTLS mode, where mesh.mtls does not fit"
    )


class Mesh(Section):
    """The mesh's policy: which namespaces are in it, who may talk how, who gets requests."""

    mtls: MtlsMode = Field(default="PERMISSIVE", description="the mesh-wide mTLS mode")
    mtls_gate: MtlsGate = Field(
        default=MtlsGate(), description="how plaintext is looked for before a mode becomes STRICT"
    )
    namespaces: dict[Label, Namespace] = Field(
        default={}, description="the mesh's namespaces, by name"
    )
    services: dict[ServiceName, Service] = Field(
        default={}, description="the services with split traffic, by name"
    )
