"""Hardening of a real sshd: no effective setting is weaker than the admin's own."""

import subprocess
from collections.abc import Sequence

import pytest

from components.host.files import NodeFile, to_setting
from components.host.table import SSHD, node_files
from components.remote.node_command import text_alone
from config import Host
from tests.unit.components.host.test_files import host_args
from tests.unit.machine import Machine, Result

MAIN = "/etc/ssh/sshd_config"
INCLUDE = "Include /etc/ssh/sshd_config.d/*.conf\n"
HARDENED = [file for file in node_files(host_args(host=Host())) if file.reader == "sshd"]
# The settings of earlier releases, weaker than the defaults of many machines.
EARLIER = "PermitRootLogin prohibit-password\nMaxAuthTries 4\nLoginGraceTime 30\n"
_SCRIPT = "/harden.sh"


@pytest.fixture
def server(machine: Machine) -> Machine:
    """Machine with an sshd that has the settings of its distribution."""
    machine.fake("systemctl")
    machine.write(MAIN, INCLUDE)
    key = machine.path("/etc/ssh/ssh_host_ed25519_key")
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
    subprocess.run(command, check=True)
    libraries = "".join(map(text_alone, ("lib.sh", "files.sh", "firewall.sh", "host.sh")))
    machine.write(_SCRIPT, f'{libraries}\nmkdir -p "$HOST_STATE"\nhost_files\nssh_server\n')
    return machine


def harden(server: Machine, files: Sequence[NodeFile] = HARDENED) -> Result:
    settings = {"NODE_NAME": server.name, "BUFFER_POOL": "", "FILES": to_setting(files)}
    exports = "".join(f"export {name}='{value}'\n" for name, value in settings.items())
    return server.shell(f"{exports}bash {_SCRIPT} && rm -f /var/lib/nordmesh/host-changed")


def effective(server: Machine, connection: str = "") -> dict[str, str]:
    """Return the effective settings of sshd, for a connection if one is given."""
    test = f" -C {connection}" if connection else ""
    ended = server.shell(f"mkdir -p /run/sshd; /usr/sbin/sshd -T{test}")
    assert ended.status == 0, ended.stderr
    return dict(line.split(" ", 1) for line in ended.stdout.splitlines() if " " in line)


def login_settings(server: Machine) -> tuple[str, str, str]:
    settings = effective(server)
    return settings["permitrootlogin"], settings["maxauthtries"], settings["logingracetime"]


# Settings in /etc/ssh, and the effective ones after hardening (sshd prints prohibit-password as
# without-password).
@pytest.mark.parametrize(
    ("configured", "expected"),
    [
        ("no 3 20", "no 3 20"),
        ("yes 6 120", "without-password 4 30"),
        ("prohibit-password 4 30", "without-password 4 30"),
        ("forced-commands-only 0 1", "forced-commands-only 0 1"),
        ("no 10 0", "no 4 30"),
        ("yes 1 2m", "without-password 1 30"),
    ],
)
@pytest.mark.parametrize("file", [MAIN, "/etc/ssh/sshd_config.d/50-own.conf"])
def test_the_stricter_value_is_in_effect(
    server: Machine, configured: str, expected: str, file: str
) -> None:
    root, tries, grace = configured.split()
    text = f"PermitRootLogin {root}\nMaxAuthTries {tries}\nLoginGraceTime {grace}\n"
    server.write(file, f"{INCLUDE if file == MAIN else ''}{text}PasswordAuthentication yes\n")
    ended = harden(server)
    assert ended.status == 0, ended.stderr
    assert " ".join(login_settings(server)) == expected
    assert effective(server)["passwordauthentication"] == "no"


def test_a_second_run_changes_nothing(server: Machine) -> None:
    server.write(MAIN, f"{INCLUDE}MaxAuthTries 3\n")
    harden(server)
    text, reloads = server.read(SSHD), len(server.calls("systemctl"))
    assert reloads
    ended = harden(server)
    assert ended.status == 0, ended.stderr
    assert server.read(SSHD) == text
    assert len(server.calls("systemctl")) == reloads


def test_the_settings_of_the_machine_are_read_on_every_run(server: Machine) -> None:
    for tries, expected in (("2", "2"), ("1", "1"), ("6", "4"), ("3", "3")):
        server.write(MAIN, f"{INCLUDE}MaxAuthTries {tries}\n")
        ended = harden(server)
        assert ended.status == 0, ended.stderr
        assert login_settings(server)[1] == expected


def test_settings_weakened_by_an_earlier_release_are_restored(server: Machine) -> None:
    server.write(MAIN, f"{INCLUDE}PermitRootLogin no\nMaxAuthTries 3\nLoginGraceTime 20\n")
    server.write(SSHD, EARLIER)
    ended = harden(server)
    assert ended.status == 0, ended.stderr
    assert login_settings(server) == ("no", "3", "20")


def test_disabling_hardening_restores_the_settings_of_the_machine(server: Machine) -> None:
    server.write(MAIN, f"{INCLUDE}PermitRootLogin yes\nMaxAuthTries 2\nLoginGraceTime 90\n")
    before = effective(server)
    harden(server)
    ended = harden(server, files=[])
    assert ended.status == 0, ended.stderr
    assert effective(server) == before


def test_a_match_block_that_allows_root_still_applies(server: Machine) -> None:
    allowed = "Match Address 192.0.2.0/24\n    PermitRootLogin prohibit-password\n"
    server.write(MAIN, f"{INCLUDE}PermitRootLogin no\n{allowed}")
    ended = harden(server)
    assert ended.status == 0, ended.stderr
    for address, expected in (("192.0.2.7", "without-password"), ("198.51.100.7", "no")):
        settings = effective(server, f"user=root,host=admin,addr={address}")
        assert settings["permitrootlogin"] == expected


def test_invalid_sshd_settings_are_reported(server: Machine) -> None:
    """They might be stricter than those of nordmesh."""
    server.write(MAIN, f"{INCLUDE}MaxAuthTries three\n")
    ended = harden(server)
    assert ended.status != 0
    assert f"{MAIN} line 2" in ended.stderr
    assert "[sshd-own-settings-invalid]" in ended.stderr
    assert not server.exists(SSHD)


def test_each_setting_is_the_strictest_or_lists_stricter_ones() -> None:
    """Otherwise the script would not compare it, and could weaken the machine."""
    (file,) = HARDENED
    for line in file.text.splitlines()[1:]:
        _, values = line.split(" ")
        assert values == "no" or "|" in values, line
