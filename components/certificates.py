"""The certificates of control planes, as certificates.sh reports them on their nodes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

ANNOTATION = "nordmesh.io/certificates"
"""The annotation of a control plane's node; certificates.sh writes it every night."""

AUTHORITIES = ("ca", "etcd-ca", "front-proxy-ca")
"""The certificates in a report that nothing renews."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """checked: when the report was written. ends: when each certificate ends, by kubeadm's name."""

    checked: datetime
    ends: Mapping[str, datetime]


def report(node: Mapping[str, Any]) -> Report | None:
    """The report on a node; None without one, or if it cannot be read."""
    try:
        value = json.loads((node["metadata"].get("annotations") or {})[ANNOTATION])
        return Report(
            checked=datetime.fromisoformat(value["checked"]),
            ends={str(name): datetime.fromisoformat(end) for name, end in value["ends"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
