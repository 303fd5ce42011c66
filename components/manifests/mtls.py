"""Namespaces of the mesh, and who may talk to their pods in plaintext."""

from components.manifests import Manifest
from stacks.config import Namespace

ROOT_NAMESPACE = "istio-system"


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
    return {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"mtls": {"mode": mode}},
    }
