"""What nodes are made of beneath Kubernetes: files, the scripts that write them, and figures."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

import components
from components.manifests import host
from components.manifests.host import HostArgs
from components.preflight import judge, needs
from components.preflight.facts import Measured
from config import Database, Host, Kubernetes, capacity, kubelet
from config.warnings import warnings
from tests.kvm_stack import machines as kvm_machines
from tests.mocked import changed, config, node, run
from tests.unit.test_preflight import facts, link, machines

SCRIPTS = Path(components.__file__).parent / "scripts"
ARGS = HostArgs(
    host=Host(),
    role="control-plane",
    ssh_port=2222,
    api_address="192.0.2.11",
    database=None,
    members_program="#!/bin/bash\n",
)


def with_host(**section: object) -> HostArgs:
    return replace(ARGS, host=Host.model_validate(section))


# --- the firewall ---------------------------------------------------------------------------------


def rules(args: HostArgs) -> str:
    return host.firewall(args)[host.RULES]


def test_the_clusters_ports_are_for_members() -> None:
    text = rules(ARGS)
    assert "tcp dport { 2379, 2380, 10249, 10250, 10256, 10257, 10259 } jump cluster" in text
    assert "udp dport 8472 jump cluster" in text
    assert "tcp dport { 10249, 10250, 10256 } jump cluster" in rules(replace(ARGS, role="worker"))


def test_by_default_ssh_and_the_api_server_are_open() -> None:
    text = rules(ARGS)
    assert "6443" not in text
    assert "2222" not in text


def test_named_networks() -> None:
    limits = {"sshFrom": ["192.0.2.0/24"], "apiFrom": ["198.51.100.0/24", "192.0.2.0/24"]}
    args = with_host(firewall=limits)
    text = rules(args)
    assert "tcp dport 2222 jump ssh" in text
    assert "tcp dport 6443 jump api" in text
    assert "elements = { 198.51.100.0/24, 192.0.2.0/24 }" in text
    # Members may always join, and talk to the API server; SSH is for people.
    assert text.count("ip saddr @members return") == 2
    worker = rules(replace(args, role="worker"))
    assert "jump ssh" in worker
    assert "6443" not in worker


def test_the_rules_flush_no_table_of_others() -> None:
    text = rules(with_host(firewall={"sshFrom": ["192.0.2.0/24"]}))
    assert "flush" not in text
    assert set(re.findall(r"table inet (\S+)", text)) == {"nordmesh"}


def test_switched_off_there_are_no_rules() -> None:
    assert host.firewall(with_host(firewall={"enabled": False})) == {}
    assert host.settings(with_host(firewall={"enabled": False}))["FIREWALL"] == ""


def test_the_members_are_in_no_nodes_settings() -> None:
    nodes = {
        "cp-1": node("control-plane", "192.0.2.11"),
        "worker-1": node("worker", "192.0.2.21"),
    }
    before, _ = run(config(machines={"nodes": nodes}))
    more = {**nodes, "worker-2": node("worker", "192.0.2.22")}
    after, _ = run(config(machines={"nodes": more}))
    assert changed(before, after) == []


def bash(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """What a piece of shell prints, with the functions of the host's scripts before it."""
    text = "".join(
        f"{line}\n"
        for name in ("firewall.sh", "host.sh")
        for line in (SCRIPTS / name).read_text().splitlines()
    )
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{text}\n{script}", "bash", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", **(environment or {})},
    ).stdout.strip()


def test_who_logged_in_is_found_behind_sudo_as_well() -> None:
    inner = "env -u SSH_CONNECTION bash -c"
    text = (SCRIPTS / "firewall.sh").read_text()
    command = ["bash", "-c", f'{inner} "$1"; true', "bash", f"{text}\nssh_client"]
    shown = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "SSH_CONNECTION": "192.0.2.9 40000 192.0.2.11 22"},
    ).stdout
    assert shown == "192.0.2.9"


# --- the preflight and the firewall ---------------------------------------------------------------


def closed(port: int) -> dict[str, Measured]:
    """A cluster's control plane, and a worker that is to join and does not reach a port of it."""
    measured = machines(cp_1={"member": "yes", "lets-in": ["192.0.2.11"]})
    ports = {**dict.fromkeys((6443, 10250, *needs.MESH), "ok"), port: "no answer"}
    measured["worker-1"] = Measured(facts=facts("worker-1"), links={"cp-1": link(tcp=ports)})
    return measured


def test_a_stranger_is_kept_out_by_the_members_own_firewall() -> None:
    assert judge.judge(config(), closed(10250)) == []
    (finding,) = judge.judge(config(), closed(6443))
    assert (finding.check, finding.nodes) == ("ports", ("cp-1", "worker-1"))


def test_a_member_that_is_kept_out_is_told_of() -> None:
    measured = closed(10250)
    known = {"member": "yes", "lets-in": ["192.0.2.11", "192.0.2.21"]}
    measured["cp-1"] = machines(cp_1=known)["cp-1"]
    (finding,) = judge.judge(config(), measured)
    assert finding.check == "ports"


def test_without_the_firewall_a_closed_port_is_told_of() -> None:
    off = config(host={"firewall": {"enabled": False}})
    (finding,) = judge.judge(off, closed(10250))
    assert finding.check == "ports"


# --- sshd, time, logs, database -------------------------------------------------------------------


def test_sshd_is_told_before_its_own_configuration() -> None:
    ((path, text),) = host.sshd(Host()).items()
    assert Path(path).name < "50-cloud-init.conf"
    assert "PasswordAuthentication no" in text
    assert host.sshd(Host.model_validate({"ssh": {"hardened": False}})) == {}


def test_the_time_servers_are_those_of_the_stack_file() -> None:
    assert host.time(Host()) == {}
    named = Host.model_validate({"timeServers": ["ntp.example.internal", "192.0.2.123"]})
    assert "NTP=ntp.example.internal 192.0.2.123" in "".join(host.time(named).values())
    assert host.settings(replace(ARGS, host=named))["TIME_SYNC"] == "true"


def test_the_journal_has_a_limit() -> None:
    assert "SystemMaxUse=500M" in "".join(host.logs(Host()).values())
    own = Host.model_validate({"journalSize": "2Gi"})
    assert "SystemMaxUse=2048M" in "".join(host.logs(own).values())
    unlimited = Host.model_validate({"journalSize": None})
    assert "SystemMaxUse" not in "".join(host.logs(unlimited).values())


@pytest.mark.parametrize(
    ("engine", "path"),
    [
        ("mysql", "/etc/mysql/conf.d/nordmesh.cnf"),
        ("mariadb", "/etc/mysql/mariadb.conf.d/60-nordmesh.cnf"),
    ],
)
def test_a_database_has_the_guides_figures(engine: str, path: str) -> None:
    files = host.database(Database.model_validate({"engine": engine}))
    assert list(files) == [path]
    for line in ("innodb_log_file_size = 1G", "io_capacity = 2000", "flush_method = O_DIRECT"):
        assert line in files[path]


@pytest.mark.parametrize(
    ("gigabytes", "kernel_kib", "pool"),
    [(16, 16_384_000, "12288M"), (8, 8_140_000, "6144M"), (64, 65_800_000, "48128M"),
     (4, 4_020_000, "2944M"), (2, 2_010_000, "1536M"), (1, 980_000, "768M")],
)  # fmt: skip
def test_the_buffer_pool_is_three_quarters_of_memory(
    gigabytes: int, kernel_kib: int, pool: str
) -> None:
    assert host.default_buffer_pool(kernel_kib) == pool
    assert bash('buffer_pool "$1"', str(kernel_kib)) == pool
    share = int(pool.removesuffix("M")) / (kernel_kib / 1024)
    assert 0.7 <= share <= 0.82, gigabytes


def test_a_buffer_pool_of_ones_own() -> None:
    database = Database.model_validate({"engine": "mysql", "bufferPool": "10Gi"})
    assert host.settings(replace(ARGS, database=database))["BUFFER_POOL"] == "10240M"


def test_files_come_as_they_are_packed() -> None:
    files = {"/etc/a": "one\ntwo", "/etc/b": "three"}
    assert host.files_of(host.in_lines(files)) == files
    text = bash('host_text "$1"', host.in_lines(files).split("\t")[1].split("\n")[0],
                environment={"BUFFER_POOL": ""})  # fmt: skip
    assert text == "one\ntwo"


def test_a_databases_memory_is_said_at_preview() -> None:
    worker = {**node("worker", "192.0.2.21"), "database": {"engine": "mariadb"}}
    nodes = {"cp-1": node("control-plane", "192.0.2.11"), "worker-1": worker}
    (line,) = [x for x in warnings(config(machines={"nodes": nodes})) if "database" in x]
    assert line.startswith("worker-1: the database takes three quarters of its memory")


@pytest.mark.parametrize(
    ("firewall", "said"),
    [
        ({}, None),
        ({"sshFrom": ["192.0.2.0/24"]}, "SSH to cp-1, worker-1: only named networks"),
        ({"apiFrom": ["192.0.2.0/24"]}, "the API server: only named networks"),
    ],
)
def test_who_is_let_in_is_said_at_preview(firewall: dict[str, object], said: str | None) -> None:
    lines = [x for x in warnings(config(host={"firewall": firewall})) if "let in" in x]
    assert [line.startswith(str(said)) for line in lines] == ([True] if said else [])


# --- what kubelet keeps from pods -----------------------------------------------------------------


def kubernetes(**own: object) -> Kubernetes:
    return Kubernetes.model_validate(
        {"clusterName": "a", "version": "1.23.17", "endpoint": "api.a.no", "kubelet": own}
    )


def test_what_is_reserved_by_default() -> None:
    kept = kubelet.reserved(kubernetes())
    assert kept == {"cpu": Decimal("0.2"), "memory": Decimal(612 * 2**20)}


def test_the_stack_file_has_the_last_word() -> None:
    own = kubernetes(systemReserved={"cpu": "1", "memory": "2Gi"}, kubeReserved=None)
    settings = kubelet.settings(own)
    assert settings["systemReserved"] == {"cpu": "1", "memory": "2Gi"}
    assert "kubeReserved" not in settings
    assert settings["containerLogMaxSize"] == "10Mi"
    assert kubelet.reserved(own) == {"cpu": Decimal(1), "memory": Decimal((2048 + 100) * 2**20)}


def test_a_threshold_in_percent_is_not_counted() -> None:
    own = kubernetes(evictionHard={"memory.available": "5%"})
    assert kubelet.reserved(own)["memory"] == Decimal(512 * 2**20)


def test_a_guests_capacity_is_known_from_its_size() -> None:
    stack = config(machines=kvm_machines())
    ((_, worker),) = stack.machines.workers
    known = capacity.of_node(stack, worker)
    assert known is not None
    assert worker.provider == "kvm"
    assert known["cpu"] == worker.cpus - Decimal("0.2")
