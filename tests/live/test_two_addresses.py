"""Machines with a public and a private address: people use one, the cluster uses the other.

The private network is a second interface on each machine, with a smaller MTU.
"""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
import yaml

from config import catalogue
from lab.screen import Cluster
from tests.live import bought
from tests.live.harness import Project, lab_project

NETWORK = "10.74.0"
PUBLIC = {"cp-1": f"{NETWORK}.11", "worker-1": f"{NETWORK}.21"}
PRIVATE = {"cp-1": "172.30.0.11", "worker-1": "172.30.0.21"}
OTHER = {"cp-1": "worker-1", "worker-1": "cp-1"}
ROLES = {"cp-1": "control-plane", "worker-1": "worker"}
MTU, VXLAN_HEADER = 1400, 50
# By node: the TCP ports of etcd and kubelet.
CLUSTER_PORTS = {"cp-1": (2379, 2380, 10250), "worker-1": (10250,)}

# Two interfaces in one network segment: each answers for its own address only.
PRIVATE_INTERFACE = """set -e
ip link add eth1 link host0 type macvlan mode bridge
ip link set eth1 mtu {mtu} up
ip address add {address}/24 dev eth1
sysctl -qw net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2
"""


@dataclass(frozen=True, kw_only=True)
class Site:
    """The machines and their stack. lab: for access as root."""

    project: Project
    lab: Project
    host_keys: dict[str, str]

    def configure(self, private: dict[str, str]) -> None:
        """Write the stack file with these private addresses."""
        document = bought.read_config(self.project)
        document["config"]["nordmesh:machines"] = {
            "allowDataLoss": True,
            "nodes": {
                name: {
                    "role": role,
                    "provider": "existing",
                    "address": PUBLIC[name],
                    "hostKey": self.host_keys[name],
                    **({"privateAddress": private[name]} if name in private else {}),
                }
                for name, role in ROLES.items()
            },
        }
        self.project.stack_file.write_text(yaml.safe_dump(document))

    def on(self, name: str, command: str) -> str:
        return self.lab.ssh(PUBLIC[name], command)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with lab_project("private", bridge="nordmesh-prv", network=NETWORK) as lab:
        document = yaml.safe_load(lab.stack_file.read_text())
        for section in ("istio", "mesh", "demo"):
            del document["config"][f"nordmesh:{section}"]
        lab.start_services()
        keys = {name: bought.make_machine(lab, name, address) for name, address in PUBLIC.items()}
        project = replace(lab, stack="two-addresses")
        project.stack_file.write_text(yaml.safe_dump(document))
        host_keys = {name: both["hostKey"] for name, both in keys.items()}
        site = Site(project=project, lab=lab, host_keys=host_keys)
        site.configure(PRIVATE)
        project.make_stack()
        project.pulumi(
            "config", "set", "--secret", "nordmesh:sshPrivateKey", stdin=keys["cp-1"]["privateKey"]
        )
        try:
            yield site
        finally:
            project.pulumi("stack", "rm", "--yes", "--force", "--preserve-config", ok=False)


def test_a_machine_without_its_private_address_is_refused(site: Site) -> None:
    text = " ".join(site.project.up(ok=False).text.split())
    for name, address in PRIVATE.items():
        assert f"{name} [preflight-address]" in text
        assert f"no interface has {address}; the machine has {PUBLIC[name]}" in text
    assert "attach the machine to the private network" in text


def test_a_private_network_without_a_route_is_refused(site: Site) -> None:
    for name, address in PRIVATE.items():
        site.on(name, PRIVATE_INTERFACE.format(mtu=MTU, address=address))
    site.on("worker-1", f"ip route add {PRIVATE['cp-1']}/32 via {NETWORK}.1 dev host0")
    text = " ".join(site.project.up(ok=False).text.split())
    site.on("worker-1", f"ip route delete {PRIVATE['cp-1']}/32")
    assert "worker-1 [preflight-route]" in text
    leave = f"leave from {PUBLIC['worker-1']} on host0"
    assert f"packets to cp-1 ({PRIVATE['cp-1']}) {leave}" in text


def test_the_nodes_join_over_the_private_network(site: Site) -> None:
    site.project.up()
    site.project.up("--expect-no-changes")
    with site.project.cluster() as cluster:
        server = yaml.safe_load(cluster.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]
        nodes = {
            item["metadata"]["name"]: [
                entry["address"]
                for entry in item["status"]["addresses"]
                if entry["type"] == "InternalIP"
            ]
            for item in cluster.items("nodes")
        }
    assert server == f"https://{PUBLIC['cp-1']}:6443"
    assert nodes == {name: [address] for name, address in PRIVATE.items()}


@pytest.mark.parametrize("name", PUBLIC)
def test_etcd_and_kubelet_listen_on_the_private_address(site: Site, name: str) -> None:
    ports = " or ".join(f"sport = {port}" for port in CLUSTER_PORTS[name])
    sockets = [line.split()[3] for line in site.on(name, f"ss -Hlnt '{ports}'").splitlines()]
    addresses = {tuple(text.rsplit(":", 1)) for text in sockets}
    assert {address for address, _ in addresses} <= {PRIVATE[name], "127.0.0.1"}
    assert {(PRIVATE[name], str(port)) for port in CLUSTER_PORTS[name]} <= addresses


@pytest.mark.parametrize("name", PUBLIC)
def test_the_overlay_uses_the_private_interface(site: Site, name: str) -> None:
    link = site.on(name, "ip -d link show flannel.1")
    assert f"mtu {MTU - VXLAN_HEADER} " in link
    assert re.search(rf"vxlan .*local {PRIVATE[name]} dev eth1 ", link)


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_address_answers_nothing_of_the_cluster(site: Site, name: str) -> None:
    for port in CLUSTER_PORTS[name]:
        with pytest.raises(OSError, match=r"timed out|refused"):
            socket.create_connection((PUBLIC[name], port), timeout=2).close()
    # The firewall accepts members on the private address only, and counts the rest.
    target, other = PUBLIC[name], OTHER[name]
    before = dropped(site, name)
    site.on(other, f"echo packet >/dev/udp/{target}/8472")
    reach = "timeout 2 bash -c '</dev/tcp/{}/10250' 2>/dev/null && echo open || echo closed"
    assert site.on(other, reach.format(target)).strip() == "closed"
    assert dropped(site, name) >= before + 2
    assert site.on(other, reach.format(PRIVATE[name])).strip() == "open"


def dropped(site: Site, name: str) -> int:
    """Count the packets for cluster ports on another address than the private one."""
    rules = site.on(name, "nft list chain inet nordmesh cluster")
    (packets,) = re.findall(rf"ip daddr != {PRIVATE[name]} counter packets (\d+)", rules)
    return int(packets)


@pytest.fixture(scope="module")
def cluster(site: Site) -> Iterator[Cluster]:
    with site.project.cluster() as cluster:
        yield cluster


def test_pods_on_two_nodes_reach_each_other(site: Site, cluster: Cluster) -> None:
    image = catalogue.KUBERNETES["1.23.17"].pause_image
    for name in PUBLIC:
        where = f'{{"spec": {{"nodeName": "{name}"}}}}'
        cluster.kubectl("run", f"on-{name}", f"--image={image}", f"--overrides={where}")
    cluster.kubectl(
        "wait", "--for=condition=Ready", *(f"pod/on-{name}" for name in PUBLIC), "--timeout=60s",
        seconds=90,
    )  # fmt: skip
    pods = cluster.items("pods")
    ips = {pod["spec"]["nodeName"]: pod["status"]["podIP"] for pod in pods}
    for name, other in OTHER.items():
        before = received(site, name)
        # Nothing listens in the other pod, so its kernel refuses the connection.
        answer = site.on(name, IN_POD.format(own=ips[name], target=ips[other]))
        assert "Connection refused" in answer
        assert received(site, name) > before


# Connects from the network namespace of the pod with an address.
IN_POD = """
for name in $(ip netns list | cut -d ' ' -f 1); do
    ip netns exec $name ip -o -4 address | grep -q ' {own}/' || continue
    ip netns exec $name timeout 5 bash -c '</dev/tcp/{target}/9' 2>&1 || true
done
"""


def received(site: Site, name: str) -> int:
    """Count the packets of the pod network from other nodes."""
    return int(site.on(name, "cat /sys/class/net/flannel.1/statistics/rx_packets"))


def test_the_api_server_reaches_kubelets(cluster: Cluster) -> None:
    for pod in cluster.items("pods", "--namespace", "kube-flannel"):
        arguments = ("logs", "--tail=1", "--namespace=kube-flannel", pod["metadata"]["name"])
        assert cluster.kubectl(*arguments).strip()


def test_no_drift_is_found(site: Site) -> None:
    result = site.project.run_python("-m", "cli", "drift", "--stack", site.project.stack)
    assert result.code == 0, result.text


def test_another_private_address_is_refused(site: Site) -> None:
    site.configure({**PRIVATE, "worker-1": "172.30.0.22"})
    text = " ".join(site.project.pulumi("preview", ok=False).text.split())
    site.configure(PRIVATE)
    assert "nordmesh:machines.nodes.worker-1.privateAddress [setting-immutable]" in text
    assert "it changes from 172.30.0.21 to 172.30.0.22" in text
    assert "remove worker-1 from the file" in text


def test_a_worker_that_is_added_again_has_another_private_address(site: Site) -> None:
    site.configure(PRIVATE)
    with site.project.config() as config:
        entry = config["nordmesh:machines"]["nodes"].pop("worker-1")
    site.project.up()
    site.on("worker-1", "ip address flush dev eth1; ip address add 172.30.0.22/24 dev eth1")
    with site.project.config() as config:
        entry["privateAddress"] = "172.30.0.22"
        config["nordmesh:machines"]["nodes"]["worker-1"] = entry
    site.project.up()
    with site.project.cluster() as cluster:
        (worker,) = cluster.items("nodes", "--field-selector=metadata.name=worker-1")
    assert {"type": "InternalIP", "address": "172.30.0.22"} in worker["status"]["addresses"]
