"""certificates.sh on a fake control plane: whose turn it is, what it renews, and what it restarts.

kubeadm and the cluster are fakes here; tests/engine/test_certificates.py has a real kubeadm.
"""

import base64
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from components.host.table import CERTIFICATES
from components.host.templates import render
from tests.unit.ending import CERTIFICATE_FILES, CTR, certificate, encoded
from tests.unit.machine import Machine, Result

FOLDER, LOG = "/etc/kubernetes", "/var/log/nordmesh/certificates.log"
RESTART, BEFORE = (f"/var/lib/nordmesh/certificates.{name}" for name in ("restart", "before"))
AUTHORITIES = {
    "ca": "pki/ca.crt",
    "etcd-ca": "pki/etcd/ca.crt",
    "front-proxy-ca": "pki/front-proxy-ca.crt",
}
PODS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
PORTS = {"etcd-server": 2379, "apiserver": 6443}
OLD, NEW = certificate(days=60), certificate(days=365)
SOON = certificate(days=13)
# One lease, and the pods of the control planes. /refused has what fails, as words of its arguments.
KUBECTL = r"""
for word in $(cat /refused 2>/dev/null); do
    [[ " $* " != *" $word "* ]] || { echo "connection refused" >&2; exit 1; }
done
case $* in
*' get lease '*) cat /lease 2>/dev/null || true ;;
*' delete lease '*) rm -f /lease ;;
*'create --filename -'*)
    [ ! -e /lease ] || exit 1
    cat >/written
    echo "cp-1 $(date -u +%FT%TZ) 7" >/lease
    ;;
*'replace --filename -'*) cat >/written; echo "cp-1 $(date -u +%FT%TZ) 8" >/lease ;;
*' get pods '*) cat /pods 2>/dev/null || true ;;
*'annotate node'*) printf '%s\n' "${*: -1}" >/annotation ;;
esac
"""
# Writes the new certificate of a name, unless /idle has the name. /killed: the name at which the
# script is killed, after kubeadm wrote the key and before it writes the certificate.
KUBEADM = r"""
[ "$1" = certs ] || { echo v1.23.17; exit; }
cp "${@: -1}" /configuration
file=/etc/kubernetes/$(sed -n "s/^$3 //p" /files)
echo "the new key of $3" >"${file%.crt}.key"
if grep -qsx "$3" /killed; then kill -KILL "$PPID"; exit 1; fi
if grep -qsx "$3" /idle; then echo "no key of the CA"; exit 0; fi
case $file in
*.conf) echo "    client-certificate-data: $(base64 -w 0 /new)" >"$file" ;;
*) cp /new "$file" ;;
esac
"""
# A static pod serves the certificate that it read when it started. /stuck and /stale: what does not
# start, or still serves the old one.
SERVED = r"""
case $* in
*'tasks kill'*)
    [ ! -e /stuck ] || exit 1
    [ -e /stale ] || cp /etc/kubernetes/pki/etcd/server.crt /served/2379
    [ -e /stale ] || cp /etc/kubernetes/pki/apiserver.crt /served/6443
    ;;
esac
"""
OPENSSL = r"""
[ "$1" != s_client ] || exec cat "/served/${3##*:}"
exec /usr/bin/openssl "$@"
"""


@pytest.fixture
def plane(machine: Machine) -> Machine:
    """A control plane whose certificates are new."""
    machine.write(CERTIFICATES, render(CERTIFICATES.lstrip("/")) + "\n")
    machine.write("/new", NEW)
    machine.write("/files", "".join(f"{name} {file}\n" for name, file in CERTIFICATE_FILES.items()))
    kubelet = certificate(days=200, subject="system:node:cp-1")
    machine.write("/var/lib/kubelet/pki/kubelet-client-current.pem", kubelet)
    for name in CERTIFICATE_FILES:
        put(machine, name, NEW)
    for file in AUTHORITIES.values():
        machine.write(f"{FOLDER}/{file}", certificate(days=3000))
    machine.write("/tasks", "".join(f"{pod} 1\n" for pod in PODS))
    fakes = {"kubectl": KUBECTL, "kubeadm": KUBEADM, "ctr": SERVED + CTR, "openssl": OPENSSL}
    for command, body in fakes.items():
        machine.fake(command, body)
    machine.skip_waits()
    return machine


def put(plane: Machine, name: str, text: str) -> None:
    """Write a certificate and, if it has its own file, its key; its server serves it."""
    path = f"{FOLDER}/{CERTIFICATE_FILES[name]}"
    if name.endswith(".conf"):
        plane.write(path, f"    client-certificate-data: {encoded(text)}\n", mode=0o600)
    else:
        plane.write(path, text)
        plane.write(path.replace(".crt", ".key"), f"the key of {name}\n", mode=0o600)
    if name in PORTS:
        plane.write(f"/served/{PORTS[name]}", text)


def run(plane: Machine, arguments: str = "") -> Result:
    """Run the script as the service does, with short waits."""
    return plane.shell(f"TURN_SECONDS=60 POD_SECONDS=60 bash {CERTIFICATES} {arguments}; exit")


def renewed(plane: Machine) -> list[str]:
    """The certificates that kubeadm renewed, in its order."""
    calls = plane.calls("kubeadm certs")
    assert all(call.startswith("kubeadm certs renew ") for call in calls)
    return [call.split()[3] for call in calls]


def restarted(plane: Machine) -> list[str]:
    """The static pods that were ended, in their order."""
    kills = [line.rpartition(" ")[2] for line in plane.calls("ctr") if " kill " in line]
    return [task.rpartition("-")[0] for task in kills]


def leased(plane: Machine, holder: str, hours: float) -> None:
    """Let a control plane have had the turn for some hours."""
    since = datetime.now(UTC) - timedelta(hours=hours)
    plane.write("/lease", f"{holder} {since:%Y-%m-%dT%H:%M:%S}.000000Z 7\n")


def fails(plane: Machine, code: str, what: str = "") -> None:
    """Run the script, which must end with this error and leave the certificates as they are."""
    before = {name: plane.read(f"{FOLDER}/{file}") for name, file in CERTIFICATE_FILES.items()}
    result = run(plane)
    assert result.status == 1, result
    assert f"{what} [{code}]; why: " in result.stderr
    assert "; fix: " in result.stderr
    assert f"[{code}]" in plane.read(LOG)
    assert {
        name: plane.read(f"{FOLDER}/{file}") for name, file in CERTIFICATE_FILES.items()
    } == before


# --- what is renewed ------------------------------------------------------------------------------


def test_new_certificates_are_only_reported(plane: Machine) -> None:
    result = run(plane)
    assert (result.status, result.stdout) == (0, ""), result
    assert (renewed(plane), restarted(plane)) == ([], [])
    assert not [call for call in plane.calls("kubectl") if "lease" in call]
    name, _, text = plane.read("/annotation").partition("=")
    assert name == "nordmesh.io/certificates"
    report = json.loads(text)
    assert set(report["ends"]) == {*CERTIFICATE_FILES, *AUTHORITIES}
    for key, days in (("apiserver", 365), ("admin.conf", 365), ("etcd-ca", 3000)):
        left = datetime.fromisoformat(report["ends"][key]) - datetime.now(UTC)
        assert round(left / timedelta(days=1)) == days
    assert abs(datetime.fromisoformat(report["checked"]) - datetime.now(UTC)) < timedelta(hours=1)
    assert plane.path("/run/nordmesh/lock").exists()


def test_only_a_certificate_that_ends_within_90_days_is_renewed(plane: Machine) -> None:
    put(plane, "etcd-peer", certificate(days=91))
    put(plane, "scheduler.conf", certificate(days=89))
    result = run(plane)
    assert result.status == 0, result
    assert result.stdout == "renewed scheduler.conf\nrestarted kube-scheduler\n"
    (line,) = plane.read(f"{FOLDER}/scheduler.conf").splitlines()
    assert base64.b64decode(line.split()[1]).decode() == NEW
    assert "kubernetesVersion: v1.23.17" in plane.read("/configuration")
    assert plane.path(LOG).stat().st_mode & 0o077 == 0
    for left in (RESTART, BEFORE, f"{BEFORE}.new", f"{BEFORE}.done", "/lease"):
        assert not plane.exists(left), left


@pytest.mark.parametrize(
    ("name", "pods"),
    [
        ("etcd-server", ["etcd"]),
        ("etcd-peer", ["etcd"]),
        ("etcd-healthcheck-client", []),
        ("apiserver", ["kube-apiserver"]),
        ("apiserver-etcd-client", ["kube-apiserver"]),
        ("apiserver-kubelet-client", ["kube-apiserver"]),
        ("front-proxy-client", ["kube-apiserver"]),
        ("controller-manager.conf", ["kube-controller-manager"]),
        ("scheduler.conf", ["kube-scheduler"]),
        ("admin.conf", []),
        ("super-admin.conf", []),
    ],
)
def test_only_what_holds_a_renewed_certificate_restarts(
    plane: Machine, monkeypatch: pytest.MonkeyPatch, name: str, pods: Sequence[str]
) -> None:
    # Kubernetes 1.29 and later have it.
    monkeypatch.setitem(CERTIFICATE_FILES, name, CERTIFICATE_FILES.get(name, name))
    plane.write("/files", f"{name} {CERTIFICATE_FILES[name]}\n")
    put(plane, name, OLD)
    result = run(plane)
    assert result.status == 0, result
    assert renewed(plane) == [name]
    assert restarted(plane) == pods


def test_each_pod_restarts_once_and_etcd_is_the_first(plane: Machine) -> None:
    for name in CERTIFICATE_FILES:
        put(plane, name, OLD)
    assert run(plane).status == 0
    assert renewed(plane) == list(CERTIFICATE_FILES)
    assert restarted(plane) == list(PODS)


def test_a_report_renews_nothing(plane: Machine) -> None:
    put(plane, "apiserver", SOON)
    assert run(plane, "report").status == 0
    assert renewed(plane) == []
    assert "apiserver" in plane.read("/annotation")


@pytest.mark.parametrize("missing", ["/var/lib/kubelet/pki/kubelet-client-current.pem", "admin"])
def test_a_machine_that_has_not_become_a_control_plane_has_nothing_to_renew(
    plane: Machine, missing: str
) -> None:
    put(plane, "apiserver", SOON)
    plane.write(missing if missing != "admin" else f"{FOLDER}/admin.conf", "")
    assert run(plane) == Result(0, "", "")
    assert plane.calls("kubeadm") == []
    assert not plane.exists("/annotation")


def test_a_certificate_that_cannot_be_read_is_named(plane: Machine) -> None:
    plane.write(f"{FOLDER}/pki/front-proxy-client.crt", "no certificate\n")
    put(plane, "apiserver", SOON)
    what = "/etc/kubernetes/pki/front-proxy-client.crt has no certificate that can be read"
    fails(plane, "certificate-unreadable", what)
    assert renewed(plane) == []
    assert not plane.exists("/annotation")


def test_two_scripts_do_not_run_at_once(plane: Machine) -> None:
    put(plane, "apiserver", SOON)
    plane.fake("flock", "exit 1")
    fails(plane, "certificates-locked", "another nordmesh script has run for ten minutes")
    assert plane.calls("flock") == ["flock --wait 600 9"]
    assert renewed(plane) == []


# --- one control plane after another --------------------------------------------------------------


def test_the_turn_is_taken_in_the_name_of_the_node(plane: Machine) -> None:
    put(plane, "apiserver", OLD)
    assert run(plane).status == 0
    lease = json.loads(plane.read("/written"))
    assert lease["metadata"] == {"name": "nordmesh-certificates", "namespace": "kube-system"}
    assert lease["spec"]["holderIdentity"] == "cp-1"
    assert lease["spec"]["leaseDurationSeconds"] == 86400
    since = datetime.fromisoformat(lease["spec"]["renewTime"])
    assert abs(since - datetime.now(UTC)) < timedelta(hours=1)


def test_a_control_plane_waits_for_another_ones_turn(plane: Machine) -> None:
    put(plane, "apiserver", OLD)
    leased(plane, "cp-2", hours=23)
    fails(plane, "certificates-not-our-turn")
    assert "ERROR: cp-2 has had the turn since " in plane.read(LOG)
    assert (renewed(plane), restarted(plane)) == ([], [])
    assert plane.read("/lease").startswith("cp-2 ")


def test_the_turn_of_a_control_plane_that_failed_ends_after_a_day(plane: Machine) -> None:
    put(plane, "apiserver", OLD)
    leased(plane, "cp-2", hours=25)
    assert run(plane).status == 0
    assert json.loads(plane.read("/written"))["metadata"]["resourceVersion"] == "7"
    assert renewed(plane) == ["apiserver"]
    assert not plane.exists("/lease")


def test_the_turn_that_an_earlier_run_kept_is_still_its_own(plane: Machine) -> None:
    put(plane, "apiserver", OLD)
    leased(plane, "cp-1", hours=1)
    assert run(plane).status == 0
    assert not plane.exists("/written")
    assert renewed(plane) == ["apiserver"]


@pytest.mark.parametrize("word", ["create", "replace"])
def test_a_turn_that_another_one_has_taken_meanwhile_is_not_taken(
    plane: Machine, word: str
) -> None:
    """The API server refuses the write: the lease exists, or has another version."""
    put(plane, "apiserver", OLD)
    if word == "replace":
        leased(plane, "cp-2", hours=25)
    plane.write("/refused", word)
    fails(plane, "certificates-not-our-turn")
    assert renewed(plane) == []


@pytest.mark.parametrize(
    ("refused", "code"),
    [("lease", "certificates-without-answer"), ("pods", "certificates-others-unknown")],
)
def test_without_an_answer_only_what_ends_soon_is_renewed(
    plane: Machine, refused: str, code: str
) -> None:
    plane.write("/refused", refused)
    put(plane, "apiserver", certificate(days=15))
    fails(plane, code)
    assert "connection refused" in plane.read(LOG)
    put(plane, "apiserver", SOON)
    result = run(plane)
    assert result.status == 0, result
    assert renewed(plane) == ["apiserver"]


def test_no_restart_while_another_control_plane_is_down(plane: Machine) -> None:
    plane.write("/pods", "cp-1 etcd-cp-1 False\ncp-2 etcd-cp-2 False\ncp-3 etcd-cp-3 True\n")
    put(plane, "apiserver", certificate(days=15))
    fails(plane, "certificates-others-not-ready", "ERROR: etcd-cp-2 is not ready")
    assert (renewed(plane), restarted(plane)) == ([], [])
    # Another one may take the turn.
    assert not plane.exists("/lease")
    put(plane, "apiserver", SOON)
    result = run(plane)
    assert result.status == 0, result
    assert "etcd-cp-2 is not ready, but a certificate ends within 14 days" in result.stdout
    assert restarted(plane) == ["kube-apiserver"]


def test_the_pods_of_this_control_plane_need_not_be_ready(plane: Machine) -> None:
    plane.write("/pods", "cp-1 etcd-cp-1 False\ncp-2 etcd-cp-2 True\n")
    put(plane, "apiserver", OLD)
    assert run(plane).status == 0
    assert renewed(plane) == ["apiserver"]


# --- what fails, and what is killed ---------------------------------------------------------------


def test_a_failed_renewal_leaves_everything_as_it_was(plane: Machine) -> None:
    """kubeadm succeeds without doing anything if it lacks the key of the CA."""
    put(plane, "etcd-server", OLD)
    put(plane, "apiserver", OLD)
    plane.write("/idle", "apiserver\n")
    fails(plane, "certificate-not-renewed", "kubeadm does not renew apiserver: no key of the CA")
    assert renewed(plane) == ["etcd-server", "apiserver"]
    for name in ("etcd-server", "apiserver"):
        key = f"{FOLDER}/{CERTIFICATE_FILES[name].replace('.crt', '.key')}"
        assert plane.read(key) == f"the key of {name}\n"
        assert plane.path(key).stat().st_mode & 0o777 == 0o600
    assert restarted(plane) == []
    assert not plane.exists("/lease")


def test_a_run_that_was_killed_during_the_renewal_starts_again(plane: Machine) -> None:
    put(plane, "etcd-server", OLD)
    put(plane, "apiserver", OLD)
    plane.write("/killed", "apiserver\n")
    assert run(plane).status != 0
    assert plane.read(f"{FOLDER}/pki/apiserver.key") == "the new key of apiserver\n"
    assert plane.path(BEFORE).stat().st_mode & 0o077 == 0
    plane.path("/killed").unlink()
    # Without one that is due, too: a key must not stay beside a certificate that is not its own.
    put(plane, "apiserver", NEW)
    plane.write(f"{FOLDER}/pki/apiserver.key", "the new key of apiserver\n")
    result = run(plane)
    assert result.status == 0, result
    assert result.stdout.startswith("restoring the certificates from before the renewal\n")
    assert renewed(plane)[2:] == ["etcd-server", "apiserver"]
    assert restarted(plane) == ["etcd", "kube-apiserver"]
    assert not plane.exists(BEFORE)


def test_a_copy_that_was_cut_short_is_not_restored(plane: Machine) -> None:
    for name in (f"{BEFORE}.new", f"{BEFORE}.done"):
        plane.write(f"{name}/pki/apiserver.crt", OLD)
    result = run(plane)
    assert (result.status, result.stdout) == (0, ""), result
    assert plane.read(f"{FOLDER}/pki/apiserver.crt") == NEW
    assert not plane.exists(f"{BEFORE}.new")
    assert not plane.exists(f"{BEFORE}.done")


def test_pods_that_a_killed_run_has_not_restarted_restart_in_the_next(plane: Machine) -> None:
    plane.write(RESTART, "kube-scheduler\nkube-apiserver\n")
    put(plane, "etcd-peer", OLD)
    put(plane, "apiserver", OLD)
    assert run(plane).status == 0
    assert restarted(plane) == ["kube-scheduler", "kube-apiserver", "etcd"]
    plane.write(RESTART, "kube-apiserver\n")
    assert run(plane).status == 0
    assert restarted(plane)[3:] == ["kube-apiserver"]
    assert renewed(plane) == ["etcd-peer", "apiserver"]


@pytest.mark.parametrize(
    ("file", "content", "name", "pod"),
    [
        ("/stuck", "", "apiserver", "kube-apiserver"),
        ("/stuck", "", "scheduler.conf", "kube-scheduler"),
        ("/stale", "", "etcd-server", "etcd"),
        ("/stale", "", "apiserver", "kube-apiserver"),
        ("/refused", "/readyz", "apiserver", "kube-apiserver"),
    ],
)
def test_a_pod_that_does_not_come_back_keeps_the_turn(
    plane: Machine, file: str, content: str, name: str, pod: str
) -> None:
    put(plane, name, OLD)
    plane.write(file, content)
    result = run(plane)
    assert result.status == 1
    what = f"{pod} does not run with its new certificates after 60 s [pod-not-restarted]"
    assert what in result.stderr
    assert plane.read("/lease").startswith("cp-1 ")
    assert plane.read(RESTART) == f"{pod}\n"
    plane.path(file).unlink()
    assert run(plane).status == 0
    assert not plane.exists("/lease")
    assert not plane.exists(RESTART)
    assert renewed(plane) == [name]
    assert restarted(plane)[-1] == pod
