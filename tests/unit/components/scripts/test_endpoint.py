"""The load balancer of a worker: its servers, and the way of a running node to it."""

import pytest

from components.host.templates import render
from components.remote.node_command import text_alone
from tests.unit import node
from tests.unit.machine import Machine, Result

SERVERS = "/etc/nordmesh/endpoint-servers.cfg"
CA = "/etc/kubernetes/pki/ca.crt"
MEMBERS = "/usr/local/lib/nordmesh/members.sh"
OLD_LINE = f"192.0.2.11 {node.ENDPOINT} # nordmesh"
NEW_LINE = f"127.0.0.1 {node.ENDPOINT} # nordmesh"
# Answers with the addresses in /planes, unless the API server is down.
_KUBECTL = """
[ ! -e /api-down ] || exit 1
case $* in
*--watch-only*) while [ ! -e /event ]; do sleep 0.1; done; cat /event; rm /event; sleep 60 ;;
*--selector*) cat /planes ;;
*'get nodes'*) cat /planes; echo 192.0.2.21 ;;
*'get node worker-1'*) cat /node ;;
*readyz*) [ ! -e /api-down-behind ] || exit 1 ;;
esac
"""


@pytest.fixture
def worker(machine: Machine) -> Machine:
    """A worker with the load balancer, whose cluster has two control planes."""
    node.make(machine)
    node.with_endpoint_program(machine)
    machine.write(MEMBERS, render(MEMBERS.lstrip("/")))
    machine.fake("kubectl", _KUBECTL)
    machine.write("/planes", "192.0.2.11\n192.0.2.12\n")
    machine.write("/etc/kubernetes/kubelet.conf", f"    server: https://{node.ENDPOINT}:6443\n")
    return machine


def endpoint(machine: Machine, *addresses: str) -> Result:
    # Not as the first process, which nothing kills.
    return machine.shell(f"bash {node.ENDPOINT_PROGRAM} {' '.join(addresses)}; exit")


def servers(machine: Machine, backend: str) -> list[str]:
    """The lines of servers in a backend."""
    text = machine.read(SERVERS).partition(f"backend {backend}\n")[2].partition("backend ")[0]
    return [line.strip() for line in text.splitlines() if line.startswith("    server ")]


def reloads(machine: Machine) -> int:
    return machine.calls("systemctl").count("systemctl reload-or-restart nordmesh-endpoint")


def follow(machine: Machine, event: str = ":") -> None:
    """Follow the node table until 192.0.2.13 is loaded. event: bash that runs beside it."""
    loaded = f"grep -q 192.0.2.13 {SERVERS} && [ ! -e /run/nordmesh/endpoint.pending ]"
    until = f"timeout 120 bash -c 'until {loaded}; do sleep 0.1; done'"
    result = machine.shell(f"bash {MEMBERS} & {event}; {until}")
    assert result.status == 0, machine.calls()


# --- its servers ----------------------------------------------------------------------------------


def test_another_control_plane_is_used_after_one_reload(worker: Machine) -> None:
    assert worker.shell(f"bash {MEMBERS} once").status == 0
    assert servers(worker, "any") == [
        "server 192.0.2.11 192.0.2.11",
        "server 192.0.2.12 192.0.2.12",
    ]
    before = reloads(worker)
    come = "echo 192.0.2.13 >>/planes; echo ADDED cp-3 >/event"
    follow(worker, f"until grep -q watch-only /calls; do sleep 0.1; done; {come}")
    assert [line.split()[1] for line in servers(worker, "ready")] == [
        "192.0.2.11", "192.0.2.12", "192.0.2.13",
    ]  # fmt: skip
    assert reloads(worker) - before == 1


def test_a_node_that_becomes_a_control_plane_later_is_used(worker: Machine) -> None:
    """kubeadm labels a control plane after its node is there, maybe minutes after."""
    text = render(MEMBERS.lstrip("/"))
    at_start = "closely=$((SECONDS + 60)) next"
    assert at_start in text
    worker.write(MEMBERS, text.replace(at_start, "closely=0 next"))
    worker.fake(
        "kubectl",
        "case $* in *--watch-only*) echo MODIFIED cp-3 Ready '<none>' 5m v1; sleep 1\n"
        "echo 192.0.2.13 >>/planes; echo MODIFIED cp-3 Ready control-plane,master 5m v1\n"
        f"sleep 60 ;; esac\n{_KUBECTL}",
    )
    follow(worker)
    assert "server 192.0.2.13 192.0.2.13" in servers(worker, "any")


def test_a_removed_control_plane_is_not_used_any_more(worker: Machine) -> None:
    assert worker.shell(f"bash {MEMBERS} once").status == 0
    worker.write("/planes", "192.0.2.12\n")
    assert worker.shell(f"bash {MEMBERS} once").status == 0
    assert servers(worker, "any") == ["server 192.0.2.12 192.0.2.12"]


@pytest.mark.parametrize("is_down", [True, False])
def test_without_an_answer_the_servers_stay(worker: Machine, *, is_down: bool) -> None:
    """The API server is down, or its answer has no control plane."""
    assert worker.shell(f"bash {MEMBERS} once").status == 0
    before, calls = worker.read(SERVERS), reloads(worker)
    worker.write("/api-down" if is_down else "/planes", "")
    assert worker.shell(f"bash {MEMBERS} once").status != 0
    assert worker.read(SERVERS) == before
    assert reloads(worker) == calls


def test_a_node_without_a_firewall_follows_its_control_planes(worker: Machine) -> None:
    assert worker.shell(f"bash {MEMBERS} once").status == 0
    assert servers(worker, "any")
    assert worker.calls("nft") == []


def test_servers_that_the_load_balancer_refuses_are_not_kept(worker: Machine) -> None:
    assert endpoint(worker, "192.0.2.11").status == 0
    before = worker.read(SERVERS)
    worker.fake("systemctl", "exit 1")
    assert endpoint(worker, "192.0.2.12").status == 1
    assert worker.read(SERVERS) == before
    # So the next look tries again.
    worker.fake("systemctl")
    assert endpoint(worker, "192.0.2.12").status == 0
    assert servers(worker, "any") == ["server 192.0.2.12 192.0.2.12"]


def test_servers_that_were_written_by_a_killed_run_are_loaded_by_the_next(worker: Machine) -> None:
    worker.fake("systemctl", "kill -KILL $PPID")
    assert endpoint(worker, "192.0.2.11").status != 0
    worker.fake("systemctl")
    before = reloads(worker)
    for _ in range(2):
        assert endpoint(worker, "192.0.2.11").status == 0
    assert reloads(worker) - before == 1


def test_two_changes_at_once_come_one_after_the_other(worker: Machine) -> None:
    """The service that follows the members and a script of nordmesh."""
    # The first waits, for up to two seconds, until the second is over.
    worker.fake(
        "mv",
        "if mkdir /first 2>/dev/null; then\n"
        "for _ in {1..20}; do [ ! -e /second-is-over ] || break; sleep 0.1; done; fi\n"
        'exec /usr/bin/mv "$@"',
    )
    result = worker.shell(
        f"bash {node.ENDPOINT_PROGRAM} 192.0.2.11 & until [ -e /first ]; do sleep 0.1; done\n"
        f"bash {node.ENDPOINT_PROGRAM} 192.0.2.12 && touch /second-is-over && wait $!"
    )
    assert result.status == 0, result.stderr
    assert servers(worker, "any") == ["server 192.0.2.12 192.0.2.12"]


def test_servers_are_checked_with_the_ca_once_the_node_has_it(worker: Machine) -> None:
    both = "192.0.2.11", "192.0.2.12"
    assert endpoint(worker, *both).status == 0
    assert servers(worker, "ready")[0] == "server 192.0.2.11 192.0.2.11 check"
    assert "httpchk" not in worker.read(SERVERS)
    worker.write(CA, "ca")
    assert endpoint(worker, *both).status == 0
    assert servers(worker, "ready")[0].endswith(f" check check-ssl ca-file {CA}")
    assert "option httpchk" in worker.read(SERVERS)


def test_only_addresses_become_servers(worker: Machine) -> None:
    assert endpoint(worker, "192.0.2.12", "'a\nb'", "192.0.2.11", "192.0.2.12").status == 0
    assert [line.split()[2] for line in servers(worker, "any")] == ["192.0.2.11", "192.0.2.12"]


# --- a node that joins ----------------------------------------------------------------------------


def test_a_joining_node_reaches_the_control_planes_that_come_with_its_token(
    machine: Machine,
) -> None:
    node.not_joined(machine)
    body = machine.read("/usr/local/bin/kubeadm").split("\n", 3)[3]
    machine.fake("kubeadm", f"cp {SERVERS} /at-join\n{body}")
    result = node.join(machine)
    assert result.status == 0, result.stderr
    assert "server 192.0.2.11 192.0.2.11" in machine.read("/at-join")


# --- a running node gets its load balancer --------------------------------------------------------


@pytest.fixture
def earlier(machine: Machine) -> Machine:
    """A worker of an earlier release, whose name of the API server leads to a control plane."""
    node.make(machine)
    machine.fake("ip")
    machine.fake("kubectl", _KUBECTL)
    machine.write("/planes", "192.0.2.11\n")
    machine.write("/node", "node/worker-1")
    machine.write("/etc/hosts", f"127.0.0.1 localhost\n{OLD_LINE}\n")
    machine.write("/etc/kubernetes/kubelet.conf", f"    server: https://{node.ENDPOINT}:6443\n")
    machine.write("/etc/kubernetes/nordmesh-joined.yaml", "")
    machine.write("/var/lib/kubelet/config.yaml", "cgroupDriver: systemd\n")
    machine.write(CA, "ca")
    return machine


def endpoint_on(machine: Machine) -> Result:
    """Run the part of node-prepare.sh from the host's files to the API server's name."""
    settings = {
        "NODE_NAME": "worker-1",
        "ENDPOINT": node.ENDPOINT,
        "ENDPOINT_ADDRESS": "127.0.0.1",
        "API_SECONDS": "1",
        "FILES": "=== 644 endpoint /etc/nordmesh/endpoint.cfg",
    }
    node.with_endpoint_program(machine)
    machine.write(MEMBERS, render(MEMBERS.lstrip("/")))
    names = ("lib.sh", "apt.sh", "identity.sh", "files.sh", "endpoint.sh", "firewall.sh", "host.sh")
    prepare = text_alone("node-prepare.sh")
    functions = prepare[prepare.index("# with_endpoint FILE") : prepare.index("# Pulls images")]
    exports = "".join(f"export {name}='{value}'\n" for name, value in settings.items())
    text = "".join(map(text_alone, names)) + functions
    machine.write("/script", f"{exports}{text}\nendpoint_on\nhosts\npods_hosts\n")
    return machine.shell("bash /script")


def test_the_name_leads_to_the_load_balancer_after_that_answers(earlier: Machine) -> None:
    state = 'case $* in *readyz*) cp /etc/hosts /at-answer; echo "$*" >/asked ;; esac'
    earlier.fake("kubectl", f"{state}\n{_KUBECTL}")
    result = endpoint_on(earlier)
    assert result.status == 0, result.stderr
    assert OLD_LINE in earlier.read("/at-answer")
    assert "--server https://127.0.0.1:6443" in earlier.read("/asked")
    assert earlier.read("/etc/hosts") == f"127.0.0.1 localhost\n{NEW_LINE}\n"
    assert servers(earlier, "any") == ["server 192.0.2.11 192.0.2.11"]
    assert earlier.exists("/enabled/nordmesh-endpoint")


@pytest.mark.parametrize("what", ["/api-down", "/api-down-behind"])
def test_the_name_stays_where_it_is_if_the_load_balancer_does_not_answer(
    earlier: Machine, what: str
) -> None:
    earlier.write(what, "")
    result = endpoint_on(earlier)
    assert result.status == 1
    assert "[timed-out]" in result.stderr
    assert OLD_LINE in earlier.read("/etc/hosts")


def test_pods_on_the_nodes_network_get_the_name_without_a_restart(earlier: Machine) -> None:
    """Their files are mounts of one inode: a new file would not be seen."""
    copy, other = (f"/var/lib/kubelet/pods/{uid}/etc-hosts" for uid in ("1", "2"))
    earlier.write(copy, f"# Kubernetes-managed hosts file (host network).\n{OLD_LINE}\n")
    earlier.write(other, "# Kubernetes-managed hosts file.\n10.244.1.2 web\n")
    inode = earlier.path(copy).stat().st_ino
    for _ in range(2):
        assert endpoint_on(earlier).status == 0
    assert earlier.read(copy) == f"# Kubernetes-managed hosts file (host network).\n{NEW_LINE}\n"
    assert earlier.path(copy).stat().st_ino == inode
    assert earlier.read(other) == "# Kubernetes-managed hosts file.\n10.244.1.2 web\n"


@pytest.mark.parametrize("is_installed", [True, False])
def test_debians_service_is_off_unless_its_owner_installed_it(
    machine: Machine, *, is_installed: bool
) -> None:
    node.make(machine)
    machine.fake("ip")
    machine.fake("apt-get")
    if not is_installed:
        machine.fake("dpkg-query", '[ "${*: -1}" != haproxy ] || exit 1; echo installed')
    result = node.prepare(machine, "1", node.stack("1Gi"))
    assert result.status == 0, result.stderr
    disabled = [call for call in machine.calls("systemctl disable") if "haproxy" in call]
    assert bool(disabled) != is_installed
    assert not machine.exists("/var/lib/nordmesh/haproxy.new")
