"""NetworkPolicies against a real API server, and enforced by a real kube-router in the kernel."""

import json
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import yaml

from components.host.templates import render
from components.manifests import Manifest
from config import Mesh
from tests.engine.leaving import OPEN, TRIED, Leaving
from tests.engine.pod_network import (
    LISTED,
    NODE_ADDRESS,
    OUTSIDE,
    REMOTE_POD,
    PodNetwork,
    Space,
)
from tests.support.golden import GOLDEN
from tests.support.ways_out import Sender
from tests.unit.components.manifests.test_network_policy import HOST, policies_of

CALLER, SERVICE, JOB, DNS = "10.244.1.11", "10.244.1.12", "10.244.1.13", "10.244.1.14"
PROMETHEUS, NEW = "10.244.1.15", "10.244.1.49"
MORE_NEW = tuple(f"10.244.1.{x}" for x in range(50, 250))
PORT = 8080
_SECONDS = 120
MESH = Mesh.model_validate(
    {
        "namespaces": {"shop": {}},
        "services": {
            "cart": {"namespace": "shop", "port": PORT, "stable": "v1"},
            "ledger": {
                "namespace": "shop",
                "port": PORT,
                "stable": "v1",
                "callers": [{"service": "cart", "ports": [PORT]}],
            },
        },
        "egress": {
            "hosts": {
                "db": HOST
                | {
                    "through": "direct",
                    "addresses": [LISTED],
                    "ports": [{"number": 5432, "protocol": "TCP"}],
                }
            }
        },
    }
)


def apply(network: PodNetwork, *manifests: Manifest) -> None:
    for manifest in manifests:
        network.server.kubectl("apply", "--filename", "-", stdin=json.dumps(manifest))


def namespaces(*names: str) -> list[Manifest]:
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PodNetwork]:
    with ExitStack() as stack:
        made = PodNetwork(stack, tmp_path_factory.mktemp("network"))
        every = ("shop", "backend", "istio-system", "monitoring", "kube-system")
        apply(made, *namespaces(*every))
        yield made


def test_the_api_server_accepts_every_object(network: PodNetwork) -> None:
    for file in ("network-policies.yaml", "kube-router.yaml"):
        for manifest in yaml.safe_load_all((GOLDEN / file).read_text()):
            network.server.kubectl(
                "create", "--dry-run=server", "--filename", "-", stdin=json.dumps(manifest)
            )


@dataclass(frozen=True)
class Pods:
    """Pods by address, and the ways out of them. The API server knows all but the new one."""

    network: PodNetwork
    spaces: Mapping[str, Space]
    leaving: Leaving

    def connected(self) -> set[str]:
        """The connections inside the cluster that are made, of those that matter here."""
        caller, job, prometheus = (self.spaces[x] for x in (CALLER, JOB, PROMETHEUS))
        connections = {
            "a caller to its service": (caller, SERVICE, PORT),
            "a caller to another port": (caller, SERVICE, 9090),
            "a job to the service": (job, SERVICE, PORT),
            "a job to the statistics of a proxy": (job, SERVICE, 15090),
            "a job to a service without callers": (job, CALLER, PORT),
            "a job to DNS": (job, DNS, 53),
            # It probes its pods.
            "the node to its pods": (self.network.node, SERVICE, 9090),
            # The pods of a control plane call the API server on their own node.
            "a job to the API server of its node": (job, NODE_ADDRESS, 6443),
            "Prometheus to the kubelet of its node": (prometheus, NODE_ADDRESS, 10250),
            "Prometheus to etcd's metrics on its node": (prometheus, NODE_ADDRESS, 2381),
            # As metrics-server, which is in a namespace without policies.
            "a pod without policies to the kubelet of its node": (
                self.spaces[DNS],
                NODE_ADDRESS,
                10250,
            ),
        }
        return {
            name
            for name, (pod, address, port) in connections.items()
            if pod.connects(address, port)
        }


EVERY_CONNECTION = {
    "a caller to its service",
    "a caller to another port",
    "a job to the service",
    "a job to the statistics of a proxy",
    "a job to a service without callers",
    "a job to DNS",
    "the node to its pods",
    "a job to the API server of its node",
    "Prometheus to the kubelet of its node",
    "Prometheus to etcd's metrics on its node",
    "a pod without policies to the kubelet of its node",
}
# kube-router drops such packets of every pod, with or without policies.
OF_NO_CONNECTION = {"echo replies that nobody asked for", "ICMP errors of no connection"}
ALLOWED = EVERY_CONNECTION - {"a caller to another port", "a job to the service"}


@pytest.fixture(scope="module")
def pods(network: PodNetwork) -> Pods:
    """Pods that listen, and hosts outside that do."""
    spaces = {x: network.pod(x) for x in (CALLER, SERVICE, JOB, DNS, PROMETHEUS, NEW)}
    network.listen(spaces[SERVICE], PORT, 9090, 15090)
    network.listen(spaces[CALLER], PORT)
    network.listen(spaces[DNS], 53)
    network.listen(network.node, 2381, 6443, 10250)
    network.listen(network.outside, 53, 443, 5432, 8080)
    spaces[NEW].ip(*(f"address add {address}/24 dev eth0" for address in MORE_NEW))
    network.register("shop", "cart", CALLER, {"app": "cart"})
    network.register("shop", "ledger", SERVICE, {"app": "ledger"})
    network.register("shop", "job", JOB, {"job": "import"})
    network.register("kube-system", "dns", DNS, {"k8s-app": "kube-dns"})
    network.register("monitoring", "prometheus", PROMETHEUS, {"app": "prometheus"})
    senders = {
        Sender.POD: JOB,
        Sender.SIDECAR_USER: JOB,
        Sender.OTHER_POD: DNS,
        Sender.MONITOR: PROMETHEUS,
        Sender.NEW_POD: NEW,
    }
    leaving = Leaving(
        network,
        {sender: (spaces[address], address) for sender, address in senders.items()},
        (spaces[SERVICE], SERVICE),
    )
    return Pods(network, spaces, leaving)


def test_pods_have_no_connections_before_kube_router_at_the_start_of_a_node(
    network: PodNetwork, pods: Pods
) -> None:
    job = pods.spaces[JOB]
    with firewall(network):
        assert job.connects(OUTSIDE, 443), "a running cluster is not cut off"
        unit = render("etc/systemd/system/nordmesh-firewall.service", filters_pods=True)
        (line,) = (line for line in unit.splitlines() if "add element" in line)
        # The machine of the test has no cni0, like a node at its start.
        network.node.must(*shlex.split(line.removeprefix("ExecStart=")))
        before = network.packets()
        assert not job.connects(OUTSIDE, 443)
        assert not job.connects(SERVICE, PORT)
        assert not job.connects(NODE_ADDRESS, 10250)
        assert network.packets() == before
        assert network.node.connects(SERVICE, PORT), "the node probes its pods"


@contextmanager
def firewall(network: PodNetwork) -> Iterator[None]:
    """The node's rules. They are deleted at the end, as they are switched off."""
    network.load_firewall()
    try:
        yield
    finally:
        network.node.must("nft", "delete", "table", "inet", "nordmesh-pods")


@contextmanager
def policies(network: PodNetwork) -> Iterator[None]:
    apply(network, *policies_of(MESH))
    try:
        yield
    finally:
        network.server.kubectl("delete", "networkpolicy", "--all", "--all-namespaces")


def becomes(read: Callable[[set[str]], set[str]], expected: set[str]) -> None:
    """Wait until what is read is as expected, and fail with the difference."""
    deadline = time.monotonic() + _SECONDS
    while (value := read(expected)) != expected and time.monotonic() < deadline:
        pass
    assert value == expected


@pytest.mark.parametrize("with_nft", [False, True])
def test_only_what_the_file_lists_leaves_and_only_callers_call(
    network: PodNetwork, pods: Pods, *, with_nft: bool
) -> None:
    every_way, arrived = set(TRIED), pods.leaving.arrived
    with network.cleaned():
        # Every packet arrives without rules: the ones that do not later are refused.
        assert arrived(every_way) == every_way
        with firewall(network), network.kube_router(with_nft=with_nft):
            with policies(network):
                becomes(arrived, OPEN)
                becomes(lambda _: pods.connected(), ALLOWED)
                # Once it filters, nothing else leaves.
                assert arrived(OPEN) == OPEN
                assert pods.connected() == ALLOWED
                assert sent_to_other_nodes(network)
                first_packets_of_new_pods(network, pods.spaces[NEW])
            becomes(lambda _: pods.connected(), EVERY_CONNECTION)
        # As it is switched off: what kube-router leaves on the node allows every connection.
        left = every_way - OF_NO_CONNECTION
        assert arrived(left) - OF_NO_CONNECTION == left
        assert pods.connected() == EVERY_CONNECTION


def first_packets_of_new_pods(network: PodNetwork, new: Space) -> None:
    """Pods that the API server does not know yet: a datagram of each of 200 addresses."""
    before = network.packets()
    new.sends(OUTSIDE, 53, *MORE_NEW)
    assert not new.connects(OUTSIDE, 443)
    assert network.packets() == before, "a pod talked before its policies were in effect"


def sent_to_other_nodes(network: PodNetwork) -> bool:
    """Whether the node's own packets to pods of other nodes leave over the overlay."""
    before = network.node.sent("flannel.1")
    network.node.sends(REMOTE_POD, 15090)
    return network.node.sent("flannel.1") > before
