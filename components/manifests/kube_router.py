"""kube-router as the firewall of pods: it enforces NetworkPolicies and does nothing else.

Not with --netpol-default-deny: that rejects every packet from the pod network of a node that is not
one of its pods', and with flannel the node's own connections to pods of other nodes come from
there; the API server could no longer read a proxy. The node's own rules (firewall.nft) refuse the
packets of a pod that kube-router has not passed yet.
"""

from components.manifests import Manifest
from config import ports

NAMESPACE = "kube-system"
NAME = "kube-router"
_LABELS = {"k8s-app": NAME}
_RBAC = "rbac.authorization.k8s.io"
_WATCH = ["get", "list", "watch"]
_LOOPBACK, _HEALTH_PORT = "127.0.0.1", 20244
# Time to drop the rules of policies that were deleted just before: what is left allows everything.
_LAST_SYNC_SECONDS = 5


def kube_router(*, service_cidr: str, endpoint: str, image: str) -> list[Manifest]:
    """Every object of kube-router. endpoint: the API server's name, as the nodes resolve it."""
    metadata = {"name": NAME, "namespace": NAMESPACE, "labels": _LABELS}
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRole",
            "metadata": {"name": NAME, "labels": _LABELS},
            "rules": [
                {
                    "apiGroups": [""],
                    "resources": ["namespaces", "nodes", "pods", "services"],
                    "verbs": _WATCH,
                },
                {
                    "apiGroups": ["networking.k8s.io"],
                    "resources": ["networkpolicies"],
                    "verbs": _WATCH,
                },
                # It waits for them at its start, though a firewall does not use them.
                {
                    "apiGroups": ["discovery.k8s.io"],
                    "resources": ["endpointslices"],
                    "verbs": _WATCH,
                },
            ],
        },
        {
            "apiVersion": f"{_RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": NAME, "labels": _LABELS},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": metadata,
            "spec": {
                "selector": {"matchLabels": _LABELS},
                "template": {
                    "metadata": {"labels": _LABELS},
                    "spec": _pod(service_cidr, endpoint, image),
                },
            },
        },
    ]


def _pod(service_cidr: str, endpoint: str, image: str) -> Manifest:
    return {
        "hostNetwork": True,
        "priorityClassName": "system-node-critical",
        "serviceAccountName": NAME,
        # NoExecute too: without it, new pods of a node have no connections.
        "tolerations": [{"operator": "Exists"}],
        "containers": [_container(service_cidr, endpoint, image)],
        "volumes": [
            {
                "name": "xtables-lock",
                "hostPath": {"path": "/run/xtables.lock", "type": "FileOrCreate"},
            },
        ],
    }


def _container(service_cidr: str, endpoint: str, image: str) -> Manifest:
    return {
        "name": NAME,
        "image": image,
        "args": [
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            f"--service-cluster-ip-range={service_cidr}",
            f"--health-addr={_LOOPBACK}",
            f"--health-port={_HEALTH_PORT}",
        ],
        "env": [
            {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
            # As flannel: the address of the service works only once kube-proxy does.
            {"name": "KUBERNETES_SERVICE_HOST", "value": endpoint},
            {"name": "KUBERNETES_SERVICE_PORT", "value": str(ports.API)},
        ],
        "livenessProbe": {
            "httpGet": {"host": _LOOPBACK, "path": "/healthz", "port": _HEALTH_PORT},
            # Longer than the first listing of a large cluster may take (--cache-sync-timeout, 1m).
            "initialDelaySeconds": 70,
            "periodSeconds": 10,
        },
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_LAST_SYNC_SECONDS)]}}},
        "resources": {"requests": {"cpu": "100m", "memory": "100Mi"}},
        "securityContext": {
            "privileged": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]},
        },
        "volumeMounts": [{"name": "xtables-lock", "mountPath": "/run/xtables.lock"}],
    }
