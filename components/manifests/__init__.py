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
