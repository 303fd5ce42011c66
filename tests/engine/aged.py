"""A control plane with files of real kubeadm, whose certificates end when a test wants it."""

import base64
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from components.host.table import CERTIFICATES
from components.host.templates import render
from lab import paths
from tests.unit.ending import CERTIFICATE_FILES
from tests.unit.machine import Machine, Result

NAME = "cp-1"
CONFIGURATION = """
apiVersion: kubeadm.k8s.io/v1beta3
kind: InitConfiguration
localAPIEndpoint: {advertiseAddress: 192.0.2.11}
nodeRegistration: {name: cp-1}
---
apiVersion: kubeadm.k8s.io/v1beta3
kind: ClusterConfiguration
kubernetesVersion: v1.23.17
controlPlaneEndpoint: api.prod.example.internal:6443
apiServer: {certSANs: [api.prod.example.internal, 198.51.100.11]}
"""
_AUTHORITY = {"etcd": "pki/etcd/ca", "front-proxy": "pki/front-proxy-ca"}


def make(root: Path) -> Path:
    """Let kubeadm create the files of a control plane; returns their folder, /etc/kubernetes."""
    machine = Machine.make(root)
    install(machine, "kubeadm")
    machine.write("/kubeadm.yaml", CONFIGURATION)
    phases = ("certs all", "kubeconfig all", "control-plane apiserver", "etcd local")
    for phase in phases:
        result = machine.shell(f"kubeadm init phase {phase} --config /kubeadm.yaml")
        assert result.status == 0, result
    return machine.path("/etc/kubernetes")


def install(machine: Machine, *programs: str) -> None:
    """Copy programs of Kubernetes from the cache to a machine."""
    for program in programs:
        folder = "etcd" if program == "etcd" else "kubernetes"
        shutil.copy(paths.cache().bin / folder / program, machine.path("/usr/local/bin/"))


def prepare(machine: Machine, made: Path) -> None:
    """Make a machine a control plane whose certificates are new, with the script that renews."""
    shutil.copytree(made, machine.path("/etc/kubernetes"))
    install(machine, "kubeadm")
    result = machine.shell(
        "mkdir -p /var/lib/kubelet/pki && sed -n 's/^ *client-certificate-data: //p'"
        " /etc/kubernetes/kubelet.conf | base64 -d >/var/lib/kubelet/pki/kubelet-client-current.pem"
    )
    assert result.status == 0, result
    write_script(machine)


def write_script(machine: Machine) -> None:
    """Write the script as node-prepare.sh does."""
    machine.write(CERTIFICATES, render(CERTIFICATES.lstrip("/")) + "\n")


def run(plane: Machine, *arguments: str) -> Result:
    """Run the script as the service does."""
    return plane.shell(f"bash {CERTIFICATES} {' '.join(arguments)}")


def certificate(plane: Machine, name: str) -> x509.Certificate:
    text = plane.read(f"/etc/kubernetes/{CERTIFICATE_FILES[name]}")
    if name.endswith(".conf"):
        (data,) = re.findall(r"client-certificate-data: (\S+)", text)
        text = base64.b64decode(data).decode()
    return x509.load_pem_x509_certificate(text.encode())


def days_left(plane: Machine, name: str) -> float:
    left = certificate(plane, name).not_valid_after_utc - datetime.now(UTC)
    return left / timedelta(days=1)


def age(plane: Machine, name: str, *, left: int) -> None:
    """Replace a certificate with the same one that ends in some days (kubeadm has no setting)."""
    old = certificate(plane, name)
    folder = plane.path("/etc/kubernetes")
    issuer = next((ca for start, ca in _AUTHORITY.items() if name.startswith(start)), "pki/ca")
    if name == "apiserver-etcd-client":
        issuer = _AUTHORITY["etcd"]
    key = serialization.load_pem_private_key((folder / f"{issuer}.key").read_bytes(), None)
    assert isinstance(key, RSAPrivateKey)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(now - timedelta(days=365 - left))
        .not_valid_after(now + timedelta(days=left))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    text = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    file = folder / CERTIFICATE_FILES[name]
    if name.endswith(".conf"):
        before = base64.b64encode(old.public_bytes(serialization.Encoding.PEM)).decode()
        content = file.read_text()
        assert before in content
        file.write_text(content.replace(before, base64.b64encode(text).decode()))
    else:
        file.write_bytes(text)


def age_all(plane: Machine, *, left: int) -> None:
    for name in CERTIFICATE_FILES:
        age(plane, name, left=left)
