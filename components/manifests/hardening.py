"""The settings of the control plane that protect it, beyond what kubeadm sets by itself.

They follow the CIS benchmark for Kubernetes 1.23. `nordmesh report cis` names the items that
nordmesh deliberately does not follow, each with a reason.
"""

from collections.abc import Mapping
from pathlib import Path

from components.manifests import Manifest
from config import tls

AUDIT_POLICY_FILE = "/etc/kubernetes/audit/policy.yaml"
AUDIT_LOG = "/var/log/kubernetes/audit/audit.log"
ENCRYPTION_FILE = "/etc/kubernetes/pki/encryption.yaml"
"""In the directory of the certificates, which kubeadm mounts into the API server anyway."""

NO_PROFILING: Mapping[str, str] = {"profiling": "false"}

_DAYS, _FILES, _MEGABYTES = 30, 10, 100
"""How long, how many and how large the files of the audit log are: at most 1.1 GB on the disk."""


def api_server() -> Manifest:
    """The extraArgs and extraVolumes of the API server in a ClusterConfiguration."""
    return {
        "extraArgs": {
            **NO_PROFILING,
            "audit-log-maxage": str(_DAYS),
            "audit-log-maxbackup": str(_FILES),
            "audit-log-maxsize": str(_MEGABYTES),
            "audit-log-path": AUDIT_LOG,
            "audit-policy-file": AUDIT_POLICY_FILE,
            "encryption-provider-config": ENCRYPTION_FILE,
            "tls-cipher-suites": ",".join(tls.CIPHERS),
            "tls-min-version": tls.MINIMUM,
        },
        "extraVolumes": [
            _directory("audit-policy", AUDIT_POLICY_FILE, is_read_only=True),
            _directory("audit-log", AUDIT_LOG, is_read_only=False),
        ],
    }


def audit_policy() -> str:
    """The audit policy, without a newline at the end."""
    return (Path(__file__).parent / "audit-policy.yaml").read_text().rstrip("\n")


def _directory(name: str, file: str, *, is_read_only: bool) -> Manifest:
    path = file.rpartition("/")[0]
    return {
        "name": name,
        "hostPath": path,
        "mountPath": path,
        # kubeadm leaves out a false one, and a difference is drift.
        **({"readOnly": True} if is_read_only else {}),
        "pathType": "DirectoryOrCreate",
    }
