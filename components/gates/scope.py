"""What an edit of an mTLS mode changes: the pods and ports that become STRICT."""

from dataclasses import dataclass

from components.gates import stats
from components.gates.inventory import BarePod, Proxy
from components.manifests import mtls
from components.manifests.mtls import Modes
from config import ROOT_NAMESPACE, Mesh, ServiceMtls
from config.errors import NAMESPACE

UNCHANGED = "the mode stays as it was"


@dataclass(frozen=True, kw_only=True)
class Change:
    """An edit of a PeerAuthentication. name: NAMESPACE_POLICY, or the entry of mesh.services."""

    namespace: str
    name: str
    before: Modes
    after: Modes

    @property
    def path(self) -> str:
        """The key of the mode in the stack file."""
        if self.name != mtls.NAMESPACE_POLICY:
            return f"{NAMESPACE}:mesh.services.{self.name}.mtls"
        if self.namespace == ROOT_NAMESPACE:
            return f"{NAMESPACE}:mesh.mtls"
        return f"{NAMESPACE}:mesh.namespaces.{self.namespace}.mtls"

    @property
    def ports(self) -> set[str]:
        """The ports whose mode may change: each port with its own mode, and all others as one."""
        return {*self.before.ports, *self.after.ports, stats.OTHER_PORTS}

    @property
    def makes_strict(self) -> bool:
        """Whether any port becomes STRICT that was not STRICT before."""
        return any(self.makes_port_strict(port) for port in self.ports)

    def makes_port_strict(self, port: str) -> bool:
        return self.after.mode_of(port) == "STRICT" != self.before.mode_of(port)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The pods and ports whose mode a change sets: no more specific policy does."""

    mesh: Mesh
    change: Change

    def has(self, proxy: Proxy) -> bool:
        """Whether a port of a pod may become STRICT."""
        return proxy.sidecar and self._has_pod(proxy)

    def has_bare(self, pod: BarePod) -> bool:
        """Whether a pod without a sidecar belongs to the mesh, and would be STRICT with one."""
        return pod.namespace in self.mesh.injected and self._has_pod(pod)

    def has_port(self, pod: Proxy | BarePod, port: str) -> bool:
        return self._is_governed(pod, port) and self.change.makes_port_strict(port)

    def _has_pod(self, pod: Proxy | BarePod) -> bool:
        return any(self.has_port(pod, port) for port in self.change.ports)

    def _is_governed(self, pod: Proxy | BarePod, port: str) -> bool:
        policies = self._service_policies(pod)
        if self.change.name != mtls.NAMESPACE_POLICY:
            return self.change.name in policies
        if any(_sets_mode(policy, port) for policy in policies.values()):
            return False
        if self.change.namespace == ROOT_NAMESPACE:
            settings = self.mesh.namespaces.get(pod.namespace)
            return settings is None or settings.mtls is None
        return pod.namespace == self.change.namespace

    def _service_policies(self, pod: Proxy | BarePod) -> dict[str, ServiceMtls]:
        return {
            name: service.mtls
            for name, service in self.mesh.services.items()
            if service.mtls is not None
            and service.namespace == pod.namespace
            and service.mtls_labels(name).items() <= pod.labels.items()
        }


def _sets_mode(policy: ServiceMtls, port: str) -> bool:
    modes = {str(number): mode for number, mode in policy.ports.items()}
    return modes.get(port, policy.mode) is not None
