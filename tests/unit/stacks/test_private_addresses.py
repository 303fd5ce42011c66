"""Nodes with two addresses: which part of the platform uses which."""

import re
from typing import Any

import pytest
import yaml

from components.host.files import from_setting
from components.preflight import measure
from components.remote import node_command
from config import StackConfig
from config.istio.checks import _node_names
from tests.support.mocked import Recorder, base_sections, config, node, run

PUBLIC = {"cp-1": "192.0.2.11", "worker-1": "192.0.2.21"}
PRIVATE = {"cp-1": "10.0.0.11", "worker-1": "10.0.0.21"}
PEER = {"cp-1": "worker-1", "worker-1": "cp-1"}


def stack() -> StackConfig:
    roles = {"cp-1": "control-plane", "worker-1": "worker"}
    nodes = {
        name: {**node(role, PUBLIC[name]), "privateAddress": PRIVATE[name]}
        for name, role in roles.items()
    }
    return config(machines={"nodes": nodes})


@pytest.fixture(scope="module")
def recorded() -> tuple[Recorder, dict[str, Any]]:
    return run(stack())


def settings(recorder: Recorder, name: str) -> dict[str, str]:
    return node_command.settings(recorder.inputs("remote:Command", name)["create"])


def test_ssh_uses_the_public_address(recorded: tuple[Recorder, dict[str, Any]]) -> None:
    recorder, _ = recorded
    hosts = {
        name: recorder.inputs("remote:Command", f"{name}-prepare")["connection"]["host"]
        for name in PUBLIC
    }
    assert hosts == PUBLIC


def test_people_reach_the_api_server_at_the_public_address(
    recorded: tuple[Recorder, dict[str, Any]],
) -> None:
    recorder, exports = recorded
    documents = yaml.safe_load_all(settings(recorder, "cp-1-init")["CLUSTER_CONFIG"])
    assert PUBLIC["cp-1"] in next(documents)["apiServer"]["certSANs"]
    provider = recorder.inputs("pulumi:providers:kubernetes", "cluster")
    assert f"https://{PUBLIC['cp-1']}:6443" in str(provider["kubeconfig"])
    assert exports["nodes"]["worker-1"] == {
        "address": PUBLIC["worker-1"],
        "privateAddress": PRIVATE["worker-1"],
        "role": "worker",
    }


def test_etcd_and_kubelets_are_bound_to_the_private_address(
    recorded: tuple[Recorder, dict[str, Any]],
) -> None:
    recorder, _ = recorded
    init = yaml.safe_load(settings(recorder, "cp-1-init")["INIT_CONFIG"])
    assert init["localAPIEndpoint"]["advertiseAddress"] == PRIVATE["cp-1"]
    join = yaml.safe_load(settings(recorder, "worker-1-join")["JOIN_CONFIG"])
    flags = {
        "cp-1": init["nodeRegistration"]["kubeletExtraArgs"],
        "worker-1": join["nodeRegistration"]["kubeletExtraArgs"],
    }
    assert flags == {
        name: {"node-ip": address, "address": address} for name, address in PRIVATE.items()
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_a_node_itself_knows_private_addresses_only(
    recorded: tuple[Recorder, dict[str, Any]], name: str
) -> None:
    recorder, _ = recorded
    prepare = settings(recorder, f"{name}-prepare")
    # A worker's own load balancer answers for the API servers.
    endpoint = PRIVATE["cp-1"] if name == "cp-1" else "127.0.0.1"
    assert prepare["ENDPOINT_ADDRESS"] == endpoint
    texts = {file.path: file.text for file in from_setting(prepare["FILES"])}
    assert not any(address in text for text in texts.values() for address in PUBLIC.values())
    assert f"ip daddr != {PRIVATE[name]} counter drop" in texts["/etc/nordmesh/firewall.nft"]
    start = texts["/etc/systemd/system/kubelet.service"]
    assert f"kubelet-start.sh {PRIVATE[name]} {endpoint} " in start


@pytest.mark.parametrize("name", PUBLIC)
def test_the_preflight_measures_the_private_network(name: str) -> None:
    other = PEER[name]
    script = measure._script(stack(), name, 1)
    assert re.findall(r"export (?:ADDRESS|PEERS)=(\S+)", script) == [PRIVATE[name], PRIVATE[other]]
    command = measure._connect(stack(), name, {both: frozenset() for both in PUBLIC})
    assert f"{other}={PRIVATE[other]}=" in command
    assert PUBLIC[other] not in command


def test_gateways_know_a_node_by_either_address() -> None:
    assert _node_names(stack().machines) == {
        address: name for each in (PUBLIC, PRIVATE) for name, address in each.items()
    }


def test_without_private_addresses_nothing_is_about_them() -> None:
    recorder, exports = run(StackConfig.model_validate(base_sections()))
    inputs = [str(args.inputs) for args in recorder.resources.values()]
    for text in ("privateAddress", "ip daddr", "    address: 192"):
        assert [one for one in inputs if text in one] == []
    assert exports["nodes"]["worker-1"] == {"address": "192.0.2.21", "role": "worker"}
