"""The demo: an echo service in two versions, and clients inside and outside the mesh."""

from components.manifests import CONTAINER_SECURITY, Manifest, deployment
from components.manifests.pod_security import ENFORCE
from config import OUTSIDE_NAMESPACE, Service
from config.scalars.names import subset_name

CLIENT = "client"
_PORT = 8080


def echo_service(name: str, service: Service) -> Manifest:
    """The Service of both versions."""
    return _service(name, service.namespace, service.split_port.number)


def echo_deployment(
    name: str,
    version: str,
    *,
    namespace: str,
    image: str,
    account: str = "default",
    version_label: str = "version",
) -> Manifest:
    """One version of the echo service. account: the service account of its pods."""
    container = {
        "name": "echo",
        "image": image,
        "args": ["serve", "--addr", f":{_PORT}"],
        "env": [{"name": "VERSION", "value": version}],
        "ports": [{"containerPort": _PORT, "name": "http-echo"}],
        "readinessProbe": {"httpGet": {"path": "/healthz", "port": _PORT}, "periodSeconds": 2},
    }
    labels = {"app": name, version_label: version}
    return _deployment(f"{name}-{subset_name(version)}", namespace, labels, container, account)


def client_deployment(namespace: str, *, image: str) -> Manifest:
    """A pod to send requests from: `kubectl exec deploy/client -c client -- /echo call ...`.

    In the mesh it runs as its own service account, so that a service can name it as a caller.
    """
    account = "default" if namespace == OUTSIDE_NAMESPACE else CLIENT
    container = {"name": "client", "image": image, "args": ["serve", "--addr", f":{_PORT}"]}
    return _deployment(CLIENT, namespace, {"app": CLIENT, "version": "v1"}, container, account)


def service_account(name: str, namespace: str) -> Manifest:
    """The identity of pods: the mesh issues certificates for it."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": name, "namespace": namespace},
        "automountServiceAccountToken": False,
    }


def client_service(namespace: str) -> Manifest:
    """The client's Service; istioctl analyze expects one for every workload in the mesh."""
    return _service(CLIENT, namespace, _PORT)


def outside_namespace() -> Manifest:
    """A namespace outside the mesh."""
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": OUTSIDE_NAMESPACE,
            "labels": {"istio-injection": "disabled", ENFORCE: "baseline"},
        },
    }


def _service(app: str, namespace: str, port: int) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": app, "namespace": namespace, "labels": {"app": app}},
        "spec": {
            "selector": {"app": app},
            # The port's name tells Istio the protocol.
            "ports": [{"name": "http-echo", "port": port, "targetPort": _PORT}],
        },
    }


def _deployment(
    name: str, namespace: str, labels: dict[str, str], container: Manifest, account: str
) -> Manifest:
    hardened = {
        **container,
        "resources": {
            "requests": {"cpu": "10m", "memory": "16Mi"},
            "limits": {"cpu": "500m", "memory": "64Mi"},
        },
        "securityContext": {**CONTAINER_SECURITY, "runAsNonRoot": True, "runAsUser": 10001},
    }
    pod = {
        "containers": [hardened],
        "serviceAccountName": account,
        "automountServiceAccountToken": False,
    }
    return deployment(
        {"name": name, "namespace": namespace, "labels": labels},
        {"metadata": {"labels": labels}, "spec": pod},
    )
