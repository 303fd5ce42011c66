"""The files of nodes, the scripts that write them, and the capacity that pods get."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import UndefinedError

import components
from components.host import backup, table
from components.host.files import NodeFile, Reader, changed_paths, from_setting, to_setting
from components.host.table import (
    REGISTRIES,
    RULES,
    SSHD,
    UNITS,
    HostArgs,
    node_files,
    settings,
)
from components.host.templates import ROOT, render
from components.manifests import container, guest
from components.preflight import judge, needs
from components.preflight.facts import Measured
from config import Artifacts, Database, Host, Kubernetes, capacity, kubelet
from config.warnings import warnings
from tests.support.golden import check
from tests.support.kvm_stack import machines as kvm_machines
from tests.support.mocked import changed, config, node, run
from tests.unit.components.test_preflight import facts, link, machines

SCRIPTS = Path(components.__file__).parent / "scripts"


def host_args(**overrides: Any) -> HostArgs:
    """The arguments of a control plane with default host settings. overrides: other arguments."""
    return HostArgs(
        **{
            "host": Host(),
            "role": "control-plane",
            "ssh_port": 2222,
            "address": "192.0.2.11",
            "endpoint": "api.prod.example.internal",
            "service_cidr": "10.96.0.0/12",
            "own_resolver": False,
            "kubelet_flags": {},
            "database": None,
            "pause_image": "registry.k8s.io/pause:3.6",
            "cgroup_driver": "systemd",
            "restrict_oom_score_adj": False,
            "registry_hosts": [],
            "artifacts": Artifacts(),
            **overrides,
        }
    )


ARGS = host_args()


def contents(args: HostArgs, reader: str) -> dict[str, str]:
    """The content of a reader's files, by path."""
    return {file.path: file.text for file in node_files(args) if file.reader == reader}


def with_host(**section: object) -> HostArgs:
    return replace(ARGS, host=Host.model_validate(section))


# --- the firewall ---------------------------------------------------------------------------------


def rules(args: HostArgs) -> str:
    return contents(args, "firewall")[RULES]


def test_cluster_ports_accept_members_only() -> None:
    text = rules(ARGS)
    assert "tcp dport { 2379, 2380, 2381, 10249, 10250, 10256, 10257, 10259 } jump cluster" in text
    assert "udp dport 8472 jump cluster" in text
    assert "tcp dport { 10249, 10250, 10256 } jump cluster" in rules(replace(ARGS, role="worker"))


def test_with_a_private_address_the_cluster_ports_are_closed_on_the_others() -> None:
    private = replace(ARGS, address="10.0.0.11", private_address="10.0.0.11")
    before, after = rules(ARGS).splitlines(), rules(private).splitlines()
    assert [line.strip() for line in after if line not in before] == [
        "ip daddr != 10.0.0.11 counter drop"
    ]
    chain = after[after.index("  chain cluster {") :]
    assert [line.strip() for line in chain[1:3]] == [
        "ip daddr != 10.0.0.11 counter drop",
        "ip saddr @members return",
    ]


def test_ssh_and_the_api_server_are_open_by_default() -> None:
    text = rules(ARGS)
    assert "6443" not in text
    assert "2222" not in text


def test_ssh_and_the_api_server_accept_listed_networks() -> None:
    limits = {"sshFrom": ["192.0.2.0/24"], "apiFrom": ["198.51.100.0/24", "192.0.2.0/24"]}
    args = with_host(firewall=limits)
    text = rules(args)
    assert "tcp dport 2222 jump ssh" in text
    assert "tcp dport 6443 jump api" in text
    assert "elements = { 198.51.100.0/24, 192.0.2.0/24 }" in text
    # Nodes always reach the API server. SSH from them is not exempt.
    assert text.count("ip saddr @members return") == 2
    worker = rules(replace(args, role="worker"))
    assert "jump ssh" in worker
    assert "6443" not in worker


def test_the_rules_touch_only_their_own_table() -> None:
    text = rules(with_host(firewall={"sshFrom": ["192.0.2.0/24"]}))
    assert "flush" not in text
    assert set(re.findall(r"table inet (\S+)", text)) == {"nordmesh"}


def test_pods_that_nothing_filters_have_no_connections_before_the_first_pod() -> None:
    unit = f"{UNITS}/nordmesh-firewall.service"
    assert "nordmesh-pods" not in rules(ARGS) + contents(ARGS, "firewall")[unit]
    files = contents(replace(ARGS, network_policy=True), "firewall")
    lines = [line.strip() for line in files[RULES].splitlines()]
    dropping = [line for line in lines if line.endswith("drop") and "filtered" in line]
    assert dropping == ["iifname @filtered counter drop", "oifname @filtered counter drop"]
    # A reload keeps the set: the table is not deleted, unlike the other one.
    assert "delete table inet nordmesh-pods" not in files[RULES]
    (arming,) = (line for line in files[unit].splitlines() if "filtered" in line)
    assert arming.startswith("ExecStart=/bin/sh -c 'test -e /sys/class/net/cni0 || ")


def test_a_disabled_firewall_has_no_rules() -> None:
    assert contents(with_host(firewall={"enabled": False}), "firewall") == {}


_WORKERS = {"worker-1": node("worker", "192.0.2.21")}


def test_a_new_node_changes_no_other_node() -> None:
    nodes = {
        "cp-1": node("control-plane", "192.0.2.11"),
        "worker-1": node("worker", "192.0.2.21"),
    }
    before, _ = run(config(machines={"nodes": nodes}))
    more_nodes = {**nodes, "worker-2": node("worker", "192.0.2.22")}
    after, _ = run(config(machines={"nodes": more_nodes}))
    assert changed(before, after) == []


def test_another_control_plane_changes_no_worker() -> None:
    """A worker's settings name no control plane: only what logs in to one changes."""
    runs = [
        run(config(machines={"nodes": {"cp-1": node("control-plane", address), **_WORKERS}}))[0]
        for address in ("192.0.2.11", "192.0.2.12")
    ]
    texts = [
        {
            name: resource.inputs["create"]
            for (type_, name), resource in recorder.resources.items()
            if type_ == "command:remote:Command" and name in ("worker-1-prepare", "worker-1-join")
        }
        for recorder in runs
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 2
    assert not any("192.0.2.11" in str(text) for text in texts[0].values())


def test_a_worker_reaches_the_api_server_over_its_loopback() -> None:
    """And a control plane reaches itself, without a load balancer."""
    worker = replace(ARGS, role="worker", address="192.0.2.21")
    assert settings(worker)["ENDPOINT_ADDRESS"] == "127.0.0.1"
    assert settings(ARGS)["ENDPOINT_ADDRESS"] == "192.0.2.11"
    assert contents(ARGS, "endpoint") == {}
    (unit,) = (
        text for path, text in contents(worker, "endpoint").items() if path.endswith(".service")
    )
    assert {"User=haproxy", "CapabilityBoundingSet=", "Restart=always"} <= set(unit.splitlines())


@pytest.mark.parametrize("role", ["worker", "control-plane"])
@pytest.mark.parametrize("enabled", [True, False])
def test_members_are_followed_where_something_needs_them(role: str, *, enabled: bool) -> None:
    args = host_args(host=Host.model_validate({"firewall": {"enabled": enabled}}), role=role)
    files = contents(args, "members")
    assert bool(files) == (enabled or role == "worker")
    if files:
        unit = files[f"{UNITS}/nordmesh-members.service"]
        assert ("Requires=nordmesh-firewall.service" in unit) == enabled


def bash(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run bash with the functions of the host scripts, and return its output."""
    text = "".join(
        f"{line}\n"
        for name in ("files.sh", "firewall.sh", "host.sh")
        for line in (SCRIPTS / name).read_text().splitlines()
    )
    return subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{text}\n{script}", "bash", *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", **(environment or {})},
    ).stdout.strip()


def test_the_ssh_client_is_detected_behind_sudo() -> None:
    inner = "env -u SSH_CONNECTION bash -c"
    text = (SCRIPTS / "firewall.sh").read_text()
    command = ["bash", "-c", f'{inner} "$1"; true', "bash", f"{text}\nssh_client"]
    output = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "SSH_CONNECTION": "192.0.2.9 40000 192.0.2.11 22"},
    ).stdout
    assert output == "192.0.2.9"


# --- the preflight and the firewall ---------------------------------------------------------------


def closed_port_measurements(port: int) -> dict[str, Measured]:
    """Measurements of a worker that cannot reach a port of the control plane."""
    measured = machines(cp_1={"member": "yes", "lets-in": ["192.0.2.11"]})
    ports = {**dict.fromkeys((6443, 10250, *needs.MESH), "ok"), port: "no answer"}
    measured["worker-1"] = Measured(facts=facts("worker-1"), links={"cp-1": link(tcp=ports)})
    return measured


def test_a_cluster_port_may_be_closed_for_a_new_node() -> None:
    assert judge.judge(config(), closed_port_measurements(10250)) == []
    (finding,) = judge.judge(config(), closed_port_measurements(6443))
    assert (finding.check, finding.nodes) == ("ports", ("cp-1", "worker-1"))


def test_a_cluster_port_closed_for_a_member_is_reported() -> None:
    measured = closed_port_measurements(10250)
    control_plane = {"member": "yes", "lets-in": ["192.0.2.11", "192.0.2.21"]}
    measured["cp-1"] = machines(cp_1=control_plane)["cp-1"]
    (finding,) = judge.judge(config(), measured)
    assert finding.check == "ports"


def test_a_closed_port_is_reported_without_the_firewall() -> None:
    off = config(host={"firewall": {"enabled": False}})
    (finding,) = judge.judge(off, closed_port_measurements(10250))
    assert finding.check == "ports"


# --- sshd, time, logs, database -------------------------------------------------------------------


def test_sshd_settings_come_before_those_of_cloud_init() -> None:
    ((path, text),) = contents(ARGS, "sshd").items()
    assert Path(path).name < "50-cloud-init.conf"
    assert "PasswordAuthentication no" in text
    assert contents(with_host(ssh={"hardened": False}), "sshd") == {}


def test_time_servers_come_from_the_stack_file() -> None:
    assert contents(ARGS, "timesyncd") == {}
    with_servers = with_host(timeServers=["ntp.example.internal", "192.0.2.123"])
    assert "NTP=ntp.example.internal 192.0.2.123" in "".join(
        contents(with_servers, "timesyncd").values()
    )
    assert table.settings(with_servers)["TIME_SYNC"] == "true"
    off = with_host(timeServers=["ntp.example.internal"], timeSync=False)
    assert contents(off, "timesyncd") == {}


def test_the_journal_has_a_size_limit() -> None:
    assert "SystemMaxUse=500M" in "".join(contents(ARGS, "journald").values())
    overrides = with_host(journalSize="2Gi")
    assert "SystemMaxUse=2048M" in "".join(contents(overrides, "journald").values())
    assert contents(with_host(journalSize=None), "journald") == {}


@pytest.mark.parametrize(
    ("engine", "path"),
    [
        ("mysql", "/etc/mysql/conf.d/nordmesh.cnf"),
        ("mariadb", "/etc/mysql/mariadb.conf.d/60-nordmesh.cnf"),
    ],
)
def test_a_database_gets_tuned_settings(engine: str, path: str) -> None:
    database = Database.model_validate({"engine": engine})
    files = contents(host_args(database=database), "database")
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
    assert table.default_buffer_pool(kernel_kib) == pool
    assert bash('buffer_pool "$1"', str(kernel_kib)) == pool
    share = int(pool.removesuffix("M")) / (kernel_kib / 1024)
    assert 0.7 <= share <= 0.82, gigabytes


def test_the_stack_file_may_set_the_buffer_pool() -> None:
    database = Database.model_validate({"engine": "mysql", "bufferPool": "10Gi"})
    assert table.settings(host_args(database=database))["BUFFER_POOL"] == "10240M"


# --- the setting FILES ----------------------------------------------------------------------------

PATHS = st.lists(
    st.from_regex(r"(/[a-z0-9][a-z0-9._-]*)+", fullmatch=True), unique=True, max_size=4
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(paths=PATHS, data=st.data())
def test_files_survive_a_round_trip_through_the_setting(
    paths: list[str], data: st.DataObject
) -> None:
    files = [
        NodeFile(
            path=path,
            reader=data.draw(st.sampled_from(get_args(Reader))),
            mode=data.draw(st.sampled_from(["600", "644", "755"])),
            text=data.draw(TEXTS),
        )
        for path in paths
    ]
    assert from_setting(to_setting(files)) == files


def test_a_file_that_contains_a_file_header_is_refused() -> None:
    file = NodeFile(path="/a", reader="sshd", mode="644", text="x\n=== 644 sshd /etc/shadow\ny")
    with pytest.raises(ValueError, match="/a"):
        to_setting([file])


@pytest.mark.parametrize("path", [file.path for file in node_files(ARGS)])
def test_scripts_read_every_file_from_the_setting(path: str) -> None:
    setting = table.settings(ARGS)["FILES"]
    (file,) = (file for file in node_files(ARGS) if file.path == path)
    output = bash(
        'files_for "$1"; file_mode "$2"; file_text "$2"',
        file.reader,
        path,
        environment={"FILES": setting},
    )
    of_reader = "\n".join(contents(ARGS, file.reader))
    assert output == f"{of_reader}\n{file.mode}\n{file.text}"


@pytest.mark.parametrize(("reader", "has"), [("sshd", True), ("ssh", False), ("database", False)])
def test_has_files_reports_whether_a_reader_has_files(reader: str, has: bool) -> None:
    setting = table.settings(ARGS)["FILES"]
    output = bash(f"has_files {reader} && echo yes || echo no", environment={"FILES": setting})
    assert output == ("yes" if has else "no")


def test_every_reader_has_a_script_that_writes_its_files() -> None:
    """Otherwise drift would compare a file that no script writes."""
    scripts = "".join(path.read_text() for path in SCRIPTS.glob("*.sh"))
    (readers,) = re.findall(r'^readonly HOST_READERS="(.+)"$', scripts, re.MULTILINE)
    other_readers = re.findall(
        r"^ *write_files(?:_read_at_start \S+)? ([a-z]+)$", scripts, re.MULTILINE
    )
    assert sorted([*readers.split(), *other_readers]) == sorted(get_args(Reader))
    # components/host/backup.py has the files of `backup`: they are not on every node.
    assert {*(row.reader for row in table.TABLE), "backup"} == set(get_args(Reader))


def test_every_template_is_in_a_table() -> None:
    paths = {row.path.lstrip("/") for row in table.TABLE} | set(guest.TEMPLATES)
    paths |= container.TEMPLATES | {path.lstrip("/") for path in backup.PATHS}
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    assert {str(path).removesuffix(".j2") for path in files} == paths


def test_a_template_without_a_value_is_refused() -> None:
    with pytest.raises(UndefinedError):
        render("etc/containerd/config.toml")


def test_changed_files_are_listed_by_path() -> None:
    default, larger_journal = (
        table.settings(args)["FILES"] for args in (ARGS, with_host(journalSize="2Gi"))
    )
    assert changed_paths(default, default) == []
    assert changed_paths(default, larger_journal) == ["/etc/systemd/journald.conf.d/nordmesh.conf"]
    off = table.settings(with_host(ssh={"hardened": False}))["FILES"]
    assert changed_paths(off, default) == changed_paths(default, off) == [SSHD]


def test_a_database_gives_a_warning_about_its_memory() -> None:
    worker = {**node("worker", "192.0.2.21"), "database": {"engine": "mariadb"}}
    nodes = {"cp-1": node("control-plane", "192.0.2.11"), "worker-1": worker}
    lines = warnings(config(machines={"nodes": nodes}))
    start = "worker-1: the database uses three quarters of its memory"
    assert sum(line.startswith(start) for line in lines) == 1


@pytest.mark.parametrize(
    ("firewall", "expected"),
    [
        ({}, None),
        ({"sshFrom": ["192.0.2.0/24"]}, "SSH to cp-1, worker-1: only the listed networks"),
        ({"apiFrom": ["192.0.2.0/24"]}, "the API server: only the listed networks"),
        ({"enabled": False}, "host.firewall is off: every machine with a route to a node reaches"),
    ],
)
def test_access_to_nodes_gives_a_warning(firewall: dict[str, object], expected: str | None) -> None:
    lines = [x for x in warnings(config(host={"firewall": firewall})) if "host.firewall" in x]
    assert [line.startswith(str(expected)) for line in lines] == ([True] if expected else [])


# --- containerd -----------------------------------------------------------------------------------


def test_the_containerd_config_matches_its_golden_file() -> None:
    check("containerd.toml", contents(ARGS, "containerd")["/etc/containerd/config.toml"])


def registries(**overrides: Any) -> dict[str, str]:
    images = ["docker.io/istio/pilot:1.16.5", "registry.k8s.io/pause:3.6"]
    args = host_args(registry_hosts=table.registry_hosts(images=images, **overrides))
    return contents(args, "registries")


def test_each_official_registry_uses_the_mirror() -> None:
    files = registries(registry="http://198.51.100.1:5000/")
    paths = [f"{REGISTRIES}/{name}/hosts.toml" for name in ("docker.io", "registry.k8s.io")]
    assert list(files) == paths
    check("hosts.toml", files[paths[1]])
    assert not any("https://" in text for text in files.values()), "no official host is named"
    fallback = registries(registry="http://198.51.100.1:5000", fallback=True)
    check("hosts-fallback.toml", fallback[paths[0]])


def test_no_registry_files_without_a_mirror() -> None:
    assert registries(registry=None) == {}


# --- reserved resources ---------------------------------------------------------------------------


def kubernetes(**overrides: object) -> Kubernetes:
    return Kubernetes.model_validate(
        {"clusterName": "a", "version": "1.23.17", "endpoint": "api.a.no", "kubelet": overrides}
    )


def test_resources_reserved_by_default() -> None:
    reserved = kubelet.reserved(kubernetes())
    assert reserved == {"cpu": Decimal("0.2"), "memory": Decimal(612 * 2**20)}


def test_the_stack_file_overrides_reserved_resources() -> None:
    overrides = kubernetes(systemReserved={"cpu": "1", "memory": "2Gi"}, kubeReserved=None)
    settings = kubelet.settings(overrides)
    assert settings["systemReserved"] == {"cpu": "1", "memory": "2Gi"}
    assert "kubeReserved" not in settings
    assert settings["containerLogMaxSize"] == "10Mi"
    assert kubelet.reserved(overrides) == {
        "cpu": Decimal(1),
        "memory": Decimal((2048 + 100) * 2**20),
    }


def test_an_eviction_threshold_in_percent_is_not_reserved() -> None:
    overrides = kubernetes(evictionHard={"memory.available": "5%"})
    assert kubelet.reserved(overrides)["memory"] == Decimal(512 * 2**20)


def test_the_capacity_of_a_guest_follows_from_its_size() -> None:
    stack = config(machines=kvm_machines())
    ((_, worker),) = stack.machines.workers
    node_capacity = capacity.of_node(stack, worker)
    assert node_capacity is not None
    assert worker.provider == "kvm"
    assert node_capacity["cpu"] == worker.cpus - Decimal("0.2")
