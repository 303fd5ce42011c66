"""A control plane leaves the etcd of three control planes; etcd and its certificates are real."""

import itertools
import json
import shutil
from pathlib import Path

import pytest

from components.manifests import kubeadm
from components.remote.node_command import Script
from config import Kubernetes, catalogue
from lab import paths
from tests.unit.machine import Machine, Result

ENDPOINT, VERSION = "api.test.internal", "1.23.17"
ADDRESSES = {"cp-1": "192.0.2.11", "cp-2": "192.0.2.12", "cp-3": "192.0.2.13"}
REMOVED = "the member has been permanently removed from the cluster"

# An API server writes into its own machine's etcd.
_KUBECTL = """
. /etcd_members.sh
on=cp-2
for name in "${!ADDRESS_OF[@]}"; do
    [[ "$*" != *"--server https://${ADDRESS_OF[$name]}:"* ]] || on=$name
done
case "$*" in
*/readyz) answers "$on" ;;
*'--selector node-role'*)
    for name in "${!ADDRESS_OF[@]}"; do
        [ -e "/deleted-$name" ] || echo "$name ${ADDRESS_OF[$name]}"
    done ;;
*'get node cp-2 '*conditions*) printf Unknown ;;
*'get node '*'-o name') echo node/cp-2 ;;
*'delete node '*)
    answer=$(etcd_at "$on" kv/put '{"key": "YQ=="}')
    [[ $answer == *revision* ]] || { echo "$answer"; exit 1; }
    touch "/deleted-$(sed 's/.*delete node //' <<<"$*")" ;;
esac
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine.make(tmp_path / "machine")
    cache = paths.cache().bin
    shutil.copy(cache / "kubernetes" / "kubeadm", made.path("/usr/local/bin/kubeadm"))
    shutil.copy(cache / "etcd" / "etcd", made.path("/usr/local/bin/etcd"))
    library = Path(__file__).parent / "etcd_members.sh"
    made.write("/etcd_members.sh", library.read_text())
    made.fake("kubectl", _KUBECTL)
    made.fake("ctr")
    cluster = Kubernetes(cluster_name="test", version=VERSION, endpoint=ENDPOINT)
    release = catalogue.KUBERNETES[VERSION]
    first, *others = kubeadm.cluster_documents(cluster, release, address=ADDRESSES["cp-1"])
    names = list(ADDRESSES.values())
    first["etcd"]["local"] |= {"serverCertSANs": names, "peerCertSANs": names}
    init = kubeadm.init_document(name="cp-1", address=ADDRESSES["cp-1"])
    made.write("/config", kubeadm.to_yaml([init, first, *others]))
    made.write("/etc/kubernetes/admin.conf", f"    server: https://{ENDPOINT}:6443\n", mode=0o600)
    return made


def leave(machine: Machine, node: str, *, on: str | None = None) -> str:
    """The command that takes a control plane out; on another one if its machine is gone."""
    gone = str(on is not None).lower()
    settings = {
        "ADDRESS": ADDRESSES[node],
        "ALLOW_DATA_LOSS": gone,
        "ENDPOINT": ENDPOINT,
        "GONE": gone,
        "JOINED_NODE": node,
    }
    return machine.command(Script(file="plane-leave.sh", node=on or node, settings=settings))


def run(machine: Machine, text: str) -> Result:
    """Start the members, run a text, and note in the end which members cp-1 lists."""
    lists = "etcd_at cp-1 cluster/member/list '{}' >/members"
    return machine.shell(f". /etcd_members.sh\nstart_members\n{text}\n{lists}\n")


def members(machine: Machine) -> set[str]:
    return {member["name"] for member in json.loads(machine.read("/members"))["members"]}


def test_the_leader_leaves_and_no_write_fails(machine: Machine) -> None:
    text = (
        f"lead cp-2\nwrite_until /stop &\n{leave(machine, 'cp-2')}\nsleep 3\ntouch /stop\nwait $!"
    )
    result = run(machine, text)
    assert result.status == 0, result.stderr
    assert members(machine) == {"cp-1", "cp-3"}
    writes = [line.split(" ", 1) for line in machine.read("/writes").splitlines()]
    moments = [float(moment) for moment, _ in writes]
    gap = max(after - before for before, after in itertools.pairwise(moments))
    print(f"{len(writes)} writes, at most {gap * 1000:.0f} ms between two")
    assert {answer for _, answer in writes} == {"ok"}
    # kubeadm-init.sh knows by this line that a machine which comes back has been removed.
    assert REMOVED in machine.read("/var/log/etcd-cp-2.log")


def test_a_lost_member_leaves(machine: Machine) -> None:
    result = run(machine, f"lead cp-2\nlose cp-2\n{leave(machine, 'cp-2', on='cp-1')}")
    assert result.status == 0, result.stderr
    assert members(machine) == {"cp-1", "cp-3"}


def test_three_members_become_one(machine: Machine) -> None:
    result = run(machine, f"{leave(machine, 'cp-2')}\n{leave(machine, 'cp-3')}")
    assert result.status == 0, result.stderr
    assert members(machine) == {"cp-1"}


def test_a_member_stays_while_another_one_is_down(machine: Machine) -> None:
    result = run(machine, f"lose cp-3\n{leave(machine, 'cp-2')} || echo $? >/status")
    assert machine.read("/status") == "1\n"
    assert "not healthy: cp-3 [quorum-at-risk]" in result.stderr
    assert members(machine) == {"cp-1", "cp-2", "cp-3"}
