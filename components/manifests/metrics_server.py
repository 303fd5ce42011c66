"""metrics-server: the CPU and memory that nodes and pods use, which `kubectl top` and HPAs read."""

from components.manifests import CONTAINER_SECURITY, SYSTEM_POD, Manifest, deployment

NAMESPACE = "kube-system"
_NAME = "metrics-server"
_LABELS = {"k8s-app": _NAME}
_PORT = 4443
_RBAC = "rbac.authorization.k8s.io"


def metrics_server(*, image: str) -> list[Manifest]:
    """Every object of metrics-server but its API."""
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata()},
        *_reading(),
        *_serving(),
        _service(),
        _deployment(image),
    ]


def metrics_api() -> Manifest:
    """The API metrics.k8s.io, which the API server forwards to metrics-server.

    While nothing answers there, discovery is incomplete and namespaces cannot be deleted.
    """
    version = "v1beta1"
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{version}.metrics.k8s.io", "labels": _LABELS},
        "spec": {
            "group": "metrics.k8s.io",
            "version": version,
            "service": {"name": _NAME, "namespace": NAMESPACE},
            # metrics-server generates its certificate at each start.
            "insecureSkipTLSVerify": True,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
        },
    }


def _metadata() -> Manifest:
    return {"name": _NAME, "namespace": NAMESPACE, "labels": _LABELS}


def _reading() -> list[Manifest]:
    """The rights of metrics-server, and of anyone who may view pods to view their metrics."""
    watch = ["list", "watch"]
    return [
        _cluster_role(
            f"system:{_NAME}",
            {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["nodes", "pods"], "verbs": watch},
        ),
        _binding(f"system:{_NAME}", "ClusterRole", f"system:{_NAME}"),
        _cluster_role(
            "system:aggregated-metrics-reader",
            {"apiGroups": ["metrics.k8s.io"], "resources": ["nodes", "pods"], "verbs": _READ},
            labels={f"{_RBAC}/aggregate-to-{role}": "true" for role in ("view", "edit", "admin")},
        ),
    ]


_READ = ["get", "list", "watch"]


def _serving() -> list[Manifest]:
    """The rights of every extension API server: to authenticate and authorize callers."""
    return [
        _binding(f"{_NAME}:system:auth-delegator", "ClusterRole", "system:auth-delegator"),
        _binding(
            f"{_NAME}-auth-reader",
            "Role",
            "extension-apiserver-authentication-reader",
            namespace=NAMESPACE,
        ),
    ]


def _cluster_role(name: str, *rules: Manifest, labels: dict[str, str] | None = None) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": {**_LABELS, **(labels or {})}},
        "rules": list(rules),
    }


def _binding(name: str, kind: str, role: str, *, namespace: str | None = None) -> Manifest:
    place = {"namespace": namespace} if namespace else {}
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "RoleBinding" if namespace else "ClusterRoleBinding",
        "metadata": {"name": name, **place, "labels": _LABELS},
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": _NAME, "namespace": NAMESPACE}],
    }


def _service() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(),
        "spec": {
            "selector": _LABELS,
            "ports": [{"name": "https", "port": 443, "targetPort": "https"}],
        },
    }


def _deployment(image: str) -> Manifest:
    pod = {
        "serviceAccountName": _NAME,
        **SYSTEM_POD,
        "containers": [_container(image)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    template = {"metadata": {"labels": _LABELS}, "spec": pod}
    return deployment(_metadata(), template, strategy={"rollingUpdate": {"maxUnavailable": 0}})


def _container(image: str) -> Manifest:
    return {
        "name": _NAME,
        "image": image,
        "args": [
            f"--secure-port={_PORT}",
            "--cert-dir=/tmp",
            "--metric-resolution=15s",
            "--kubelet-preferred-address-types=InternalIP",
            "--kubelet-use-node-status-port",
            # Each kubelet signs its serving certificate itself: nothing would renew one that the
            # cluster's CA had signed. The API server does not check them either.
            "--kubelet-insecure-tls",
        ],
        "ports": [{"name": "https", "containerPort": _PORT}],
        # Ready as soon as it has metrics.
        "readinessProbe": _probe("/readyz", period=2),
        "livenessProbe": _probe("/livez", period=10),
        # Upstream's values, for up to 100 nodes.
        "resources": {"requests": {"cpu": "100m", "memory": "200Mi"}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 (of the pod)
    }


def _probe(path: str, *, period: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": "https", "scheme": "HTTPS"},
        "periodSeconds": period,
    }
