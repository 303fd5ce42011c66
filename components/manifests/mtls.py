"""Namespaces of the mesh, and the mTLS modes of their pods: written here, and read here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.manifests import Manifest, pod_security
from config import Namespace, Service, ServiceMtls

NAMESPACE_POLICY = "default"
"""The name of the policy of a whole namespace."""

INHERITED = "UNSET"
"""Istio's name for a mode that the namespace or the mesh decides."""


@dataclass(frozen=True, kw_only=True)
class Modes:
    """The modes of a PeerAuthentication. mode: of its pods, None if unset. ports: by number."""

    mode: str | None
    ports: Mapping[str, str] = field(default_factory=dict)

    def mode_of(self, port: str) -> str | None:
        return self.ports.get(port, self.mode)


def modes_of(policy: Mapping[str, Any]) -> Modes:
    """Read the modes of a PeerAuthentication, without parts that a preview does not know yet."""
    spec = _mapping(policy.get("spec"))
    ports = _mapping(spec.get("portLevelMtls"))
    return Modes(
        mode=_mapping(spec.get("mtls")).get("mode"),
        ports={str(port): _mapping(mtls).get("mode", INHERITED) for port, mtls in ports.items()},
    )


def namespace(name: str, settings: Namespace, *, kubernetes: str) -> Manifest:
    """A namespace of the mesh, with injection on or off. kubernetes: the cluster's version."""
    labels = {"istio-injection": "enabled" if settings.injection else "disabled"}
    if level := settings.enforced:
        labels |= pod_security.labels(level, kubernetes)
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def injector_of(namespace: Mapping[str, Any]) -> str | None:
    """Read which revision of Istio gives the pods of a namespace a sidecar; None if none does."""
    labels = _mapping(_mapping(namespace.get("metadata")).get("labels"))
    if revision := labels.get("istio.io/rev"):
        return str(revision)
    return "default" if labels.get("istio-injection") == "enabled" else None


def peer_authentication(namespace: str, mode: str) -> Manifest:
    """The mTLS mode of a namespace; in ROOT_NAMESPACE, of the whole mesh."""
    return _policy(NAMESPACE_POLICY, namespace, {"mtls": {"mode": mode}})


def service_peer_authentication(name: str, service: Service, mtls: ServiceMtls) -> Manifest:
    """The mTLS modes of a service's pods; other ports have the mode of the pods or the namespace.

    The ports are those of the pods, not those of the Service, as Istio requires.
    """
    spec: Manifest = {"selector": {"matchLabels": service.mtls_labels(name)}}
    if mtls.mode is not None:
        spec["mtls"] = {"mode": mtls.mode}
    if mtls.ports:
        modes = {str(port): {"mode": mode} for port, mode in sorted(mtls.ports.items())}
        spec["portLevelMtls"] = modes
    return _policy(service.kubernetes_name(name), service.namespace, spec)


def _policy(name: str, namespace: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
