"""A node with pods as network namespaces of this machine, and kube-router on it.

It has what flannel makes: the bridge cni0 with the pods, and flannel.1 towards the pods of other
nodes. Nothing of it is left when the test ends.
"""

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.host.table import RULES
from components.host.templates import render
from components.manifests import kube_router
from lab import paths
from tests.engine.api_server import ApiServer, serving
from tests.engine.conftest import wait_until

NODE, NODE_ADDRESS, GATEWAY = "worker-1", "192.0.2.11", "192.0.2.1"
NODE_ADDRESS_6 = "2001:db8::11"
POD_CIDR, REMOTE_POD, REMOTE_NODE = "10.244.1.0/24", "10.244.2.9", "10.244.2.1"
OUTSIDE, LISTED, METADATA = "203.0.113.7", "203.0.113.50", "169.254.169.254"
SECOND_API_SERVER, OTHER_NODE = "192.0.2.12", "192.0.2.13"
# Hosts outside have every address of these networks.
_NETWORKS, _NETWORK_6 = ("203.0.113.0/24", f"{METADATA}/32"), "2001:db8:ff::/64"
# The same at both ends: without ARP, a frame goes to the address that it comes from.
_OVERLAY = "address 02:00:00:00:00:01"
# Accepts connections on all ports that it is given, and answers nothing.
_LISTEN = """
import socket, sys, time
sockets = []
for port in map(int, sys.argv[1:]):
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("0.0.0.0", port))
    one.listen(100)
    sockets.append(one)
print("listening", flush=True)
time.sleep(3600)
"""
_CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), 2)
"""
_SEND = """
import socket, sys
for source in sys.argv[3:] or [""]:
    one = socket.socket(type=socket.SOCK_DGRAM)
    one.bind((source, 0))
    one.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
"""
# An echo request with its checksum.
_PING = """
import socket, sys
raw = socket.socket(type=socket.SOCK_RAW, proto=socket.IPPROTO_ICMP)
raw.sendto(bytes.fromhex("0800f7ff00000000"), (sys.argv[1], 0))
"""
_ENTER = """
set -e
mount --bind "$1" "$3/mnt"
mount --bind "$2" "$3/srv"
mount -t proc proc "$3/proc"
mount -t tmpfs tmpfs "$3/run"
exec chroot "$3" env PATH=$4/usr/sbin:/usr/bin:/sbin:/bin NODE_NAME=@NODE@ /mnt/kube-router "${@:5}"
""".replace("@NODE@", NODE)


@dataclass(frozen=True)
class Space:
    """A network namespace, which a process holds."""

    within: Sequence[str]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.within, *command], capture_output=True, text=True, check=False, timeout=120
        )

    def must(self, *command: str, stdin: str = "") -> str:
        ended = subprocess.run(
            [*self.within, *command], input=stdin, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, (command, ended.stderr)
        return ended.stdout

    def ip(self, *lines: str) -> None:
        """Run `ip` with each of the lines."""
        for line in lines:
            self.must("ip", *line.split())

    def connects(self, address: str, port: int, *prefix: str) -> bool:
        """Whether a TCP connection is made. prefix: a command that runs the program."""
        program = [sys.executable, "-c", _CONNECT, address, str(port)]
        return self.run(*prefix, *program).returncode == 0

    def sends(self, address: str, port: int, *sources: str) -> None:
        """Send a datagram, or one from each source. It may be refused later."""
        self.must(sys.executable, "-c", _SEND, address, str(port), *sources)

    def pings(self, address: str) -> None:
        """Send an echo request, without waiting for the answer."""
        self.must(sys.executable, "-c", _PING, address)

    def sent(self, link: str) -> int:
        """How many packets a link has sent."""
        (shown,) = json.loads(self.must("ip", "-json", "-statistics", "link", "show", link))
        return int(shown["stats64"]["tx"]["packets"])

    @property
    def pid(self) -> str:
        return self.within[2]


class PodNetwork:
    """The node, what is outside of the cluster, and the API server."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack, self.folder = stack, folder
        self.node, self.outside = self._space(), self._space()
        self.server: ApiServer = stack.enter_context(serving(folder, self.node.within))
        self.node.ip(
            f"link add eth0 type veth peer name eth0 netns {self.outside.pid}",
            f"address add {NODE_ADDRESS}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {GATEWAY}",
            "link add cni0 type bridge",
            "address add 10.244.1.1/24 dev cni0",
            "link set cni0 up",
            f"link add flannel.1 {_OVERLAY} type veth"
            f" peer name overlay {_OVERLAY} netns {self.outside.pid}",
            "address add 10.244.1.0/32 dev flannel.1",
            "link set flannel.1 arp off up",
            "route add 10.244.2.0/24 dev flannel.1",
        )
        self.outside.ip(f"address add {GATEWAY}/24 dev eth0", "link set eth0 up")
        self.outside.ip("link set overlay up")
        for address in (SECOND_API_SERVER, OTHER_NODE):
            self.outside.ip(f"address add {address}/24 dev eth0")
        self.outside.ip(*(f"route add local {network} dev lo" for network in _NETWORKS))
        self.outside.ip(f"route add {POD_CIDR} via {NODE_ADDRESS}")
        self._use_ipv6()
        for key in ("ip_forward=1", *(f"conf.{x}.rp_filter=0" for x in ("all", "eth0", "cni0"))):
            self.node.must("sysctl", "-q", "-w", f"net.ipv4.{key}")
        self.outside.must("nft", "-f", "-", stdin=_COUNTERS)
        self.server.kubectl("create", "--filename", "-", stdin=json.dumps(_node()))

    def _use_ipv6(self) -> None:
        self.node.must("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=1")
        self.node.ip(
            f"-6 address add {NODE_ADDRESS_6}/64 dev eth0 nodad",
            "-6 address add fd00:1::1/64 dev cni0 nodad",
            "-6 route add default via 2001:db8::1",
        )
        self.outside.ip(
            "-6 address add 2001:db8::1/64 dev eth0 nodad",
            f"-6 route add local {_NETWORK_6} dev lo",
            f"-6 route add fd00:1::/64 via {NODE_ADDRESS_6}",
        )

    def _space(self) -> Space:
        held = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._stack.callback(_end, held)
        space = Space(["nsenter", "--target", str(held.pid), "--net"])
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{held.pid}/ns/net").readlink() != own, "it has a network")
        space.ip("link set lo up")
        return space

    def pod(self, address: str) -> Space:
        """Make a pod's network, as the CNI plugin does. The API server does not know it yet."""
        space, name = self._space(), f"veth{address.rpartition('.')[2]}"
        self.node.ip(
            f"link add {name} type veth peer name eth0 netns {space.pid}",
            f"link set {name} master cni0",
            f"link set {name} up",
        )
        space.ip(
            f"address add {address}/24 dev eth0",
            "link set eth0 up",
            "route add default via 10.244.1.1",
            f"-6 address add fd00:1::{address.rpartition('.')[2]}/64 dev eth0 nodad",
            "-6 route add default via fd00:1::1",
        )
        return space

    def register(self, namespace: str, name: str, address: str, labels: Mapping[str, str]) -> None:
        """Tell the API server that a pod runs, and its address."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]},
        }
        self.server.kubectl("create", "--filename", "-", stdin=json.dumps(pod))
        path = f"/api/v1/namespaces/{namespace}/pods/{name}"
        known = json.loads(self.server.kubectl("get", "--raw", path))
        known["status"] = {
            "phase": "Running",
            "hostIP": NODE_ADDRESS,
            "podIP": address,
            "podIPs": [{"ip": address}],
        }
        self.server.kubectl("replace", "--raw", f"{path}/status", "-f", "-",
                            stdin=json.dumps(known))  # fmt: skip

    def listen(self, space: Space, *ports: int) -> None:
        """Accept TCP connections on ports."""
        command = [*space.within, sys.executable, "-c", _LISTEN, *map(str, ports)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._stack.callback(_end, process)
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"

    def packets(self) -> int:
        """How many packets have arrived outside of the cluster so far."""
        table = json.loads(self.outside.must("nft", "-j", "list", "table", "inet", "seen"))
        counters = [x["rule"]["expr"] for x in table["nftables"] if "rule" in x]
        return sum(
            part["counter"]["packets"] for one in counters for part in one if "counter" in part
        )

    def load_firewall(self) -> None:
        """Load the node's rules, as its service does."""
        values = {"limits": [], "cluster_ports": [10250], "overlay_port": 8472}
        text = render(RULES.lstrip("/"), **values, private_address=None, filters_pods=True)
        members = f"define members = {{ {NODE_ADDRESS} }}"
        text = text.replace('include "/etc/nordmesh/members.nft"', members)
        self.node.must("nft", "-f", "-", stdin=text)

    @contextmanager
    def cleaned(self) -> Iterator[None]:
        """Remove the rules of kube-router in the end, also after a failure."""
        try:
            yield
        finally:
            for program in ("iptables-legacy", "iptables-nft"):
                for what in ("--flush", "--delete-chain"):
                    self.node.must(program, what)

    @contextmanager
    def kube_router(self, *flags: str, with_nft: bool = False) -> Iterator[None]:
        """Run kube-router in its image. with_nft: as on nodes whose iptables are those of nft."""
        root, cache = paths.cache().image_root, paths.cache()
        assert (root / "usr/sbin/ipset").exists(), "build the lab's images: make test"
        *_, daemon_set = kube_router.kube_router(
            service_cidr="10.96.0.0/16", endpoint="127.0.0.1", image="none"
        )
        (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
        log, programs = self.folder / "kube-router.log", self.folder / "nft"
        programs.mkdir(exist_ok=True)
        for name in ("iptables", "iptables-save", "iptables-restore"):
            link = programs / name
            link.unlink(missing_ok=True)
            link.symlink_to(f"/usr/sbin/{name.replace('iptables', 'iptables-nft')}")
        with log.open("a") as handle:
            process = subprocess.Popen(
                [
                    *self.node.within, "unshare", "--mount", "--propagation", "private",
                    "bash", "-c", _ENTER, "enter", str(cache.bin / "kube-router"),
                    str(self.folder), str(root), "/srv/nft:" if with_nft else "",
                    *container["args"], "--kubeconfig=/srv/admin.conf", *flags,
                ],
                stdout=handle, stderr=handle,
            )  # fmt: skip
        try:
            yield
            assert process.poll() is None, log.read_text()[-3000:]
            # As its container ends: first the preStop hook, then SIGTERM.
            subprocess.run(container["lifecycle"]["preStop"]["exec"]["command"], check=True)
            process.terminate()
            process.wait(timeout=60)
        finally:
            _end(process)


def _node() -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE},
        "spec": {"podCIDR": POD_CIDR, "podCIDRs": [POD_CIDR]},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]},
    }


_COUNTERS = textwrap.dedent("""
    table inet seen {
      chain arriving {
        type filter hook prerouting priority raw; policy accept;
        iifname "eth0" meta l4proto { tcp, udp, icmp } counter
      }
    }
    """)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
