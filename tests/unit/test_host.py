"""What nodes are made of beneath Kubernetes: files, the scripts that write them, and figures."""

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
from components.host import table
from components.host.files import NodeFile, Reader, changed_paths, from_setting, to_setting
from components.host.table import REGISTRIES, RULES, SSHD, HostArgs, node_files
from components.host.templates import ROOT, render
from components.manifests import guest
from components.preflight import judge, needs
from components.preflight.facts import Measured
from config import Database, Host, Kubernetes, capacity, kubelet
from config.warnings import warnings
from tests.support.kvm_stack import machines as kvm_machines
from tests.support.mocked import changed, config, node, run
from tests.unit.test_manifests import check
from tests.unit.test_preflight import facts, link, machines

SCRIPTS = Path(components.__file__).parent / "scripts"


def host_args(**own: Any) -> HostArgs:
    """A control plane with the defaults of the host section, but for what a test sets."""
    return HostArgs(
        **{
            "host": Host(),
            "role": "control-plane",
            "ssh_port": 2222,
            "api_address": "192.0.2.11",
            "database": None,
            "pause_image": "registry.k8s.io/pause:3.6",
            "cgroup_driver": "systemd",
            "restrict_oom_score_adj": False,
            "registry_hosts": [],
            **own,
        }
    )


ARGS = host_args()


def texts(args: HostArgs, reader: str) -> dict[str, str]:
    """The texts of the files for a reader, by path."""
    return {file.path: file.text for file in node_files(args) if file.reader == reader}


def with_host(**section: object) -> HostArgs:
    return replace(ARGS, host=Host.model_validate(section))


# --- the firewall ---------------------------------------------------------------------------------


def rules(args: HostArgs) -> str:
    return texts(args, "firewall")[RULES]


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
    assert texts(with_host(firewall={"enabled": False}), "firewall") == {}


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
    ((path, text),) = texts(ARGS, "sshd").items()
    assert Path(path).name < "50-cloud-init.conf"
    assert "PasswordAuthentication no" in text
    assert texts(with_host(ssh={"hardened": False}), "sshd") == {}


def test_the_time_servers_are_those_of_the_stack_file() -> None:
    assert texts(ARGS, "timesyncd") == {}
    named = with_host(timeServers=["ntp.example.internal", "192.0.2.123"])
    assert "NTP=ntp.example.internal 192.0.2.123" in "".join(texts(named, "timesyncd").values())
    assert table.settings(named)["TIME_SYNC"] == "true"
    off = with_host(timeServers=["ntp.example.internal"], timeSync=False)
    assert texts(off, "timesyncd") == {}


def test_the_journal_has_a_limit() -> None:
    assert "SystemMaxUse=500M" in "".join(texts(ARGS, "journald").values())
    own = with_host(journalSize="2Gi")
    assert "SystemMaxUse=2048M" in "".join(texts(own, "journald").values())
    assert texts(with_host(journalSize=None), "journald") == {}


@pytest.mark.parametrize(
    ("engine", "path"),
    [
        ("mysql", "/etc/mysql/conf.d/nordmesh.cnf"),
        ("mariadb", "/etc/mysql/mariadb.conf.d/60-nordmesh.cnf"),
    ],
)
def test_a_database_has_the_guides_figures(engine: str, path: str) -> None:
    database = Database.model_validate({"engine": engine})
    files = texts(host_args(database=database), "database")
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


def test_a_buffer_pool_of_ones_own() -> None:
    database = Database.model_validate({"engine": "mysql", "bufferPool": "10Gi"})
    assert table.settings(host_args(database=database))["BUFFER_POOL"] == "10240M"


# --- the setting that holds the files -------------------------------------------------------------

PATHS = st.lists(
    st.from_regex(r"(/[a-z0-9][a-z0-9._-]*)+", fullmatch=True), unique=True, max_size=4
)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(paths=PATHS, data=st.data())
def test_the_setting_undoes_itself(paths: list[str], data: st.DataObject) -> None:
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


def test_a_text_that_would_begin_another_file_is_refused() -> None:
    file = NodeFile(path="/a", reader="sshd", mode="644", text="x\n=== 644 sshd /etc/shadow\ny")
    with pytest.raises(ValueError, match="/a"):
        to_setting([file])


@pytest.mark.parametrize("path", [file.path for file in node_files(ARGS)])
def test_the_scripts_read_what_is_written(path: str) -> None:
    setting = table.settings(ARGS)["FILES"]
    (file,) = (file for file in node_files(ARGS) if file.path == path)
    shown = bash(
        'files_for "$1"; file_mode "$2"; file_text "$2"',
        file.reader,
        path,
        environment={"FILES": setting},
    )
    of_reader = "\n".join(texts(ARGS, file.reader))
    assert shown == f"{of_reader}\n{file.mode}\n{file.text}"


@pytest.mark.parametrize(("reader", "has"), [("sshd", True), ("ssh", False), ("database", False)])
def test_a_script_knows_which_readers_have_files(reader: str, has: bool) -> None:
    setting = table.settings(ARGS)["FILES"]
    shown = bash(f"has_files {reader} && echo yes || echo no", environment={"FILES": setting})
    assert shown == ("yes" if has else "no")


def test_every_reader_has_a_script_that_writes_its_files() -> None:
    """A file without one would be compared by drift, and never written."""
    scripts = "".join(path.read_text() for path in SCRIPTS.glob("*.sh"))
    (readers,) = re.findall(r'^readonly HOST_READERS="(.+)"$', scripts, re.MULTILINE)
    others = re.findall(r"^ *write_files(?:_read_at_start \S+)? ([a-z]+)$", scripts, re.MULTILINE)
    assert sorted([*readers.split(), *others]) == sorted(get_args(Reader))
    assert {row.reader for row in table.TABLE} == set(get_args(Reader))


def test_every_template_is_in_the_table() -> None:
    paths = {row.path.lstrip("/") for row in table.TABLE} | set(guest.TEMPLATES)
    files = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    assert {str(path).removesuffix(".j2") for path in files} == paths


def test_a_template_without_a_value_is_refused() -> None:
    with pytest.raises(UndefinedError):
        render("etc/containerd/config.toml")


def test_the_paths_of_changed_files() -> None:
    one, other = (table.settings(args)["FILES"] for args in (ARGS, with_host(journalSize="2Gi")))
    assert changed_paths(one, one) == []
    assert changed_paths(one, other) == ["/etc/systemd/journald.conf.d/nordmesh.conf"]
    off = table.settings(with_host(ssh={"hardened": False}))["FILES"]
    assert changed_paths(off, one) == changed_paths(one, off) == [SSHD]


def test_a_databases_memory_is_said_at_preview() -> None:
    worker = {**node("worker", "192.0.2.21"), "database": {"engine": "mariadb"}}
    nodes = {"cp-1": node("control-plane", "192.0.2.11"), "worker-1": worker}
    (line,) = [x for x in warnings(config(machines={"nodes": nodes})) if "database" in x]
    assert line.startswith("worker-1: the database uses three quarters of its memory")


@pytest.mark.parametrize(
    ("firewall", "said"),
    [
        ({}, None),
        ({"sshFrom": ["192.0.2.0/24"]}, "SSH to cp-1, worker-1: only the listed networks"),
        ({"apiFrom": ["192.0.2.0/24"]}, "the API server: only the listed networks"),
    ],
)
def test_who_is_let_in_is_said_at_preview(firewall: dict[str, object], said: str | None) -> None:
    lines = [x for x in warnings(config(host={"firewall": firewall})) if "host.firewall" in x]
    assert [line.startswith(str(said)) for line in lines] == ([True] if said else [])


# --- containerd -----------------------------------------------------------------------------------


def test_containerd_config() -> None:
    check("containerd.toml", texts(ARGS, "containerd")["/etc/containerd/config.toml"])


def registries(**own: Any) -> dict[str, str]:
    images = ["docker.io/istio/pilot:1.16.5", "registry.k8s.io/pause:3.6"]
    args = host_args(registry_hosts=table.registry_hosts(images=images, **own))
    return texts(args, "registries")


def test_the_mirror_is_asked_for_each_official_registry() -> None:
    files = registries(registry="http://198.51.100.1:5000/")
    paths = [f"{REGISTRIES}/{name}/hosts.toml" for name in ("docker.io", "registry.k8s.io")]
    assert list(files) == paths
    check("hosts.toml", files[paths[1]])
    assert not any("https://" in text for text in files.values()), "no official host is named"
    fallback = registries(registry="http://198.51.100.1:5000", fallback=True)
    check("hosts-fallback.toml", fallback[paths[0]])


def test_without_a_mirror_there_are_no_registry_files() -> None:
    assert registries(registry=None) == {}


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
