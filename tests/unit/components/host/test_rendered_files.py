"""The rendered files of nodes, validated by the programs that read them."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import pytest

from cli.drift.hosts import rules_of
from components.host.backup import node_files as backup_files
from components.host.table import RULES, SSHD, HostArgs, node_files
from components.host.templates import ROOT, render
from components.manifests import container
from components.manifests.guest import READY_UNIT
from config import Backup, Database, Host
from tests.unit.components.host.test_files import host_args
from tests.unit.config.test_errors_backup import KEY
from tests.unit.machine import Machine, Result

_UNITS = (".service", ".timer")
NETWORKS: Mapping[str, Any] = {
    "none": {},
    "ssh": {"sshFrom": ["192.0.2.0/24", "10.0.0.0/8"]},
    "api": {"apiFrom": ["198.51.100.0/24"]},
    "both": {"sshFrom": ["192.0.2.0/24"], "apiFrom": ["198.51.100.0/24", "192.0.2.0/25"]},
}


def write_files(machine: Machine, args: HostArgs) -> list[str]:
    """Write the rendered files of a node, and return their paths."""
    files = node_files(args)
    for file in files:
        machine.write(file.path, f"{file.text}\n", mode=int(file.mode, 8))
    return [file.path for file in files]


def assert_accepted(result: Result) -> None:
    assert (result.status, result.stderr) == (0, ""), result


@pytest.mark.parametrize(("role", "networks"), list(product(("control-plane", "worker"), NETWORKS)))
def test_nft_accepts_the_rules(machine: Machine, role: str, networks: str) -> None:
    host = Host.model_validate({"firewall": NETWORKS[networks]})
    write_files(machine, host_args(host=host, role=role))
    machine.write("/etc/nordmesh/members.nft", "define members = { 192.0.2.11 }\n")
    assert_accepted(machine.shell(f"nft --check --file {RULES}"))


def test_nft_accepts_the_rules_of_a_private_address(machine: Machine) -> None:
    write_files(machine, host_args(private_address="10.0.0.11"))
    machine.write("/etc/nordmesh/members.nft", "define members = { 10.0.0.11 }\n")
    assert_accepted(machine.shell(f"nft --check --file {RULES}"))


RELOAD = f"nft -f {RULES} && nft -f {RULES}"
POD_TABLE = "inet nordmesh-pods"


def test_nft_loads_the_rules_for_pods_and_drift_reads_them_back(machine: Machine) -> None:
    """The set says that kube-router filters the pods: it has to outlive a reload of the rules."""
    write_files(machine, host_args(network_policy=True))
    machine.write("/etc/nordmesh/members.nft", "define members = { 192.0.2.11 }\n")
    add = f"nft add element {POD_TABLE} filtered '{{ cni0 }}'"
    tables = f"nft list table inet nordmesh; nft list table {POD_TABLE}"
    result = machine.shell(f"{RELOAD} && {add} && {RELOAD} && {tables}")
    assert_accepted(result)
    assert 'elements = { "cni0" }' in result.stdout
    assert rules_of(result.stdout) == rules_of(machine.read(RULES))
    assert any("filtered" in line for line in rules_of(result.stdout))


def files_with_units() -> dict[str, str]:
    """The files of a control plane, a worker, a backup and a new guest, by path."""
    backup = Backup.model_validate({"directory": "/srv/backup", "keys": [KEY]})
    files = [
        *node_files(host_args(role="control-plane", network_policy=True)),
        *node_files(host_args(role="worker", network_policy=True)),
        *backup_files("cp-1", backup, cluster="prod"),
    ]
    ready = render(READY_UNIT, ready="ready")
    return {file.path: file.text for file in files} | {f"/{READY_UNIT}": ready}


def test_systemd_accepts_the_units(machine: Machine) -> None:
    files = files_with_units()
    for path, text in files.items():
        machine.write(path, f"{text}\n")
    for program in ("containerd", "kubelet"):
        machine.fake(program)
    units = sorted(path for path in files if path.endswith(_UNITS))
    templates = (f"/{path.relative_to(ROOT)}".removesuffix(".j2") for path in ROOT.rglob("*.*"))
    expected = sorted(path for path in templates if path.endswith(_UNITS))
    expected.remove("/etc/systemd/system/nordmesh-boot.service")  # of a container: see below
    assert units == expected
    assert_accepted(machine.shell(f"systemd-analyze verify --man=no {' '.join(units)}"))


def values_of(line: str) -> list[str]:
    """The values that a line of sshd's file can get on a node."""
    keyword, _, values = line.partition(" ")
    return [f"{keyword} {value}" for value in values.split("|")]


def test_sshd_accepts_every_value(machine: Machine) -> None:
    write_files(machine, host_args())
    lines = [line for line in machine.read(SSHD).splitlines() if not line.startswith("#")]
    assert len(lines) == 7
    key = "/etc/ssh/ssh_host_ed25519_key"
    machine.write("/etc/ssh/sshd_config", f"Include {SSHD}\n")
    keygen = machine.shell(f"mkdir -p /run/sshd && ssh-keygen -q -t ed25519 -N '' -f {key}")
    assert_accepted(keygen)
    for number in range(max(len(values_of(line)) for line in lines)):
        values = [choices[min(number, len(choices) - 1)] for choices in map(values_of, lines)]
        machine.write(SSHD, "\n".join(values))
        assert_accepted(machine.shell("/usr/sbin/sshd -t"))


def test_the_files_of_a_container_are_accepted(machine: Machine) -> None:
    settings = container.settings(address="198.51.100.11", prefix=24, gateway="198.51.100.1")
    machine.write("/usr/local/sbin/nordmesh-boot", f"{settings['BOOT_SCRIPT']}\n", mode=0o755)
    machine.write("/boot.service", f"{settings['BOOT_UNIT']}\n")
    machine.write("/sshd", settings["SSHD_CONF"])
    key = "/etc/ssh/ssh_host_ed25519_key"
    keygen = f"mkdir -p /run/sshd /etc/ssh && ssh-keygen -q -t ed25519 -N '' -f {key}"
    assert_accepted(machine.shell(keygen))
    assert_accepted(machine.shell("sh -n /usr/local/sbin/nordmesh-boot"))
    assert_accepted(machine.shell("systemd-analyze verify --man=no /boot.service"))
    assert_accepted(machine.shell("/usr/sbin/sshd -t -f /sshd"))


def test_logrotate_accepts_its_file(machine: Machine) -> None:
    write_files(machine, host_args())
    machine.write("/var/log/nordmesh/a.log", "line\n" * 3_000_000)
    result = machine.shell("logrotate --debug /etc/logrotate.d/nordmesh")
    assert result.status == 0, result
    assert "error" not in result.stderr
    assert "log needs rotating" in result.stderr


@pytest.mark.parametrize(
    ("path", "section"),
    [
        ("/etc/systemd/timesyncd.conf.d/nordmesh.conf", "Time"),
        ("/etc/systemd/journald.conf.d/nordmesh.conf", "Journal"),
        ("/etc/mysql/mariadb.conf.d/60-nordmesh.cnf", "mysqld"),
    ],
)
def test_settings_files_have_one_section(machine: Machine, path: str, section: str) -> None:
    host = Host.model_validate({"timeServers": ["ntp.example.internal"]})
    write_files(machine, host_args(host=host, database=Database(engine="mariadb")))
    header, *lines = [line for line in machine.read(path).splitlines() if line[0] != "#"]
    assert header == f"[{section}]"
    assert lines
    assert all("=" in line for line in lines)
