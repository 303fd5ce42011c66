"""Limit the view of a namespace's proxies to the services that their pods call."""

from components.manifests import Manifest
from components.manifests.routes import host
from config import ROOT_NAMESPACE, Mesh, account

# Pods of any namespace may call the API server, and DNS over TCP for long answers.
_ALWAYS = (
    "./*",
    f"{ROOT_NAMESPACE}/*",
    "default/kubernetes.default.svc.cluster.local",
    "kube-system/kube-dns.kube-system.svc.cluster.local",
)


def sidecar(namespace: str, mesh: Mesh) -> Manifest:
    """The view of a namespace: itself, Istio, external hosts, and the services that it calls.

    It calls the services that declare a caller from it, and may call those that declare none.
    """
    called = {
        f"{service.namespace}/{host(name, service)}"
        for name, service in mesh.services.items()
        if service.namespace != namespace and may_call(namespace, name, mesh)
    }
    for reference in mesh.namespaces[namespace].calls:
        other, _, name = reference.partition("/")
        if other != namespace:  # ./* includes it, and Istio warns of duplicates
            called.add(f"{other}/{name}.{other}.svc.cluster.local")
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "Sidecar",
        "metadata": {"name": "default", "namespace": namespace},
        "spec": {"egress": [{"hosts": [*_ALWAYS, *sorted(called)]}]},
    }


def may_call(namespace: str, name: str, mesh: Mesh) -> bool:
    """Whether pods of a namespace may call a service: it lists one as a caller, or lists none."""
    callers = mesh.services[name].callers
    if callers is None:
        return True
    return any(account(caller, mesh.services)[0] == namespace for caller in callers)
