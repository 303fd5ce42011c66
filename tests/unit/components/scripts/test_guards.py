"""Guards of scripts on nodes: a script that refuses to run changes no file."""

from collections.abc import Callable

import pytest

from components.host.table import RULES
from tests.unit import kills, node
from tests.unit.components.host.test_files import host_args, rules
from tests.unit.machine import Machine, Result

_NO_BRIDGE = 'mount -t tmpfs tmpfs "$root/proc/sys/net"\n'
_LOADS_BRIDGE = """
[ "$1" != br_netfilter ] || {
    mkdir /proc/sys/net/bridge
    echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables
}
"""
_JOINED = f"    server: https://{node.ENDPOINT}:6443\n"


@pytest.fixture
def machine(machine: Machine) -> Machine:
    node.make(machine)
    return machine


def prepare(machine: Machine, *, swap: bool = True) -> Result:
    return node.prepare(machine, "1", node.stack("1Gi"), swap=swap)


def init_with_other_settings(machine: Machine) -> Result:
    return node.init(machine, CLUSTER_CONFIG="kind: ClusterConfiguration\nclusterName: a")


def prepare_without_swap(machine: Machine) -> Result:
    return prepare(machine, swap=False)


def full_disk(path: str) -> Callable[[Machine], None]:
    free = f"case $* in *{path}*) echo 1M ;; *) echo 9000M ;; esac"
    return lambda machine: machine.fake("df", f"echo Avail; {free}")


def add_swap(machine: Machine) -> None:
    machine.mount(
        f'{machine.read("/mounts")}printf "%s\\n" Filename /swap >"$root/swaps"\n'
        'mount --bind "$root/swaps" "$root/proc/swaps"\n'
    )


def remove_bridge(machine: Machine) -> None:
    machine.mount(_NO_BRIDGE)


def make_control_plane(machine: Machine) -> None:
    assert node.init(machine).status == 0


def add_etcd_data(machine: Machine) -> None:
    machine.write("/var/lib/etcd/member/wal", "data")


def make_node(machine: Machine) -> None:
    machine.write("/etc/kubernetes/kubelet.conf", _JOINED)


# The state of the machine, the script, the error code, and commands that must not have run.
@pytest.mark.parametrize(
    ("arrange", "run", "code", "untouched"),
    [
        (add_etcd_data, node.init, "foreign-etcd-data", "kubeadm"),
        (make_node, node.init, "already-a-node", "kubeadm"),
        (make_control_plane, init_with_other_settings, "cluster-settings-differ", "kubeadm init"),
        (add_swap, prepare_without_swap, "swap-on", "apt-get"),
        (remove_bridge, prepare, "no-br-netfilter", "sysctl"),
        (full_disk("/var/lib/containerd"), prepare, "disk-too-full", "apt-get"),
        (full_disk("/usr/local/bin"), prepare, "disk-too-full", "apt-get"),
    ],
)
def test_a_guard_refuses_and_changes_nothing(
    machine: Machine,
    arrange: Callable[[Machine], None],
    run: Callable[[Machine], Result],
    code: str,
    untouched: str,
) -> None:
    machine.fake("dpkg-query", "exit 1")
    for command in ("apt-get", "dpkg"):
        machine.fake(command)
    arrange(machine)
    before = kills.files(machine)
    machine.path("/calls").unlink(missing_ok=True)
    result = run(machine)
    assert result.status == 1
    assert f"[{code}]\n    why   " in result.stderr
    assert kills.files(machine) == before
    assert not machine.calls(untouched)


@pytest.mark.parametrize(
    ("arrange", "run"),
    [
        (add_swap, prepare),
        (lambda _: None, prepare_without_swap),
        (remove_bridge, prepare),  # modprobe loads it
    ],
)
def test_a_machine_that_passes_the_guards_is_prepared(
    machine: Machine, arrange: Callable[[Machine], None], run: Callable[[Machine], Result]
) -> None:
    machine.fake("modprobe", _LOADS_BRIDGE)
    arrange(machine)
    result = run(machine)
    assert result.status == 0, result.stderr
    assert machine.read("/usr/local/bin/kubelet") == "1"


@pytest.mark.parametrize("template", ["hosts.debian.tmpl", "hosts.suse.tmpl"])
def test_the_endpoint_is_also_in_the_hosts_template_of_cloud_init(
    machine: Machine, template: str
) -> None:
    path = f"/etc/cloud/templates/{template}"
    machine.write(path, "## template:jinja\n127.0.1.1 {{fqdn}} {{hostname}}\n")
    for _ in range(2):
        assert prepare(machine).status == 0
    line = f"127.0.0.1 {node.ENDPOINT} # nordmesh"
    for file, first in ((path, "## template:jinja"), ("/etc/hosts", "127.0.0.1 localhost")):
        lines = machine.read(file).splitlines()
        assert lines[0] == first
        assert lines.count(line) == 1


def test_a_machine_without_cloud_init_gets_no_template(machine: Machine) -> None:
    assert prepare(machine).status == 0
    assert not machine.exists("/etc/cloud")


def test_a_kubelet_that_does_not_restart_is_restarted_by_the_next_run(machine: Machine) -> None:
    assert node.first(machine).status == 0
    machine.shell("systemctl start kubelet")
    fake = machine.read("/usr/local/bin/systemctl").split("\n", 2)[2]
    machine.fake("systemctl", f"[ $1 != try-restart ] || exit 1\n{fake}")
    result = node.changed(machine)
    assert result.status == 1
    assert "kubelet-restart failed [step-failed]" in result.stderr
    machine.fake("systemctl", fake)
    machine.path("/calls").unlink()
    assert node.changed(machine).status == 0
    assert "systemctl try-restart kubelet" in machine.calls()


# --- the firewall, with the real nft --------------------------------------------------------------

ALLOWED, OTHER, MEMBER = "198.51.100.7", "203.0.113.7", node.ADDRESS
# A second machine behind a veth pair, with an address in each network. Prints which of its
# connections are accepted: `address port`.
_CONNECT = f"""
ip link set lo up
unshare --net sleep 600 &
other=$!
own=$(stat -Lc %i /proc/self/ns/net)
until [ "$(stat -Lc %i "/proc/$other/ns/net")" != "$own" ]; do sleep 0.02; done
ip link add here type veth peer name there netns "$other"
for network in 192.0.2 198.51.100 203.0.113; do ip address add "$network.1/24" dev here; done
ip link set here up
python3 /listen.py &
nsenter --net="/proc/$other/ns/net" bash -c '
    for address in {ALLOWED} {OTHER} {MEMBER}; do ip address add "$address/24" dev there; done
    ip link set there up
    python3 /connect.py'
kill -KILL "$other"
"""
_LISTEN = """
import select, socket
sockets = [socket.create_server(("", port)) for port in (22, 80, 6443, 10250)]
open("/listening", "w").close()
while True:
    for ready in select.select(sockets, [], [])[0]:
        ready.accept()[0].close()
"""
_CONNECT_ALL = f"""
import os, selectors, socket, time
while not os.path.exists("/listening"):
    time.sleep(0.02)
pending = selectors.DefaultSelector()
for address in ("{ALLOWED}", "{OTHER}", "{MEMBER}"):
    for port in (22, 80, 10250):
        client = socket.socket()
        client.setblocking(False)
        client.bind((address, 0))
        client.connect_ex((address.rpartition(".")[0] + ".1", port))
        pending.register(client, selectors.EVENT_WRITE, (address, port))
# A packet that is dropped is sent again after a second.
deadline = time.monotonic() + 2.5
left = 1
while left > 0:
    # The last look, at the deadline, does not wait: the kernel may have been faster than this.
    left = max(deadline - time.monotonic(), 0)
    for key, _ in pending.select(left):
        pending.unregister(key.fileobj)
        if not key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            print(*key.data)
"""


@pytest.fixture
def firewalled(machine: Machine) -> Machine:
    """Machine with the real nft and a link to a second machine."""
    machine.path("/usr/local/bin/nft").unlink()
    machine.write("/listen.py", _LISTEN)
    machine.write("/connect.py", _CONNECT_ALL)
    return machine


def prepare_over_ssh(machine: Machine, *ssh_from: str, client: str = "", then: str = "") -> Result:
    """Prepare a node over SSH from a client address, then run a command with its rules loaded."""
    stack = node.stack("1Gi", firewall={"sshFrom": list(ssh_from)})
    connection = f"export SSH_CONNECTION='{client} 50000 192.0.2.1 22'\n" if client else ""
    command = node.prepare_command(machine, "1", stack)
    return machine.shell(f"{connection}{command} || exit\nunset SSH_CONNECTION\n{then}")


def test_ssh_is_limited_to_listed_networks_and_cluster_ports_to_members(
    firewalled: Machine,
) -> None:
    firewalled.write("/etc/nordmesh/members.nft", f"define members = {{ {MEMBER} }}\n")
    result = prepare_over_ssh(
        firewalled, "198.51.100.0/24", "192.0.2.0/24", client=ALLOWED, then=_CONNECT
    )
    assert result.status == 0, result.stderr
    assert set(result.stdout.splitlines()) == {
        f"{ALLOWED} 22", f"{ALLOWED} 80", f"{OTHER} 80",
        f"{MEMBER} 22", f"{MEMBER} 80", f"{MEMBER} 10250",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("private", "is_reached"), [(None, True), ("192.0.2.1", True), ("10.0.0.1", False)]
)
def test_a_member_reaches_cluster_ports_on_the_private_address_only(
    firewalled: Machine, private: str | None, is_reached: bool
) -> None:
    firewalled.write(RULES, rules(host_args(private_address=private)))
    firewalled.write("/etc/nordmesh/members.nft", f"define members = {{ {MEMBER} }}\n")
    result = firewalled.shell(f"nft -f {RULES}\n{_CONNECT}")
    assert result.status == 0, result.stderr
    accepted = result.stdout.splitlines()
    assert (f"{MEMBER} 10250" in accepted) == is_reached
    assert f"{MEMBER} 80" in accepted
    assert f"{OTHER} 10250" not in accepted


@pytest.mark.parametrize(
    ("ssh_from", "client", "refuses"),
    [
        (["198.51.100.0/24"], ALLOWED, False),
        (["203.0.113.0/25", "198.51.100.7/32"], ALLOWED, False),
        ([], OTHER, False),
        (["198.51.100.0/24"], "", False),  # not over SSH
        (["198.51.100.0/24"], OTHER, True),
        (["198.51.100.8/29"], ALLOWED, True),
        # The rules drop all traffic except IPv4.
        (["198.51.100.0/24"], "2001:db8::7", True),
    ],
)
def test_rules_that_would_block_the_ssh_client_are_not_loaded(
    firewalled: Machine, ssh_from: list[str], client: str, refuses: bool
) -> None:
    text = "define members = { 192.0.2.11 }\n"
    firewalled.write("/etc/nordmesh/members.nft", text)
    firewalled.write("/etc/nordmesh/firewall.nft", "# earlier\n")
    result = prepare_over_ssh(firewalled, *ssh_from, client=client, then="nft list ruleset")
    if refuses:
        assert result.status == 1
        code = "ssh-from-ipv6" if ":" in client else "ssh-would-be-blocked"
        assert f"[{code}]" in result.stderr
        assert client in result.stderr
        assert firewalled.read("/etc/nordmesh/firewall.nft") == "# earlier\n"
        assert not firewalled.calls("systemctl enable --quiet nordmesh-firewall.service")
    else:
        assert result.status == 0, result.stderr
        assert "table inet nordmesh {" in result.stdout
        assert "nordmesh-try" not in result.stdout
