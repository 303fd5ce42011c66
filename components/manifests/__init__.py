"""Pure functions from the config models to manifests; golden-tested, no I/O."""

from typing import Any, TypeAlias

Manifest: TypeAlias = dict[str, Any]
"""A Kubernetes object, or a kubeadm or Istio document, as in YAML."""

CONTAINER_SECURITY: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
"""The securityContext of each of our containers: no privilege escalation, read-only root."""
SYSTEM_POD: Manifest = {
    "priorityClassName": "system-cluster-critical",
    # As CoreDNS: a cluster may have no other node yet.
    "tolerations": [
        {"key": f"node-role.kubernetes.io/{role}", "effect": "NoSchedule"}
        for role in ("master", "control-plane")
    ],
    "securityContext": {
        "runAsNonRoot": True,
        "runAsUser": 65534,
        "runAsGroup": 65534,
        "seccompProfile": {"type": "RuntimeDefault"},
    },
}
"""Fields of the pods that the cluster itself needs; they may also run on a control plane."""


def deployment(metadata: Manifest, template: Manifest, **fields: Manifest) -> Manifest:
    """A Deployment of one pod, selected by the labels in `metadata`. fields: more of its spec."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {**metadata["labels"]}},
            **fields,
            "template": template,
        },
    }
