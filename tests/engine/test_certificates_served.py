"""certificates.sh beside a real etcd and a real API server, whose certificates are a year old.

A shell loop starts a server again when it has ended, as kubelet does. The flags of both servers are
those of kubeadm's static pods. The controller manager and the scheduler do not run, so their
certificates stay new.
"""

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from components.host.table import CERTIFICATES
from tests.engine import aged
from tests.engine.aged import NAME, age, certificate
from tests.unit.ending import CERTIFICATE_FILES
from tests.unit.machine import Machine

SERVED = {"etcd": ("etcd-server", 2379), "kube-apiserver": ("apiserver", 6443)}
# A server's process is its container.
CTR = r"""
case $* in
*'containers list'*) pod=${*: -1}; pod=${pod##*==}; echo "$pod-$(cat "/pids/$pod")" ;;
*'tasks list'*)
    echo TASK PID STATUS
    for file in /pids/*; do
        pid=$(cat "$file")
        [ ! -d "/proc/$pid" ] || echo "${file##*/}-$pid $pid RUNNING"
    done
    ;;
*'tasks kill'*) task=${*: -1}; kill -TERM "${task##*-}" ;;
esac
"""
YEAR_ON = """
ip link set lo up
ip address add 192.0.2.11/24 dev lo
mkdir -p /pids /served
serve() {{
    while :; do
        "$@" >>"/var/log/$1.log" 2>&1 &
        echo $! >"/pids/$1"
        wait $!
        echo "$1" >>/starts
        /usr/bin/sleep 0.2
    done
}}
admin() {{ kubectl --kubeconfig /etc/kubernetes/admin.conf "$@"; }}
show() {{ openssl s_client -connect "127.0.0.1:$1" </dev/null 2>/dev/null | openssl x509 >"$2"; }}
serve {etcd} &
serve {api} &
until {ready}; do
    [ "$((tries += 1))" -lt 600 ] || exit 9
    /usr/bin/sleep 1
done
show 2379 /served/etcd.before
show 6443 /served/kube-apiserver.before
bash {script}
status=$?
show 2379 /served/etcd.after
show 6443 /served/kube-apiserver.after
{after}
exit $status
"""
NODE = json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aged.make(tmp_path_factory.mktemp("kubeadm") / "machine")


def flags(plane: Machine, pod: str) -> str:
    """The command of a static pod."""
    manifest = yaml.safe_load(plane.read(f"/etc/kubernetes/manifests/{pod}.yaml"))
    return shlex.join(manifest["spec"]["containers"][0]["command"])


def days_served(plane: Machine, pod: str, when: str) -> int:
    text = plane.read(f"/served/{pod}.{when}")
    end = x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc
    return round((end - datetime.now(UTC)) / timedelta(days=1))


@pytest.mark.parametrize("left", [60, -2])
def test_servers_a_year_on(tmp_path: Path, made: Path, left: int) -> None:
    """With 60 days left, everything works before and after; with none, only after.

    An API server that starts with ended certificates does not reach etcd, and ends again.
    """
    plane = Machine.make(tmp_path / "machine")
    aged.prepare(plane, made)
    aged.install(plane, "kubectl", "etcd", "kube-apiserver")
    plane.fake("ctr", CTR)
    plane.write("/etc/hosts", "192.0.2.11 api.prod.example.internal\n127.0.0.1 localhost\n")
    for name in CERTIFICATE_FILES:
        if name not in ("controller-manager.conf", "scheduler.conf"):
            age(plane, name, left=left)
    create = f"admin create --filename - >/dev/null 2>&1 <<<{shlex.quote(NODE)}"
    etcd_listens = "show 2379 /served/x"
    # A node is only in a cluster that works; the script cannot write a report without it.
    ended = (
        f"{{ until {create}; do /usr/bin/sleep 1; done; bash {CERTIFICATES} report; }} || status=8"
    )
    result = plane.shell(
        YEAR_ON.format(
            etcd=flags(plane, "etcd"),
            api=flags(plane, "kube-apiserver"),
            ready=create if left > 0 else etcd_listens,
            script=CERTIFICATES,
            after=f"{'' if left > 0 else ended}\nadmin get node {NAME} --output json >/node.json\n"
            "admin get leases --namespace kube-system --output name >/leases\n"
            "admin get --raw /readyz >/readyz",
        )
    )
    logs = {file.name: file.read_text()[-1500:] for file in plane.path("/var/log").glob("*.log")}
    if left > 0:
        assert result.status == 0, (result, logs)
        assert result.stdout.count("restarted ") == 2
    for pod, (name, _) in SERVED.items():
        if pod == "etcd" or left > 0:
            assert days_served(plane, pod, "before") == left
        assert days_served(plane, pod, "after") == 365, (result, logs)
        assert round(aged.days_left(plane, name)) == 365
    assert plane.read("/starts").split().count("kube-apiserver") >= 1
    assert plane.read("/readyz") == "ok"
    annotations = json.loads(plane.read("/node.json"))["metadata"]["annotations"]
    ends = json.loads(annotations["nordmesh.io/certificates"])["ends"]
    expected = certificate(plane, "apiserver").not_valid_after_utc
    assert ends["apiserver"] == f"{expected:%Y-%m-%dT%H:%M:%SZ}"
    assert "nordmesh-certificates" not in plane.read("/leases")
