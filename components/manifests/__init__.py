"""Pure functions from the config models to manifests; golden-tested, no I/O."""

from typing import Any, TypeAlias

Manifest: TypeAlias = dict[str, Any]
"""A Kubernetes object, or a kubeadm or Istio document, as it would stand in YAML."""
