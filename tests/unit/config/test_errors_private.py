"""Private addresses: each wrong combination gives one error, and good ones load."""

import pytest

from config.warnings import warnings
from tests.unit.config.test_errors import WORKER, Load, Values, Wrong, edited, expect, refusal

PLANE = "machines.nodes.cp-1"
OWN, PLANES = f"{WORKER}.privateAddress", f"{PLANE}.privateAddress"
BOTH = {PLANES: "10.0.0.11", OWN: "10.0.0.21"}

WRONG = [
    Wrong(
        "two nodes with one private address",
        {**BOTH, OWN: "10.0.0.11"},
        OWN,
        "private-address-duplicate",
        ("10.0.0.11 is already an address of cp-1", "the private address that worker-1 has"),
    ),
    Wrong(
        "a private address that is another node's address",
        {PLANES: "10.0.0.11", f"{WORKER}.address": "10.0.0.11"},
        PLANES,
        "private-address-duplicate",
        ("10.0.0.11 is already an address of worker-1", "that cp-1 has"),
    ),
    Wrong(
        "a private address that is the node's own address",
        {PLANES: "10.0.0.11", f"{WORKER}.address": "10.0.0.21", OWN: "10.0.0.21"},
        OWN,
        "private-address-same",
        ("10.0.0.21 is the address of worker-1 too", "or remove it"),
    ),
    Wrong(
        "a private address that the internet reaches",
        {PLANES: "198.51.100.11", OWN: "10.0.0.21"},
        PLANES,
        "private-address-public",
        ("198.51.100.11 is not in a private range", "etcd", "10.0.0.0/8, 172.16.0.0/12"),
    ),
    Wrong(
        "a private address in another network",
        {**BOTH, OWN: "192.168.0.21"},
        OWN,
        "private-address-network",
        ("192.168.0.21 lies outside 10.0.0.0/8, the range of cp-1 (10.0.0.11)", "reach each other"),
    ),
    Wrong(
        "a node with its public address only",
        {PLANES: "10.0.0.11"},
        OWN,
        "private-address-missing",
        ("192.0.2.21 lies outside 10.0.0.0/8", "add the private address of worker-1"),
    ),
    Wrong(
        "a private address among the pods",
        {**BOTH, OWN: "10.244.0.21"},
        OWN,
        "node-address-in-cluster-network",
        ("10.244.0.21 is inside kubernetes.podCidr (10.244.0.0/16)", "among pods or services"),
    ),
    Wrong(
        "a private address among the services",
        {**BOTH, PLANES: "10.100.0.11"},
        PLANES,
        "node-address-in-cluster-network",
        ("10.100.0.11 is inside kubernetes.serviceCidr",),
    ),
    Wrong(
        "one address of kubelet for all nodes",
        {**BOTH, "kubernetes.kubelet": {"address": "0.0.0.0"}},  # noqa: S104
        "kubernetes.kubelet.address",
        "kubelet-address-private",
        ("listens on the privateAddress of each node", "remove it"),
    ),
    Wrong(
        "a worker that could not join from its private address",
        {**BOTH, "host": {"firewall": {"apiFrom": ["192.0.2.0/24"]}}},
        "host.firewall.apiFrom",
        "api-source-not-allowed",
        ("worker-1, 10.0.0.21, is in none", "add 10.0.0.21/32"),
    ),
    Wrong(
        "a name instead of a private address",
        {**BOTH, OWN: "worker.internal"},
        OWN,
        "ipv4-format",
        ("is not an IP address",),
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_wrong_values_are_refused(load: Load, existing_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(existing_stack, wrong.edit)), wrong)


def test_a_node_with_one_address_may_be_in_the_private_network(
    load: Load, existing_stack: Values
) -> None:
    """A worker behind a bastion has one address, in the private network."""
    edit: Values = {PLANES: "10.0.0.11", f"{WORKER}.address": "10.0.0.21"}
    nodes = load(edited(existing_stack, edit)).machines.nodes
    assert {name: node.cluster_address for name, node in nodes.items()} == {
        "cp-1": "10.0.0.11",
        "worker-1": "10.0.0.21",
    }


def test_the_overlay_without_a_firewall_is_a_warning(load: Load, existing_stack: Values) -> None:
    off = {"host": {"firewall": {"enabled": False}}}

    def found(edit: Values) -> list[str]:
        lines = warnings(load(edited(existing_stack, edit)))
        return [line for line in lines if "UDP 8472" in line]

    assert (found(BOTH), found(off)) == ([], [])
    (warning,) = found({**BOTH, **off})
    assert "host.firewall is off" in warning
