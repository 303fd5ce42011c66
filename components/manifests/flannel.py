"""flannel, the pod network: VXLAN between the nodes (UDP 8472)."""

import json

from components.manifests import Manifest
from components.manifests.pod_security import ENFORCE
from config import ports

NAMESPACE = "kube-flannel"
_NAME = "flannel"
_LABELS = {"app": "flannel", "tier": "node"}

_CNI = {
    "name": "cbr0",
    "cniVersion": "0.3.1",
    "plugins": [
        {"type": "flannel", "delegate": {"hairpinMode": True, "isDefaultGateway": True}},
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def flannel(*, pod_cidr: str, endpoint: str, image: str, plugin_image: str) -> list[Manifest]:
    """Every object of flannel, its namespace first.

    endpoint: the API server's name, as the nodes' /etc/hosts has it.
    """
    metadata = {"name": _NAME, "namespace": NAMESPACE}
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": NAMESPACE,
                # It changes the node's routes and firewall, which no lower level allows.
                "labels": {ENFORCE: "privileged"},
            },
        },
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": _NAME},
            "rules": [
                {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": _NAME},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": _NAME,
            },
            "subjects": [{"kind": "ServiceAccount", **metadata}],
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": metadata,
            "data": {
                "cni-conf.json": json.dumps(_CNI),
                "net-conf.json": json.dumps({"Network": pod_cidr, "Backend": {"Type": "vxlan"}}),
            },
        },
        _daemon_set(metadata, endpoint, image, plugin_image),
    ]


def _daemon_set(metadata: Manifest, endpoint: str, image: str, plugin_image: str) -> Manifest:
    pod = {
        "hostNetwork": True,
        "priorityClassName": "system-node-critical",
        "serviceAccountName": _NAME,
        # NoExecute too: without flannel, no pod of a node has a network.
        "tolerations": [{"operator": "Exists"}],
        "initContainers": _copies(image, plugin_image),
        "containers": [_daemon(endpoint, image)],
        "volumes": [
            _host_path("run", "/run/flannel"),
            _host_path("cni-plugins", "/opt/cni/bin"),
            _host_path("cni-config", "/etc/cni/net.d"),
            {"name": "config", "configMap": {"name": _NAME}},
            _host_path("xtables-lock", "/run/xtables.lock", kind="File"),
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {**metadata, "labels": _LABELS},
        "spec": {
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": pod},
        },
    }


def _copies(image: str, plugin_image: str) -> list[Manifest]:
    """The containers that copy the plugin and its configuration to the node."""
    configuration = "/etc/kube-flannel/cni-conf.json", "/etc/cni/net.d/10-flannel.conflist"
    return [
        {
            "name": "install-plugin",
            "image": plugin_image,
            "command": ["cp", "-f", "/flannel", "/opt/cni/bin/flannel"],
            "volumeMounts": [{"name": "cni-plugins", "mountPath": "/opt/cni/bin"}],
        },
        {
            "name": "install-config",
            "image": image,
            "command": ["cp", "-f", *configuration],
            "volumeMounts": [
                {"name": "cni-config", "mountPath": "/etc/cni/net.d"},
                {"name": "config", "mountPath": "/etc/kube-flannel"},
            ],
        },
    ]


def _daemon(endpoint: str, image: str) -> Manifest:
    return {
        "name": "flannel",
        "image": image,
        # By default, flannel takes the interface of the default route: another one than the
        # node's on a machine with two, and none without such a route.
        "command": ["/opt/bin/flanneld", "--ip-masq", "--kube-subnet-mgr", "--iface=$(NODE_IP)"],
        "resources": {"requests": {"cpu": "100m", "memory": "50Mi"}},
        "securityContext": {
            "privileged": False,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]},
        },
        "env": [
            *(
                {"name": name, "valueFrom": {"fieldRef": {"fieldPath": field}}}
                for name, field in (
                    ("POD_NAME", "metadata.name"),
                    ("POD_NAMESPACE", "metadata.namespace"),
                    ("NODE_IP", "status.hostIP"),
                )
            ),
            # As kubelet does: the address of the service works only once kube-proxy does.
            {"name": "KUBERNETES_SERVICE_HOST", "value": endpoint},
            {"name": "KUBERNETES_SERVICE_PORT", "value": str(ports.API)},
        ],
        "volumeMounts": [
            {"name": "run", "mountPath": "/run/flannel"},
            {"name": "config", "mountPath": "/etc/kube-flannel"},
            {"name": "xtables-lock", "mountPath": "/run/xtables.lock"},
        ],
    }


def _host_path(name: str, path: str, *, kind: str = "Directory") -> Manifest:
    return {"name": name, "hostPath": {"path": path, "type": f"{kind}OrCreate"}}
