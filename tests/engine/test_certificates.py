"""certificates.sh: real kubeadm renews real certificates on a fake control plane.

ctr is a fake whose containers start again with a new ID, as kubelet does it. kubectl is a fake with
one lease and the pods of another control plane. openssl's connection to a server is a fake, too.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.engine import aged
from tests.engine.aged import LEAVES, NAME, age, age_all, certificate, days_left, run
from tests.unit.machine import Machine, Result

KUBECTL = r"""
case $* in
*' get lease '*) cat /lease 2>/dev/null || true ;;
*' delete lease '*) rm -f /lease ;;
*'create --filename -'*)
    [ ! -e /lease ] || exit 1
    echo "cp-1 $(date -u +%FT%TZ) 7" >/lease
    cat >/dev/null
    ;;
*'replace --filename -'*) cat >/replaced; echo "cp-1 $(date -u +%FT%TZ) 8" >/lease ;;
*' get pods '*) cat /pods 2>/dev/null || true ;;
*'annotate node'*) printf '%s\n' "${*: -1}" >/annotation ;;
esac
"""
# /tasks has a line `pod number` for each running static pod.
CTR = r"""
case $* in
*'containers list'*) pod=${*: -1}; pod=${pod##*==}; sed -n "s/^$pod \(.*\)/$pod-\1/p" /tasks ;;
*'tasks list'*) echo TASK PID STATUS; sed 's/\(.*\) \(.*\)/\1-\2 1 RUNNING/' /tasks ;;
*'tasks kill'*)
    pod=${*: -1}
    [ -e /stuck ] || sed -i "s/^${pod%-*} ${pod##*-}$/${pod%-*} $((${pod##*-} + 1))/" /tasks
    ;;
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
    machine = Machine.make(tmp_path / "machine")
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
    assert {name: round(days_left(plane, name)) for name in LEAVES} == dict.fromkeys(LEAVES, 365)
    for name, names in names_before.items():
        extensions = certificate(plane, name).extensions
        assert extensions.get_extension_for_class(x509.SubjectAlternativeName) == names
    assert restarted(plane) == list(PODS)
    assert set(report(plane)) == {*LEAVES, "ca", "etcd-ca", "front-proxy-ca"}
    assert not plane.exists("/lease")
    log = plane.read("/var/log/nordmesh/certificates.log")
    assert log.count(" renewed ") == len(LEAVES)
    assert log.count(" restarted ") == len(PODS)
    again = run(plane)
    assert (again.status, again.stdout) == (0, ""), again
    assert restarted(plane) == list(PODS)


def test_new_certificates_are_only_reported(plane: Machine) -> None:
    before = {name: certificate(plane, name) for name in LEAVES}
    result = run(plane)
    assert result.status == 0, result
    assert {name: certificate(plane, name) for name in LEAVES} == before
    assert restarted(plane) == []
    expected = before["apiserver"].not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ")
    assert report(plane)["apiserver"] == expected
    assert not [line for line in plane.calls("kubectl") if "lease" in line]


@pytest.mark.parametrize(
    ("name", "pods"),
    [
        ("front-proxy-client", ["kube-apiserver"]),
        ("etcd-peer", ["etcd"]),
        ("scheduler.conf", ["kube-scheduler"]),
        ("admin.conf", []),
    ],
)
def test_only_what_holds_a_renewed_certificate_restarts(
    plane: Machine, name: str, pods: Sequence[str]
) -> None:
    others = {other: certificate(plane, other) for other in LEAVES if other != name}
    age(plane, name, left=89)
    result = run(plane)
    assert result.status == 0, result
    assert round(days_left(plane, name)) == 365
    assert {other: certificate(plane, other) for other in others} == others
    assert restarted(plane) == pods


def test_a_report_renews_nothing(plane: Machine) -> None:
    age(plane, "apiserver", left=5)
    assert run(plane, "report").status == 0
    assert round(days_left(plane, "apiserver")) == 5
    assert "apiserver" in report(plane)


def test_control_planes_wait_for_their_turn(plane: Machine) -> None:
    age(plane, "apiserver", left=60)
    plane.write("/lease", f"cp-2 {datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000000Z 7\n")
    result = run(plane)
    assert result.status == 1
    assert "cp-2 has had the turn since" in result.stderr
    assert round(days_left(plane, "apiserver")) == 60
    yesterday = datetime.now(UTC) - timedelta(hours=25)
    plane.write("/lease", f"cp-2 {yesterday:%Y-%m-%dT%H:%M:%S}.000000Z 7\n")
    assert run(plane).status == 0
    assert json.loads(plane.read("/replaced"))["metadata"]["resourceVersion"] == "7"
    assert round(days_left(plane, "apiserver")) == 365


def test_no_restart_while_another_control_plane_is_down(plane: Machine) -> None:
    plane.write("/pods", "cp-1 etcd-cp-1 False\ncp-2 etcd-cp-2 False\n")
    age(plane, "apiserver", left=60)
    result = run(plane)
    assert result.status == 1
    assert "etcd-cp-2 is not ready [certificates-others-not-ready]" in result.stderr
    assert restarted(plane) == []
    assert not plane.exists("/lease")
    age(plane, "apiserver", left=10)
    assert run(plane).status == 0
    assert restarted(plane) == ["kube-apiserver"]


@pytest.mark.parametrize("left", [60, 10])
def test_without_an_api_server_only_what_ends_soon_is_renewed(plane: Machine, left: int) -> None:
    down = KUBECTL.replace(
        "case", "case $* in *lease*|*pods*) echo refused >&2; exit 1 ;; esac\ncase"
    )
    plane.fake("kubectl", down)
    age(plane, "apiserver", left=left)
    result = run(plane)
    assert result.status == (0 if left == 10 else 1), result
    assert ("[certificates-without-answer]" in result.stderr) == (left == 60)
    assert round(days_left(plane, "apiserver")) == (365 if left == 10 else 60)


def test_a_pod_that_does_not_come_back_keeps_the_turn(plane: Machine) -> None:
    age(plane, "apiserver", left=60)
    plane.write("/stuck", "")
    result = run(plane)
    assert result.status == 1
    assert "kube-apiserver does not run with its new certificates" in result.stderr
    assert plane.exists("/lease")
    plane.path("/stuck").unlink()
    assert run(plane).status == 0
    assert not plane.exists("/lease")
    assert restarted(plane)[-1] == "kube-apiserver"


def test_a_failed_renewal_leaves_the_certificates_as_they_were(plane: Machine) -> None:
    age(plane, "etcd-server", left=60)
    age(plane, "apiserver", left=60)
    before = {name: certificate(plane, name) for name in LEAVES}
    plane.path("/etc/kubernetes/pki/ca.key").unlink()
    result = run(plane)
    assert result.status == 1
    assert "kubeadm does not renew apiserver" in result.stderr
    assert {name: certificate(plane, name) for name in LEAVES} == before
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


def test_a_worker_has_nothing_to_renew(tmp_path: Path) -> None:
    machine = Machine.make(tmp_path / "machine")
    aged.write_script(machine)
    assert run(machine) == Result(0, "", "")


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
