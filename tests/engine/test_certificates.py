"""certificates.sh: real kubeadm renews real certificates on a fake control plane.

ctr is a fake whose containers start again with a new ID, as kubelet does it. kubectl is a fake with
one lease. openssl's connection to a server is a fake, too.
tests/unit/components/host/test_certificates.py has what needs no real kubeadm: the turns, and which
pods restart.
"""

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.engine import aged
from tests.engine.aged import NAME, age, age_all, certificate, days_left, run
from tests.unit.ending import CERTIFICATE_FILES, CTR
from tests.unit.machine import Machine

KUBECTL = r"""
case $* in
*' get lease '*) cat /lease 2>/dev/null || true ;;
*' delete lease '*) rm -f /lease ;;
*'create --filename -'*) cat >/dev/null; echo "cp-1 $(date -u +%FT%TZ) 7" >/lease ;;
*'annotate node'*) printf '%s\n' "${*: -1}" >/annotation ;;
esac
"""
OPENSSL = r"""
case $* in
*':2379') exec cat /etc/kubernetes/pki/etcd/server.crt ;;
*':6443') exec cat /etc/kubernetes/pki/apiserver.crt ;;
esac
exec /usr/bin/openssl "$@"
"""
PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aged.make(tmp_path_factory.mktemp("kubeadm") / "machine")


@pytest.fixture
def plane(tmp_path: Path, made: Path) -> Machine:
    """A control plane whose certificates are new."""
    return control_plane(tmp_path / "machine", made)


def control_plane(folder: Path, made: Path) -> Machine:
    """Pretend a control plane with the files of `made`, whose static pods only restart."""
    machine = Machine.make(folder)
    aged.prepare(machine, made)
    for command, body in {"kubectl": KUBECTL, "ctr": CTR, "openssl": OPENSSL}.items():
        machine.fake(command, body)
    machine.write("/tasks", "".join(f"{pod} 1\n" for pod in PODS))
    machine.skip_waits()
    return machine


def restarted(plane: Machine) -> list[str]:
    """The static pods that ran again, in their order."""
    kills = [line.rpartition(" ")[2] for line in plane.calls("ctr") if " kill " in line]
    return [task.rpartition("-")[0] for task in kills]


def report(plane: Machine) -> dict[str, str]:
    name, _, text = plane.read("/annotation").partition("=")
    assert name == "nordmesh.io/certificates"
    ends: dict[str, str] = json.loads(text)["ends"]
    return ends


def test_a_year_on_every_certificate_is_renewed(plane: Machine) -> None:
    age_all(plane, left=60)
    names_before = {
        name: certificate(plane, name).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
        for name in ("apiserver", "etcd-server", "etcd-peer")
    }
    result = run(plane)
    assert result.status == 0, result
    assert {name: round(days_left(plane, name)) for name in CERTIFICATE_FILES} == dict.fromkeys(
        CERTIFICATE_FILES, 365
    )
    for name, names in names_before.items():
        extensions = certificate(plane, name).extensions
        assert extensions.get_extension_for_class(x509.SubjectAlternativeName) == names
    assert restarted(plane) == list(PODS)
    assert set(report(plane)) == {*CERTIFICATE_FILES, "ca", "etcd-ca", "front-proxy-ca"}
    assert not plane.exists("/lease")
    log = plane.read("/var/log/nordmesh/certificates.log")
    assert log.count(" renewed ") == len(CERTIFICATE_FILES)
    assert log.count(" restarted ") == len(PODS)
    again = run(plane)
    assert (again.status, again.stdout) == (0, ""), again
    assert restarted(plane) == list(PODS)


def test_a_failed_renewal_leaves_the_certificates_as_they_were(plane: Machine) -> None:
    age(plane, "etcd-server", left=60)
    age(plane, "apiserver", left=60)
    before = {name: certificate(plane, name) for name in CERTIFICATE_FILES}
    plane.path("/etc/kubernetes/pki/ca.key").unlink()
    result = run(plane)
    assert result.status == 1
    assert "kubeadm does not renew apiserver" in result.stderr
    assert {name: certificate(plane, name) for name in CERTIFICATE_FILES} == before
    assert restarted(plane) == []
    assert not plane.exists("/lease")


def test_a_killed_run_is_continued(plane: Machine) -> None:
    """Killed after kubeadm wrote a new key and before it wrote the certificate."""
    age_all(plane, left=60)
    real = "/usr/local/bin/kubeadm"
    plane.path(real).rename(plane.path(f"{real}.real"))
    plane.write(
        real,
        f"""#!/bin/bash
        [ "$1 $3" != "certs apiserver" ] || {{
            /usr/bin/openssl genrsa -out /etc/kubernetes/pki/apiserver.key 2048
            kill -KILL "$PPID"
            exit 1
        }}
        exec {real}.real "$@"
        """,
        mode=0o755,
    )
    keys = "/etc/kubernetes/pki/encryption.yaml"
    plane.write(keys, "key1\n", mode=0o600)
    assert run(plane).status != 0
    assert restarted(plane) == []
    # The key of Secrets may be rotated before the next night.
    plane.write(keys, "key2\n", mode=0o600)
    plane.path(f"{real}.real").rename(plane.path(real))
    result = run(plane)
    assert result.status == 0, result
    assert round(days_left(plane, "apiserver")) == 365
    key = serialization.load_pem_private_key(
        plane.path("/etc/kubernetes/pki/apiserver.key").read_bytes(), None
    )
    assert key.public_key() == certificate(plane, "apiserver").public_key()
    assert plane.read(keys) == "key2\n"
    assert restarted(plane) == list(PODS)


def test_the_administrator_gets_a_new_certificate(plane: Machine) -> None:
    machine = replace(plane, name=NAME)
    settings = {"ENDPOINT": "api.prod.example.internal", "SINCE": "2026-01-02"}
    result = machine.run("admin-credentials.sh", settings)
    assert result.status == 0, result
    values = json.loads(result.stdout)
    issued, by_kubeadm = (
        x509.load_pem_x509_certificate(pem)
        for pem in (
            base64.b64decode(values["clientCertificate"]),
            certificate(plane, "admin.conf").public_bytes(serialization.Encoding.PEM),
        )
    )
    assert issued.subject == by_kubeadm.subject
    assert issued.serial_number != by_kubeadm.serial_number
    # The serial number of kubeadm's CA is 0, which the library will refuse.
    plane.path("/issued.pem").write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    verified = plane.shell("openssl verify -CAfile /etc/kubernetes/pki/ca.crt /issued.pem")
    assert verified.status == 0, verified
    key = serialization.load_pem_private_key(base64.b64decode(values["clientKey"]), None)
    assert key.public_key() == issued.public_key()
    assert "PRIVATE KEY" not in result.stderr
    assert machine.run("admin-credentials.sh", settings | {"SINCE": ""}).stdout == ""


def test_a_certificate_of_the_administrator_that_is_not_issued(plane: Machine) -> None:
    plane.path("/etc/kubernetes/pki/ca.key").unlink()
    settings = {"ENDPOINT": "api.prod.example.internal", "SINCE": "2026-01-02"}
    result = replace(plane, name=NAME).run("admin-credentials.sh", settings)
    assert result.status == 1
    assert "[credentials-not-issued]" in result.stderr
