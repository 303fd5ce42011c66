"""Certificates that end in some days, and where a cluster shows them."""

import base64
import json
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.certificates import ANNOTATION
from components.manifests import kubeadm

CERTIFICATE_FILES = {
    "etcd-server": "pki/etcd/server.crt",
    "etcd-peer": "pki/etcd/peer.crt",
    "etcd-healthcheck-client": "pki/etcd/healthcheck-client.crt",
    "apiserver": "pki/apiserver.crt",
    "apiserver-etcd-client": "pki/apiserver-etcd-client.crt",
    "apiserver-kubelet-client": "pki/apiserver-kubelet-client.crt",
    "front-proxy-client": "pki/front-proxy-client.crt",
    "controller-manager.conf": "controller-manager.conf",
    "scheduler.conf": "scheduler.conf",
    "admin.conf": "admin.conf",
}
"""What kubeadm renews: the file below /etc/kubernetes of each, by its name in kubeadm."""

CTR = r"""
case $* in
*'containers list'*) pod=${*: -1}; pod=${pod##*==}; sed -n "s/^$pod \(.*\)/$pod-\1/p" /tasks ;;
*'tasks list'*) echo TASK PID STATUS; sed 's/\(.*\) \(.*\)/\1-\2 1 RUNNING/' /tasks ;;
*'tasks kill'*)
    pod=${*: -1}
    sed -i "s/^${pod%-*} ${pod##*-}$/${pod%-*} $((${pod##*-} + 1))/" /tasks
    ;;
esac
"""
"""A fake ctr. /tasks has a line `pod number` for each static pod, which starts again if killed."""

_KEY = ec.generate_private_key(ec.SECP256R1())
KUBELET_METRICS = """# TYPE kubelet_certificate_manager_client_ttl_seconds gauge
kubelet_certificate_manager_client_ttl_seconds 1.7280e+07
kubelet_running_pods 7
"""
"""The metrics of a kubelet whose certificate ends in 200 days."""


@cache
def certificate(*, days: float, start: datetime | None = None, subject: str = "test") -> str:
    """A certificate that ends in some days, in PEM. start: if it lasts these days from then on."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(_KEY.public_key())
        .serial_number(1)
        .not_valid_before(start or now - timedelta(days=365))
        .not_valid_after((start or now) + timedelta(days=days, hours=1))
        .sign(_KEY, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM).decode()


def encoded(text: str) -> str:
    """A text as in a Secret or a kubeconfig."""
    return base64.b64encode(text.encode()).decode()


def login(*, days: float) -> str:
    """A kubeconfig whose certificate ends in some days."""
    credentials = {"ca": "", "clientCertificate": encoded(certificate(days=days)), "clientKey": ""}
    return kubeadm.admin_kubeconfig(credentials, endpoint="api.internal", address="192.0.2.11")


def with_report(node: dict[str, Any], *, days: float, age: float = 0, **others: float) -> None:
    """Let a node report certificates that end in some days. age: of the report, in days."""
    now = datetime.now(UTC)

    def moment(offset: float) -> str:
        return f"{now + timedelta(days=offset, hours=1):%Y-%m-%dT%H:%M:%SZ}"

    ends = {"apiserver": days, "etcd-server": days, "ca": 3000, **others}
    value = {"checked": moment(-age), "ends": {name: moment(end) for name, end in ends.items()}}
    node["metadata"]["annotations"] = {ANNOTATION: json.dumps(value)}


CREDENTIALS = login(days=300)
