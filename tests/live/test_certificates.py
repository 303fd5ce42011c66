"""A control plane whose certificates are nearly a year old renews them; nothing else restarts."""

import time
from typing import Any

from components.host.table import CERTIFICATES
from lab.screen import Cluster
from tests.live.harness import Project

PLANE = "10.67.0.11"
# Signs kubeadm's certificates again, with their names and keys, and an end in 40 days.
AGE = f"""
set -e
cd /etc/kubernetes/pki
age() {{
    openssl x509 -x509toreq -in "$1.crt" -signkey "$1.key" -copy_extensions copyall -out request
    openssl x509 -req -in request -CA "$2.crt" -CAkey "$2.key" -set_serial 7 -days 40 \
        -copy_extensions copyall -out "$1.new"
    mv "$1.new" "$1.crt"
}}
age apiserver ca
age apiserver-kubelet-client ca
age front-proxy-client front-proxy-ca
for name in etcd/server etcd/peer etcd/healthcheck-client apiserver-etcd-client; do
    age "$name" etcd/ca
done
rm request
bash {CERTIFICATES} report
"""
SERVED = (
    "openssl s_client -connect {}:6443 </dev/null 2>/dev/null | openssl x509 -noout -checkend {}"
)
RENEWED = ("apiserver", "etcd-server", "etcd-peer", "front-proxy-client")
RESTARTED = ("etcd-", "kube-apiserver-")


def starts(cluster: Cluster) -> dict[str, int]:
    """How often the containers of each pod have started, without those that restart on purpose.

    The controller manager and the scheduler end by themselves when they lose their lease.
    """
    return {
        pod["metadata"]["name"]: sum(one["restartCount"] for one in status(pod))
        for pod in cluster.items("pods", "--all-namespaces")
        if not pod["metadata"]["name"].startswith((*RESTARTED, "kube-controller", "kube-scheduler"))
    }


def status(pod: dict[str, Any]) -> list[dict[str, Any]]:
    statuses: list[dict[str, Any]] = pod["status"].get("containerStatuses", [])
    return statuses


def test_a_control_plane_nearly_a_year_on(project: Project) -> None:
    nordmesh = ("-m", "cli", "status", "--stack", project.stack)
    with project.cluster() as cluster:
        before = starts(cluster)
        project.ssh(PLANE, AGE)
        review = project.review()
        for name in RENEWED:
            assert f"**{name} of cp-1** ends on" in review
        began = time.monotonic()
        project.ssh(PLANE, "systemctl start nordmesh-certificates")
        print(f"renewed and restarted in {time.monotonic() - began:.0f} s")
        assert "will not expire" in project.ssh(PLANE, SERVED.format("127.0.0.1", 300 * 86400))
        assert "### Certificates" not in project.review()
        shown = project.run_python(*nordmesh)
        assert shown.code == 0, shown.text
        assert "apiserver" in shown.text
        assert starts(cluster) == before
    log = project.ssh(PLANE, "cat /var/log/nordmesh/certificates.log")
    assert all(f"renewed {name}\n" in log for name in RENEWED)
    assert "restarted etcd\n" in log
    assert "restarted kube-apiserver\n" in log
    assert "restarted kube-scheduler" not in log


def test_the_timer_waits_for_the_night(project: Project) -> None:
    shown = project.ssh(
        PLANE, "systemctl show nordmesh-certificates.timer --property ActiveState,UnitFileState"
    )
    assert shown.splitlines() == ["ActiveState=active", "UnitFileState=enabled"]
    assert "nordmesh-certificates.timer" in project.ssh(PLANE, "systemctl list-timers --all")
