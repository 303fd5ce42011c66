"""Invalid settings of hosts, databases and reserved resources: each edit gives one error."""

import pytest

from config import StackConfig
from tests.unit.config.test_errors import (
    BASTION,
    WORKER,
    Load,
    Values,
    Wrong,
    edited,
    expect,
    refusal,
)

FIREWALL = "host.firewall"
KUBELET = "kubernetes.kubelet"

WRONG = [
    Wrong(
        "a network without a length",
        {f"{FIREWALL}.sshFrom": ["192.0.2.0"]},
        f"{FIREWALL}.sshFrom[0]",
        "network-prefix-length",
        ("'192.0.2.0' has no prefix length", "192.0.2.0/24"),
    ),
    Wrong(
        "a network that is an address",
        {f"{FIREWALL}.apiFrom": ["192.0.2.9/24"]},
        f"{FIREWALL}.apiFrom[0]",
        "network-host-bits",
        ("use 192.0.2.0/24",),
    ),
    Wrong(
        "networks of a disabled firewall",
        {FIREWALL: {"enabled": False, "sshFrom": ["192.0.2.0/24"]}},
        f"{FIREWALL}.sshFrom",
        "firewall-networks-unused",
        ("the firewall is off",),
    ),
    Wrong(
        "a worker that could not join",
        {f"{FIREWALL}.apiFrom": ["192.0.2.0/28"]},
        f"{FIREWALL}.apiFrom",
        "api-source-not-allowed",
        ("worker-1, 192.0.2.21, is in none", "joins through the API server", "192.0.2.21/32"),
    ),
    Wrong(
        "a bastion that is not in the list",
        {f"{FIREWALL}.sshFrom": ["198.51.100.0/24"], f"{WORKER}.bastion": BASTION},
        f"{FIREWALL}.sshFrom",
        "ssh-source-not-allowed",
        ("the bastion of worker-1, 192.0.2.5,", "could not log in", "add 192.0.2.5/32"),
    ),
    Wrong(
        "a time server with a scheme",
        {"host.timeServers": ["ntp://time.example.no"]},
        "host.timeServers[0]",
        "host-name-format",
        ("'ntp://time.example.no' is neither", "192.0.2.123"),
    ),
    Wrong(
        "time servers without time synchronisation",
        {"host": {"timeSync": False, "timeServers": ["time.example.no"]}},
        "host.timeServers",
        "time-servers-unused",
        ("host.timeSync is false",),
    ),
    Wrong(
        "a journal in percent",
        {"host.journalSize": "10%"},
        "host.journalSize",
        "memory-format",
        ("'10%' is not",),
    ),
    Wrong(
        "hardened is a word",
        {"host.ssh.hardened": "very"},
        "host.ssh.hardened",
        "boolean-expected",
        ("true or false",),
    ),
    Wrong(
        "an unknown key",
        {f"{FIREWALL}.sshfrom": []},
        f"{FIREWALL}.sshfrom",
        "key-unknown",
        ("there is no key sshfrom", "sshFrom"),
    ),
    Wrong(
        "an unknown database engine",
        {f"{WORKER}.database": {"engine": "postgres"}},
        f"{WORKER}.database.engine",
        "choice-unknown",
        ("of mysql, mariadb",),
    ),
    Wrong(
        "a database without an engine",
        {f"{WORKER}.database": {}},
        f"{WORKER}.database.engine",
        "key-missing",
        ("engine is missing",),
    ),
    Wrong(
        "a pool without a unit",
        {f"{WORKER}.database": {"engine": "mysql", "bufferPool": 12}},
        f"{WORKER}.database.bufferPool",
        "memory-minimum",
        ("less than a mebibyte",),
    ),
    Wrong(
        "a reserve that is a quantity",
        {f"{KUBELET}.systemReserved": "256Mi"},
        f"{KUBELET}.systemReserved",
        "kubelet-reserved-mapping",
        ("{cpu: 100m, memory: 256Mi}",),
    ),
    Wrong(
        "a reserve in words",
        {f"{KUBELET}.kubeReserved": {"cpu": "half"}},
        f"{KUBELET}.kubeReserved.cpu",
        "kubelet-reserved-quantity",
        ("'half' is not", "kubelet would not start"),
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_an_invalid_host_setting_is_refused(
    load: Load, existing_stack: Values, wrong: Wrong
) -> None:
    existing_stack["host"] = {"firewall": {}, "ssh": {}}
    existing_stack["kubernetes"]["kubelet"] = {}
    expect(refusal(load, edited(existing_stack, wrong.edit)), wrong)


CONTAINER = [
    Wrong(
        "the lab machine is not in the SSH list",
        {f"{FIREWALL}.sshFrom": ["192.0.2.0/24"]},
        f"{FIREWALL}.sshFrom",
        "ssh-source-not-allowed",
        ("this machine on the bridge, 10.66.0.1,", "add 10.66.0.1/32"),
    ),
    Wrong(
        "the lab machine is not in the API list",
        {f"{FIREWALL}.apiFrom": ["10.66.0.16/28"]},
        f"{FIREWALL}.apiFrom",
        "api-source-not-allowed",
        ("this machine on the bridge, 10.66.0.1,", "Pulumi reaches"),
    ),
]


@pytest.mark.parametrize("wrong", CONTAINER, ids=[wrong.name for wrong in CONTAINER])
def test_a_lab_firewall_must_accept_the_lab_machine(
    load: Load, container_stack: Values, wrong: Wrong
) -> None:
    container_stack["host"] = {"firewall": {}}
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


def test_valid_host_settings_load(load: Load, existing_stack: Values) -> None:
    existing_stack["machines"]["nodes"]["worker-1"]["database"] = {"engine": "mariadb"}
    existing_stack["host"] = {
        "firewall": {"sshFrom": ["192.0.2.0/24"], "apiFrom": ["192.0.2.0/24", "10.0.0.0/8"]},
        "ssh": {"hardened": "false"},
        "timeServers": ["ntp.example.internal", "192.0.2.123"],
        "journalSize": None,
        "holdPackages": False,
    }
    existing_stack["kubernetes"]["kubelet"] = {"systemReserved": None, "maxPods": 50}
    config: StackConfig = load(existing_stack)
    assert config.host.firewall.enabled
    assert not config.host.ssh.hardened
    assert config.host.journal_size is None
    assert config.machines.nodes["worker-1"].database is not None


def test_defaults_without_a_host_section(load: Load, existing_stack: Values) -> None:
    host = load(existing_stack).host
    assert (host.firewall.enabled, host.ssh.hardened, host.time_sync) == (True, True, True)
    assert (host.firewall.ssh_from, host.firewall.api_from, host.time_servers) == ([], [], [])
    assert (host.journal_size, host.hold_packages) == ("500Mi", True)


@pytest.mark.parametrize("address", ["127.0.0.1", "224.0.0.1", "2001:db8::1", "cp-1"])
def test_an_invalid_address_is_named_only_in_what(
    load: Load, existing_stack: Values, address: str
) -> None:
    error = refusal(load, edited(existing_stack, {f"{WORKER}.address": address}))
    (problem,) = error.problems
    assert address in problem.what
    assert address not in problem.why + problem.fix
