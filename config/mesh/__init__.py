"""The section `mesh`: namespaces, mTLS, services, gateways and egress."""

from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from config.access import AccountReference
from config.base import Section, defaults
from config.egress import Egress
from config.errors import KeyPath
from config.gateways import Gateway
from config.mtls import MtlsGate, MtlsMode
from config.scalars.names import Label, ServiceName
from config.scalars.numbers import PodCount
from config.scalars.texts import reason
from config.services import Service, entry_of
from config.workloads import Workload

UseDefaultReason = Annotated[
    str,
    reason(
        "use-default-reason",
        "reviewers must learn why objects that name no namespace join the mesh; previews show it",
    ),
]


PodSecurityLevel = Literal["privileged", "baseline", "restricted"]

PrivilegedReason = Annotated[
    str,
    reason(
        "privileged-reason",
        "a privileged pod can take over its node, with all that runs there; previews show why",
    ),
]


class PodSecurity(Section):
    """What the pods of a namespace may do to their node."""

    example: ClassVar = {"level": "restricted"}

    level: PodSecurityLevel = Field(
        description="the PodSecurity level of Kubernetes that new pods must meet",
        examples=["restricted"],
    )
    reason: PrivilegedReason | None = Field(
        default=None, description="why the pods may be privileged"
    )


class Namespace(Section):
    """A namespace of the mesh."""

    example: ClassVar = {"mtls": "STRICT"}

    injection: bool = Field(default=True, description="whether pods of the namespace get a sidecar")
    mtls: MtlsMode | None = Field(
        default=None, description="the namespace's mTLS mode, if it differs from mesh.mtls"
    )
    limit_view: bool = Field(
        default=False,
        description="whether its proxies know only the services that its pods are declared to call",
    )
    calls: list[AccountReference] = Field(
        default=[],
        description="services that its pods call and that are not in mesh.services, with limitView",
    )
    use_default: UseDefaultReason | None = Field(
        default=None,
        description="why to use the namespace default, where objects without a namespace go",
    )
    pods: PodCount | None = Field(
        default=None, description="the highest number of its pods, to check that their proxies fit"
    )
    pod_security: PodSecurity | None = Field(
        default=None,
        description="another PodSecurity level than baseline, without injection",
    )

    @property
    def enforced(self) -> PodSecurityLevel | None:
        """The PodSecurity level; None with injection, where istio-init needs NET_ADMIN."""
        if self.injection:
            return None
        return "baseline" if self.pod_security is None else self.pod_security.level


class Mesh(Section):
    """The mesh's policy: its namespaces, mTLS modes, routes, gateways and egress."""

    example: ClassVar = {"mtls": "STRICT"}

    mtls: MtlsMode = Field(default="PERMISSIVE", description="the mesh-wide mTLS mode")
    mtls_gate: MtlsGate = Field(
        default=MtlsGate(),
        description="how nordmesh looks for plaintext before a mode becomes STRICT",
    )
    namespaces: dict[Label, Annotated[Namespace, BeforeValidator(defaults)]] = Field(
        default={}, description="the mesh's namespaces, by name"
    )
    services: dict[ServiceName, Service] = Field(
        default={}, description="the services with routes and policies, by name"
    )
    network_policy: bool = Field(
        default=False,
        description="whether each node enforces callers and egress for pods without a sidecar, too",
    )
    egress: Egress = Field(
        default=Egress(), description="the hosts outside the cluster that may be called, and why"
    )
    workloads: dict[Label, Workload] = Field(
        default={}, description="Deployments whose sidecars have their own size, by name"
    )
    gateways: dict[Label, Gateway] = Field(
        default={}, description="the hosts that clients outside the mesh can request, by name"
    )

    def mtls_mode(self, name: str) -> tuple[KeyPath, MtlsMode]:
        """The effective mTLS mode of a service, and the path of the key that sets it."""
        service = self.services[name]
        if service.mtls is not None and service.mtls.mode is not None:
            return ("mesh", "services", name, "mtls", "mode"), service.mtls.mode
        namespace = self.namespaces.get(service.namespace)
        if namespace is not None and namespace.mtls is not None:
            return ("mesh", "namespaces", service.namespace, "mtls"), namespace.mtls
        return ("mesh", "mtls"), self.mtls

    def entry_of(self, namespace: str, service: str) -> str:
        """The entry of mesh.services for a Service that has one."""
        return str(entry_of(f"{namespace}/{service}", self.services))

    @property
    def shared_hosts(self) -> dict[tuple[str, str], list[str]]:
        """The services of each gateway and host that is routed by path.

        Such a host has one VirtualService at its gateway, because Istio does not define the order
        in which it merges several. Those are the hosts of services with `paths`, those of several
        services, and *.
        """
        services: dict[tuple[str, str], list[str]] = {}
        for name, service in self.services.items():
            if service.gateway in self.gateways and service.split_port.has_requests:
                for host in service.hosts:
                    services.setdefault((str(service.gateway), host), []).append(name)
        by_path = {name for name, service in self.services.items() if service.paths}
        while True:
            more = {
                name
                for (_, host), names in services.items()
                if host == "*" or len(names) > 1 or by_path & set(names)
                for name in names
            }
            if more <= by_path:
                break
            by_path |= more
        return {key: names for key, names in services.items() if by_path & set(names)}

    @property
    def by_path(self) -> frozenset[str]:
        """The services whose requests a gateway selects by path."""
        return frozenset(name for names in self.shared_hosts.values() for name in names)

    @property
    def injected(self) -> list[str]:
        """The namespaces whose pods get a sidecar, sorted by name."""
        return sorted(name for name, namespace in self.namespaces.items() if namespace.injection)
