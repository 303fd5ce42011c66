"""The labels of a namespace that make the API server refuse pods: written here, and read here."""

from collections.abc import Mapping
from typing import Any, get_args

from config.mesh import PodSecurityLevel

PREFIX = "pod-security.kubernetes.io/"
ENFORCE = f"{PREFIX}enforce"
LEVELS: tuple[PodSecurityLevel, ...] = get_args(PodSecurityLevel)
"""From the weakest to the strictest."""


def labels(level: PodSecurityLevel, kubernetes: str) -> dict[str, str]:
    """The labels of a level, by the rules of a version of Kubernetes.

    `enforce` is for pods alone; `warn` also tells the author of a Deployment, at once.
    """
    minor = "v" + ".".join(kubernetes.split(".")[:2])
    return {
        f"{PREFIX}{mode}{part}": value
        for mode in ("enforce", "warn")
        for part, value in (("", level), ("-version", minor))
    }


def enforced(manifest: Mapping[str, Any] | None) -> str | None:
    """Read the level of a namespace; None if it has none."""
    written = ((manifest or {}).get("metadata") or {}).get("labels") or {}
    level: str | None = written.get(ENFORCE)
    return level
