"""kubelet-start.sh: name servers, the API server's name and the kernel's own routes on a node."""

import re

import pytest

from components.host.table import KUBELET_START, POD_RESOLVER
from components.host.templates import render
from components.remote.node_command import text_alone
from config import Kubernetes, kubelet, tls
from tests.unit.components.host.test_files import contents, host_args
from tests.unit.machine import Machine, Result

ADDRESS, PLANE, ENDPOINT, SERVICES = (
    "192.0.2.21",
    "192.0.2.11",
    "api.example.internal",
    "10.96.0.0/12",
)
LINE = f"{PLANE} {ENDPOINT} # nordmesh\n"
RESOLVED, MANAGER, DNSMASQ = (
    "/run/systemd/resolve/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/dnsmasq/resolv.conf",
)
ROUTED = f"""
ip link set lo up
ip link add eth0 type veth peer name router
ip address add {ADDRESS}/24 dev eth0
ip link set eth0 up
ip link set router up
"""
# A service whose only pod listens on the node's port 8080, as kube-proxy's rules have it.
SERVICE = f"""
nft add table ip nat
nft 'add chain ip nat output {{ type nat hook output priority -100; }}'
nft add rule ip nat output ip daddr 10.96.0.1 tcp dport 443 dnat to {ADDRESS}:8080
rm -f /ready
perl -MIO::Socket::INET -e '
    $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 5) or die;
    open $ready, ">", "/ready"; close $ready;
    $server->accept' &
until [ -e /ready ] || ! kill -0 $!; do sleep 0.05; done
"""
CONNECT = "timeout 60 bash -c '</dev/tcp/10.96.0.1/443'"


def start(machine: Machine, before: str = ROUTED, after: str = "") -> Result:
    machine.write(KUBELET_START, render(KUBELET_START.lstrip("/")) + "\n")
    command = f"bash {KUBELET_START} {ADDRESS} {PLANE} {ENDPOINT} {SERVICES}"
    result = machine.shell(f"{before}{command} || exit\n{after}")
    assert result.status == 0, result
    return result


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"/etc/resolv.conf": "nameserver 192.0.2.53\n"}, "nameserver 192.0.2.53\n"),
        (
            {"/etc/resolv.conf": "nameserver 127.0.0.53\n", RESOLVED: "nameserver 192.0.2.53\n"},
            "nameserver 192.0.2.53\n",
        ),
        (
            {
                "/etc/resolv.conf": "search a.no\nnameserver\t127.0.1.1\n",
                MANAGER: "nameserver 192.0.2.54\n",
            },
            "nameserver 192.0.2.54\n",
        ),
        (
            {"/etc/resolv.conf": "nameserver 127.0.0.1\n", DNSMASQ: "nameserver 192.0.2.55\n"},
            "nameserver 192.0.2.55\n",
        ),
        # One of two on the loopback: CoreDNS asks them in turn.
        (
            {
                "/etc/resolv.conf": "nameserver 192.0.2.53\nnameserver ::1\n",
                RESOLVED: "nameserver 192.0.2.56\n",
            },
            "nameserver 192.0.2.56\n",
        ),
        ({"/etc/resolv.conf": "nameserver 127.0.0.1\n"}, f"nameserver {ADDRESS}\n"),
        ({"/etc/resolv.conf": "# No DNS servers known.\n"}, f"nameserver {ADDRESS}\n"),
        ({}, f"nameserver {ADDRESS}\n"),
    ],
)
def test_pods_get_name_servers_that_they_reach(
    machine: Machine, files: dict[str, str], wanted: str
) -> None:
    for path, text in files.items():
        machine.write(path, text)
    result = start(machine, after=f"cat {POD_RESOLVER}")
    assert result.stdout.endswith(wanted)
    assert "127.0.0" not in result.stdout


def test_pods_follow_name_servers_that_change_later(machine: Machine) -> None:
    machine.write("/etc/resolv.conf", "nameserver 192.0.2.53\n")
    change = "echo 'nameserver 192.0.2.99' >/etc/resolv.conf\n"
    assert start(machine, after=f"{change}cat {POD_RESOLVER}").stdout.endswith("192.0.2.99\n")


@pytest.mark.parametrize("rest", ["127.0.0.1 localhost\n", "127.0.0.1 localhost", ""])
def test_the_name_of_the_api_server_survives_a_rewritten_hosts_file(
    machine: Machine, rest: str
) -> None:
    machine.write("/etc/hosts", rest)
    assert "had lost the API server's name" in start(machine).stdout
    start(machine)
    assert machine.read("/etc/hosts") == (f"{rest.rstrip()}\n" if rest else "") + LINE


def test_without_a_default_route_the_host_reaches_services(machine: Machine) -> None:
    refused = machine.shell(f"{ROUTED}{SERVICE}{CONNECT}")
    assert "Network is unreachable" in refused.stderr, refused
    start(machine, before=ROUTED + SERVICE, after=CONNECT)


def test_a_default_route_is_used_for_services(machine: Machine) -> None:
    default = f"{ROUTED}ip route add default via 192.0.2.1\n"
    assert SERVICES not in start(machine, before=default, after="ip route").stdout


def test_a_reset_removes_the_route_again(machine: Machine) -> None:
    result = start(machine, after="ip route; echo after; ip route flush dev lo proto 87; ip route")
    before, _, after = result.stdout.partition("after\n")
    assert f"{SERVICES} dev lo" in before
    assert SERVICES not in after
    assert "ip route flush dev lo proto 87" in text_alone("node-reset.sh")


def test_a_resolver_of_the_stack_file_wins() -> None:
    drop_in = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
    flag = f"--resolv-conf={POD_RESOLVER}"
    assert flag in contents(host_args(), "kubelet")[drop_in]
    assert "resolv-conf" not in contents(host_args(own_resolver=True), "kubelet")[drop_in]


def test_kubelets_accept_strong_tls_only_unless_the_stack_file_decides() -> None:
    drop_in = "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf"
    kubernetes = Kubernetes(cluster_name="a", version="1.23.17", endpoint="api.example.com")
    args = host_args(kubelet_flags=kubelet.flags(kubernetes))
    (line,) = re.findall(r"^ExecStart=/.*", contents(args, "kubelet")[drop_in], re.MULTILINE)
    assert f" --tls-cipher-suites={','.join(tls.CIPHERS)} --tls-min-version=VersionTLS12 $" in line
    own = kubernetes.model_copy(update={"kubelet": {"tlsMinVersion": "VersionTLS13"}})
    assert kubelet.flags(own).keys() == {"tls-cipher-suites"}


def test_the_kubelet_of_a_control_plane_waits_for_the_disk_of_etcd() -> None:
    unit = "/etc/systemd/system/kubelet.service"
    line = "RequiresMountsFor=/var/lib/etcd"
    assert line in contents(host_args(role="control-plane"), "kubelet")[unit].splitlines()
    assert line not in contents(host_args(role="worker"), "kubelet")[unit]
