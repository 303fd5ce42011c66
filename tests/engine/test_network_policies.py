"""NetworkPolicies against a real API server, and enforced by a real kube-router in the kernel."""

import json
import shlex
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import yaml

from components.host.templates import render
from components.manifests import Manifest
from config import Mesh
from tests.engine.conftest import wait_until
from tests.engine.pod_network import LISTED, OUTSIDE, REMOTE_POD, PodNetwork, Space
from tests.support.golden import GOLDEN
from tests.unit.components.manifests.test_network_policy import HOST, policies_of

CALLER, SERVICE, JOB, DNS = "10.244.1.11", "10.244.1.12", "10.244.1.13", "10.244.1.14"
PORT = 8080
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
        apply(made, *namespaces("shop", "backend", "istio-system", "monitoring"))
        yield made


def test_the_api_server_accepts_every_object(network: PodNetwork) -> None:
    for file in ("network-policies.yaml", "kube-router.yaml"):
        for manifest in yaml.safe_load_all((GOLDEN / file).read_text()):
            network.server.kubectl(
                "create", "--dry-run=server", "--filename", "-", stdin=json.dumps(manifest)
            )


@pytest.fixture(scope="module")
def pods(network: PodNetwork) -> dict[str, Space]:
    """Pods that listen, and hosts outside that do."""
    made = {address: network.pod(address) for address in (CALLER, SERVICE, JOB, DNS)}
    network.listen(made[SERVICE], PORT, 9090, 15090)
    network.listen(made[CALLER], PORT)
    network.listen(made[DNS], 53)
    network.listen(network.outside, 53, 443, 5432, 8080)
    return made


def test_pods_have_no_connections_before_kube_router_at_the_start_of_a_node(
    network: PodNetwork, pods: dict[str, Space]
) -> None:
    network.load_firewall()
    assert pods[JOB].connects(OUTSIDE, 443), "a running cluster is not cut off"
    unit = render("etc/systemd/system/nordmesh-firewall.service", filters_pods=True)
    (line,) = (line for line in unit.splitlines() if "add element" in line)
    # The machine of the test has no cni0, like a node at its start.
    network.node.must(*shlex.split(line.removeprefix("ExecStart=")))
    before = network.packets()
    assert not pods[JOB].connects(OUTSIDE, 443)
    assert not pods[JOB].connects(SERVICE, PORT)
    assert network.packets() == before
    assert network.node.connects(SERVICE, PORT), "the node probes its pods"
    network.node.must("nft", "delete", "table", "inet", "nordmesh-pods")


# Every way out of a pod without a sidecar, which is what each of these is to the node.
def try_every_way_out(pod: Space) -> None:
    for port in (53, 443, 8080):
        assert not pod.connects(OUTSIDE, port)
    assert not pod.connects(LISTED, 443)
    # The user of sidecars, whose packets no sidecar redirects.
    assert not pod.connects(
        OUTSIDE, 443, "setpriv", "--reuid=1337", "--regid=1337", "--clear-groups"
    )
    for port in (53, 443, 5432):
        pod.sends(OUTSIDE, port)
        pod.sends(LISTED, port)
    pod.pings(OUTSIDE)


@pytest.mark.parametrize("with_nft", [False, True])
def test_only_what_the_file_lists_leaves_and_only_callers_call(
    network: PodNetwork, pods: dict[str, Space], *, with_nft: bool
) -> None:
    caller, job = pods[CALLER], pods[JOB]
    assert caller.connects(OUTSIDE, 443), "without policies, everything is open"
    network.load_firewall()
    assert caller.connects(OUTSIDE, 443), "the rules wait for kube-router"
    apply(network, *policies_of(MESH))
    if not with_nft:
        network.register("shop", "cart", CALLER, {"app": "cart"})
        network.register("shop", "ledger", SERVICE, {"app": "ledger"})
        network.register("shop", "job", JOB, {"job": "import"})
        apply(network, *namespaces("kube-system"))
        network.register("kube-system", "dns", DNS, {"k8s-app": "kube-dns"})
    with network.kube_router(with_nft=with_nft):
        wait_until(lambda: not job.connects(OUTSIDE, 443), "kube-router filters the pods")
        # It has filtered all pods at once, so the first connection shows that it filters.
        assert caller.connects(SERVICE, PORT)
        assert caller.connects(LISTED, 5432)
        assert job.connects(DNS, 53)
        before = network.packets()
        for pod in (caller, job):
            try_every_way_out(pod)
        assert network.packets() == before, "packets left the cluster"
        # Callers.
        assert not job.connects(SERVICE, PORT)
        assert not caller.connects(SERVICE, 9090)
        assert job.connects(SERVICE, 15090)
        assert job.connects(CALLER, PORT), "a service without callers"
        # The node itself, which probes its pods, and gates that read pods of other nodes.
        assert network.node.connects(SERVICE, 9090)
        assert sent_to_other_nodes(network)
        first_packets_of_new_pods(network, "10.244.1.250" if with_nft else "10.244.1.49")
        network.server.kubectl("delete", "networkpolicy", "--all", "--all-namespaces")
        wait_until(lambda: job.connects(OUTSIDE, 443), "nothing is limited without policies")
    # As it is switched off: what kube-router leaves on the node allows everything.
    network.node.must("nft", "delete", "table", "inet", "nordmesh-pods")
    for pod in (caller, job):
        assert pod.connects(OUTSIDE, 443)
    assert job.connects(SERVICE, 9090)


def first_packets_of_new_pods(network: PodNetwork, address: str) -> None:
    """Pods that the API server does not know yet: a datagram of each of 200 addresses."""
    new, addresses = network.pod(address), [f"10.244.1.{x}" for x in range(50, 250)]
    new.ip(*(f"address add {address}/24 dev eth0" for address in addresses))
    before = network.packets()
    new.sends(OUTSIDE, 53, *addresses)
    assert not new.connects(OUTSIDE, 443)
    assert network.packets() == before, "a pod talked before its policies were in effect"


def sent_to_other_nodes(network: PodNetwork) -> bool:
    """Whether the node's own packets to pods of other nodes leave over the overlay."""
    before = network.node.sent("flannel.1")
    network.node.sends(REMOTE_POD, 15090)
    return network.node.sent("flannel.1") > before
