"""A control plane leaves the cluster: its pods, its member of etcd and its node, in this order."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from tests.unit.machine import Machine, Result

ENDPOINT = "api.prod.example.internal"
ADDRESSES = {"cp-1": "192.0.2.11", "cp-2": "192.0.2.12", "cp-3": "192.0.2.13"}
ADMIN_CONF = "/etc/kubernetes/admin.conf"
API_MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"

# The cluster: /nodes and /members hold a file for each; a server in /silent does not answer.
_KUBECTL = """
server=192.0.2.12
for ((i = 1; i <= $#; i++)); do
    [ "${!i}" = --server ] || continue
    next=$((i + 1))
    server=${!next#https://}
    server=${server%:*}
done
[ ! -e "/silent/$server" ] || { echo "connection refused" >&2; exit 1; }
case "$*" in
*"--selector node-role"*) cat /nodes/* ;;
*'/readyz'*) ;;
*unschedulable*) cat /unschedulable 2>/dev/null || true ;;
*conditions*) cat /ready 2>/dev/null || true ;;
*persistentvolumes*) cat /volumes 2>/dev/null || true ;;
*'get node '*) [ ! -e /nodes/cp-2 ] || echo node/cp-2 ;;
*' drain '*) [ ! -e /stuck ] || { echo 'cannot evict pod'; exit 1; }; printf true >/unschedulable ;;
*' uncordon '*) rm -f /unschedulable ;;
*'delete node '*) rm -f /nodes/cp-2 ;;
esac
"""
_CURL = """
url=${!#}; server=${url#https://}; server=${server%%:*}
[ ! -e "/silent/$server" ] || exit 7
# The firewall of the others lets only nodes in.
[ "$NODE_NAME" != cp-2 ] || [ "$server" = 192.0.2.12 ] || [ -e /nodes/cp-2 ] || exit 28
case "$url" in
*/member/list)
    printf '{"header":{"member_id":"9"},"members":[%s]}' "$(cat /members/* | paste -sd ,)" ;;
*/member/remove)
    [ ! -e /refuses ] || { cat /refuses; [ -e /refuses-always ] || rm /refuses; exit; }
    for ((i = 1; i <= $#; i++)); do
        if [ "${!i}" = --data ]; then next=$((i + 1)); id=$(tr -dc 0-9 <<<"${!next}"); fi
    done
    grep -lF "\\"ID\\":\\"$id\\"" /members/* | xargs rm
    touch /silent/192.0.2.12
    printf '{"members":[]}' ;;
*/health) echo '{"health":"true","reason":""}' ;;
esac
"""
# Kills the script after each change, once.
_KILL = """
case "$*" in
*' drain '*) change=drain ;;
*member/remove*) change=remove ;;
*'delete node'*) change=node ;;
*) exit 0 ;;
esac
[ ! -e "/killed-$change" ] || exit 0
touch "/killed-$change"
kill -KILL $PPID
sleep 0.2
"""


@dataclass(frozen=True)
class Cluster:
    """The fake cluster with the machine of cp-2."""

    machine: Machine

    def add(self, name: str, identity: int, *, started: bool = True) -> None:
        address = ADDRESSES[name]
        self.machine.write(f"/nodes/{name}", f"{name} {address}\n")
        called = f'"name":"{name}",' if started else ""
        urls = f'"peerURLs":["https://{address}:2380"],"clientURLs":["https://{address}:2379"]'
        self.machine.write(f"/members/{name}", f'{{"ID":"{identity}",{called}{urls}}}\n')

    def silence(self, *names: str) -> None:
        for name in names:
            self.machine.write(f"/silent/{ADDRESSES[name]}", "")

    def leave(self, node: str = "cp-2", **changes: str) -> Result:
        settings: Mapping[str, str] = {
            "ADDRESS": ADDRESSES["cp-2"],
            "ALLOW_DATA_LOSS": "false",
            "ENDPOINT": ENDPOINT,
            "GONE": "false",
            "JOINED_NODE": "cp-2",
            **changes,
        }
        return self.machine.run("plane-leave.sh", settings, node=node)

    def has(self, kind: str) -> bool:
        return self.machine.exists(f"/{kind}/cp-2")

    def changes(self) -> list[str]:
        """What changed the cluster, in order."""
        words = ("drain", "uncordon", "member/remove", "tasks kill", "delete node")
        calls = self.machine.calls()
        return [word for call in calls for word in words if word in call]


@pytest.fixture
def cluster(machine: Machine) -> Cluster:
    made = Cluster(machine)
    machine.fake("kubectl", _KUBECTL)
    machine.fake("curl", _CURL)
    machine.fake("ctr", "case $* in *'containers ls'*) echo api ;; esac")
    machine.write(API_MANIFEST, "kind: Pod\n")
    machine.write(ADMIN_CONF, f"    server: https://{ENDPOINT}:6443\n", mode=0o600)
    machine.write("/silent/nobody", "")
    for number, name in enumerate(ADDRESSES, 1):
        # The first digits are the same: an identifier is compared as a whole.
        made.add(name, int("7" * number))
    return made


def test_a_control_plane_is_drained_and_leaves_etcd_before_its_node_is_deleted(
    cluster: Cluster,
) -> None:
    result = cluster.leave()
    assert result.status == 0, result.stderr
    # Nobody stays connected to an API server without etcd.
    assert cluster.changes() == ["drain", "member/remove", "tasks kill", "delete node"]
    assert not cluster.machine.exists(API_MANIFEST)
    assert sorted(path.name for path in cluster.machine.path("/members").iterdir()) == [
        "cp-1",
        "cp-3",
    ]
    assert not cluster.has("nodes")
    # This machine's API server stops with its member.
    *_, deleted, pods = cluster.machine.calls("kubectl --server https://192.0.2.11:6443")
    assert f"--tls-server-name {ENDPOINT}" in deleted
    assert "delete node cp-2" in deleted
    # One is asked when a control plane joins, and both before a key of Secrets changes.
    assert "delete pod etcd-cp-2 kube-apiserver-cp-2" in pods


def test_a_silent_control_plane_is_not_asked(cluster: Cluster) -> None:
    cluster.silence("cp-1")
    result = cluster.leave()
    # One of the two others is down, and etcd would need both.
    assert result.status == 1
    assert "1 of the 2 other members of etcd are healthy, and 2 must be" in result.stderr
    assert "not healthy: cp-1 [quorum-at-risk]" in result.stderr
    assert cluster.changes() == []


def test_the_last_member_never_leaves(cluster: Cluster) -> None:
    for name in ("cp-1", "cp-3"):
        for kind in ("nodes", "members"):
            cluster.machine.path(f"/{kind}/{name}").unlink()
    result = cluster.leave()
    assert "[no-other-plane]" in result.stderr
    assert cluster.changes() == []


def test_a_member_that_never_started_counts_against_the_quorum(cluster: Cluster) -> None:
    cluster.add("cp-3", 777, started=False)
    cluster.silence("cp-3")
    result = cluster.leave()
    assert "not healthy: one that never started [quorum-at-risk]" in result.stderr
    assert cluster.changes() == []


def test_a_failed_drain_is_undone(cluster: Cluster) -> None:
    cluster.machine.write("/stuck", "")
    result = cluster.leave()
    assert result.status == 1
    assert "accepts pods again" in result.stderr
    assert cluster.changes() == ["drain", "uncordon"]
    assert cluster.has("members")


_UNHEALTHY = '{"error":"etcdserver: unhealthy cluster","code":14}'


def test_a_refusal_of_etcd_is_undone(cluster: Cluster) -> None:
    cluster.machine.skip_waits()
    cluster.machine.write("/refuses", _UNHEALTHY)
    cluster.machine.write("/refuses-always", "")
    result = cluster.leave()
    assert f"does not remove cp-2: {_UNHEALTHY} [member-not-removed]" in result.stderr
    assert cluster.changes()[0] == "drain"
    assert cluster.changes()[-1] == "uncordon"
    assert cluster.has("nodes")


def test_etcd_may_refuse_once(cluster: Cluster) -> None:
    """It does within 5 s after another member has connected."""
    cluster.machine.write("/refuses", _UNHEALTHY)
    assert cluster.leave().status == 0
    assert cluster.changes().count("member/remove") == 2
    assert not cluster.has("members")


def test_local_volumes_block_the_removal(cluster: Cluster) -> None:
    cluster.machine.write("/volumes", "data|Bound|/mnt/data|cp-2 \n")
    assert "the volumes data [local-volumes]" in cluster.leave().stderr
    assert cluster.changes() == []


@pytest.mark.parametrize("program", ["kubectl", "curl"])
def test_a_killed_removal_continues(cluster: Cluster, program: str) -> None:
    """Killed after each change in turn: the next run goes on, and repeats none of them."""
    work = {"kubectl": _KUBECTL, "curl": _CURL}[program]
    cluster.machine.fake(program, f"({work}) || exit\n{_KILL}")
    results = [cluster.leave() for _ in range(4)]
    assert results[-1].status == 0, results[-1].stderr
    repeated = ("drain", "tasks kill")
    assert [word for word in cluster.changes() if word not in repeated] == [
        "member/remove",
        "delete node",
    ]
    assert cluster.machine.exists("/killed-remove" if program == "curl" else "/killed-node")
    assert not cluster.machine.exists(API_MANIFEST)
    assert not cluster.has("members")
    assert not cluster.has("nodes")


@pytest.mark.parametrize("gone", ["true", "false"])
def test_an_etcd_that_is_silent_is_to_be_looked_at(cluster: Cluster, gone: str) -> None:
    runner = "cp-1" if gone == "true" else "cp-2"
    if gone == "true":
        cluster.machine.path("/nodes/cp-2").unlink()
    cluster.machine.fake("curl", "exit 28")
    result = cluster.leave(runner, GONE=gone)
    (code,) = (line for line in result.stderr.splitlines() if "[etcd-silent]" in line)
    fix = result.stderr.partition(code)[2].partition("fix")[2].strip()
    assert "`kubectl get pods -n kube-system`" in fix
    assert fix.endswith("run `pulumi up` again")
    assert cluster.changes() == []


def test_a_node_that_someone_deleted_has_an_unknown_member(cluster: Cluster) -> None:
    """The firewall of the others hides etcd, so nobody knows whether it was removed."""
    cluster.machine.path("/nodes/cp-2").unlink()
    result = cluster.leave()
    assert "[etcd-silent]" in result.stderr
    assert "gone: REASON" in result.stderr
    assert cluster.changes() == []
    assert cluster.has("members")


def test_another_machine_does_not_leave(cluster: Cluster) -> None:
    cluster.machine.path(ADMIN_CONF).unlink()
    result = cluster.leave()
    assert "it has no cluster [plane-not-here]" in result.stderr
    assert "gone: REASON" in result.stderr
    assert cluster.changes() == []


# --- a machine that is lost -----------------------------------------------------------------------


def test_the_member_of_a_lost_machine_is_removed_without_a_drain(cluster: Cluster) -> None:
    cluster.silence("cp-2")
    cluster.machine.fake("kubectl", _KUBECTL.replace("server=192.0.2.12", "server=192.0.2.11"))
    cluster.machine.write("/ready", "Unknown")
    result = cluster.leave("cp-1", GONE="true")
    assert result.status == 0, result.stderr
    assert cluster.changes() == ["member/remove", "delete node"]
    assert cluster.leave("cp-1", GONE="true").status == 0
    assert cluster.changes() == ["member/remove", "delete node"]


def test_a_machine_that_is_ready_is_not_gone(cluster: Cluster) -> None:
    cluster.machine.write("/ready", "True")
    result = cluster.leave("cp-1", GONE="true")
    assert "cp-2 is Ready, so its machine is not gone [node-not-gone]" in result.stderr
    assert cluster.changes() == []


def test_a_machine_that_was_lost_while_it_joined_is_removed(cluster: Cluster) -> None:
    cluster.add("cp-2", 77, started=False)
    cluster.machine.path("/nodes/cp-2").unlink()
    cluster.silence("cp-2")
    cluster.machine.fake("kubectl", _KUBECTL.replace("server=192.0.2.12", "server=192.0.2.11"))
    assert cluster.leave("cp-1", GONE="true").status == 0
    assert cluster.changes() == ["member/remove"]
    assert not cluster.has("members")
