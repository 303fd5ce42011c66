"""Namespaces of the mesh, and who may talk to their pods in plaintext."""

from components.manifests import Manifest
from config import Namespace, Service, ServiceMtls

NAMESPACE_POLICY = "default"
"""The name of the policy that is for a whole namespace."""


def namespace(name: str, settings: Namespace) -> Manifest:
    """A namespace of the mesh, labelled for injection or against it."""
    label = "enabled" if settings.injection else "disabled"
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "labels": {"istio-injection": label}},
    }


def peer_authentication(namespace: str, mode: str) -> Manifest:
    """The mTLS mode of a namespace; in ROOT_NAMESPACE, of the whole mesh."""
    return _policy(NAMESPACE_POLICY, namespace, {"mtls": {"mode": mode}})


def service_peer_authentication(name: str, service: Service, mtls: ServiceMtls) -> Manifest:
    """The mTLS modes of a service's pods; ports without one have the pods' or the namespace's.

    The ports are those of the pods, as Istio wants them here, not those of the Service.
    """
    spec: Manifest = {"selector": {"matchLabels": service.mtls_labels(name)}}
    if mtls.mode is not None:
        spec["mtls"] = {"mode": mtls.mode}
    if mtls.ports:
        modes = {str(port): {"mode": mode} for port, mode in sorted(mtls.ports.items())}
        spec["portLevelMtls"] = modes
    return _policy(name, service.namespace, spec)


def _policy(name: str, namespace: str, spec: Manifest) -> Manifest:
    return {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "PeerAuthentication",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
