"""container-create.sh and container-delete.sh, with a fake systemd-nspawn that answers as sshd."""

import json
import re

import pytest

from components.remote.node_command import local_text
from tests.unit.machine import Machine, Result

NAME, BRIDGE, ADDRESS, GATEWAY = "cp-1", "lab0", "127.0.0.11", "127.0.0.1"
BASE = "/cache/nordmesh/roots/base"
LAB = f"/state/nordmesh/lab/{BRIDGE}"
OWN, OTHER = f"{LAB}/machines/{NAME}", f"{LAB}/machines/cp-2"
SETTINGS = {
    "NAME": NAME,
    "BRIDGE": BRIDGE,
    "ADDRESS": ADDRESS,
    "PREFIX": "24",
    "GATEWAY": GATEWAY,
    "SSHD_CONF": "PasswordAuthentication no",
    "BOOT_SCRIPT": "mount -a",
    "BOOT_UNIT": "[Service]",
    "XDG_CACHE_HOME": "/cache",
    "XDG_STATE_HOME": "/state",
}
# What a test waits for in vain takes a second; what a busy machine delays has minutes.
SECONDS = {
    "halt_timeout=5": "halt_timeout=1",
    "stop_timeout=30": "stop_timeout=1",
    "(stop_timeout + 5)": "(stop_timeout + 300)",
    'within "$kill_timeout" interface_gone': "within 1 interface_gone",
    "kill_timeout=20": "kill_timeout=300",
    "boot_timeout=60": "boot_timeout=300",
    "- boot_timeout + 1)": "- boot_timeout + 120)",
}
SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], 22))
open("/listening", "w").close()
while True:
    client, _ = server.accept()
    client.sendall(b"SSH-2.0-test\\r\\n")
    client.close()
"""
# Ends with its server, as a machine with its systemd. /ends: it ends at once. /ignores: the signal.
NSPAWN = """
[ ! -e /ends ] || { echo "no init in the root"; exit 1; }
/usr/bin/python3 /server.py "$ADDRESS" &
[ -e /ignores ] || trap 'kill $!; exit' TERM
[ ! -e /ignores ] || trap '' TERM
while kill -0 $! 2>/dev/null; do wait $!; done
"""
IP = f"""
case $* in
*'address show dev {BRIDGE}') echo "7: {BRIDGE}    inet {GATEWAY}/24 scope global {BRIDGE}" ;;
'link delete '*) rm -r "/sys/class/net/$3" ;;
*) exec /usr/sbin/ip "$@" ;;
esac
"""


@pytest.fixture
def host(machine: Machine) -> Machine:
    """A machine that is prepared for a lab: a bridge, and the base root."""
    for name in ("create", "delete"):
        text = local_text(f"container-{name}.sh")
        for before, after in SECONDS.items():
            text = text.replace(before, after)
        machine.write(f"/{name}.sh", text)
    machine.write("/server.py", SERVER)
    machine.fake("systemd-nspawn", NSPAWN)
    machine.fake("ip", IP)
    machine.path(f"/sys/class/net/{BRIDGE}/bridge").mkdir(parents=True)
    machine.write(f"{BASE}/usr/bin/systemctl", "", mode=0o755)
    machine.write(f"{BASE}/etc/hosts", "127.0.0.1 localhost\n")
    machine.write(f"{BASE}/etc/machine-id", "of the base\n")
    machine.write(f"{BASE}/etc/resolv.conf", "nameserver 192.0.2.53\n")
    machine.write(f"{BASE}/etc/ssh/ssh_host_rsa_key", "of the base\n")
    machine.path(f"{BASE}/var/lib/dbus").mkdir(parents=True)
    return machine


def command(script: str, **changes: str) -> str:
    values = {**SETTINGS, **changes}
    return f"env {' '.join(f'{k}={v!r}' for k, v in values.items())} bash /{script}.sh"


def create(**changes: str) -> str:
    return command("create", **changes)


def delete(**changes: str) -> str:
    return command("delete", **changes)


def run(host: Machine, *commands: str) -> Result:
    """Run commands one after another: what they start ends with the last one, or with an error."""
    return host.shell("; ".join(["ip link set lo up", "set -e", *commands, "exit"]))


def starts(host: Machine) -> list[str]:
    return host.calls("systemd-nspawn")


# --- create ---------------------------------------------------------------------------------------


def test_a_machine_is_its_own_copy_of_the_base_root(host: Machine) -> None:
    result = run(host, create())
    assert result.status == 0, result.stderr
    root = f"{OWN}/root"
    assert host.read(f"{root}/etc/hostname") == f"{NAME}\n"
    assert host.read(f"{root}/etc/hosts").splitlines() == [
        "127.0.0.1 localhost",
        f"{ADDRESS} {NAME} # this machine",
    ]
    assert host.read(f"{root}/etc/resolv.conf") == f"nameserver {GATEWAY}\n"
    assert host.read(f"{root}/etc/ssh/sshd_config.d/nordmesh.conf") == f"{SETTINGS['SSHD_CONF']}\n"
    assert host.read(f"{root}/usr/local/sbin/nordmesh-boot") == "mount -a\n"
    wants = f"{root}/etc/systemd/system/sysinit.target.wants/nordmesh-boot.service"
    assert host.path(wants).is_symlink()
    assert re.fullmatch(r"[0-9a-f]{32}\n", host.read(f"{root}/etc/machine-id"))
    # The base root's key is the same on all machines.
    assert not host.exists(f"{root}/etc/ssh/ssh_host_rsa_key")
    key = f"{root}/etc/ssh/ssh_host_ed25519_key"
    for path, mode in {key: 0o600, f"{root}/root/.ssh/authorized_keys": 0o600}.items():
        assert host.path(path).stat().st_mode & 0o777 == mode
    assert host.path(f"{LAB}/id_ed25519").stat().st_mode & 0o077 == 0
    printed = json.loads(result.stdout)
    assert printed["hostKey"] == " ".join(host.read(f"{key}.pub").split()[:2])
    assert printed["privateKey"] == host.read(f"{LAB}/id_ed25519")
    (start,) = starts(host)
    for argument in (f"--directory={root}", f"--network-bridge={BRIDGE}", f"--hostname={NAME}"):
        assert argument in start.split()
    # The base itself stays.
    assert host.read(f"{BASE}/etc/machine-id") == "of the base\n"


def test_a_machine_that_runs_with_these_settings_is_left_alone(host: Machine) -> None:
    result = run(host, create(), f"echo mine >{OWN}/root/data", create())
    assert result.status == 0, result.stderr
    first, second = result.stdout.splitlines()
    assert first == second
    assert len(starts(host)) == 1
    assert host.read(f"{OWN}/root/data") == "mine\n"


def test_a_stopped_machine_starts_with_its_data_and_its_keys(host: Machine) -> None:
    first = run(host, create())
    machine_id = host.read(f"{OWN}/root/etc/machine-id")
    host.write(f"{OWN}/root/data", "mine\n")
    # What another script added.
    host.write(f"{OWN}/root/etc/hosts", f"{host.read(f'{OWN}/root/etc/hosts')}192.0.2.9 api\n")
    second = run(host, create())
    assert (first.status, second.status) == (0, 0), second.stderr
    assert first.stdout == second.stdout
    assert len(starts(host)) == 2
    assert host.read(f"{OWN}/root/data") == "mine\n"
    assert host.read(f"{OWN}/root/etc/machine-id") == machine_id
    lines = host.read(f"{OWN}/root/etc/hosts").splitlines()
    assert sorted(lines) == sorted(
        ["127.0.0.1 localhost", f"{ADDRESS} {NAME} # this machine", "192.0.2.9 api"]
    )


@pytest.mark.parametrize("ignores", [False, True])
def test_a_changed_address_restarts_the_machine(host: Machine, *, ignores: bool) -> None:
    """Also one that does not power off: then it is killed."""
    if ignores:
        host.write("/ignores", "")
    result = run(host, create(), create(ADDRESS="127.0.0.12"))
    assert result.status == 0, result.stderr
    assert "settings changed; stopping for a restart" in result.stderr
    assert len(starts(host)) == 2
    lines = host.read(f"{OWN}/root/etc/hosts").splitlines()
    assert [line for line in lines if NAME in line] == [f"127.0.0.12 {NAME} # this machine"]


def test_the_machines_of_a_lab_share_a_key_to_log_in_and_no_host_key(host: Machine) -> None:
    result = run(host, create(), create(NAME="cp-2", ADDRESS="127.0.0.12"))
    assert result.status == 0, result.stderr
    own, other = (json.loads(line) for line in result.stdout.splitlines())
    assert own["privateKey"] == other["privateKey"]
    assert own["hostKey"] != other["hostKey"]


def test_a_partial_copy_of_the_root_is_made_again(host: Machine) -> None:
    for left in ("root.new", "root.gone.7"):
        host.write(f"{OWN}/{left}/etc/partial", "")
    result = run(host, create())
    assert result.status == 0, result.stderr
    assert not host.exists(f"{OWN}/root.new")
    assert not host.exists(f"{OWN}/root.gone.7")
    assert not host.exists(f"{OWN}/root/etc/partial")
    assert host.exists(f"{OWN}/root/usr/bin/systemctl")


@pytest.mark.parametrize(
    ("changes", "prepare", "code"),
    [
        ({"GATEWAY": ""}, "true", "setting-missing"),
        ({"NAME": "CP_1"}, "true", "name-invalid"),
        ({"NAME": "../cp-2"}, "true", "name-invalid"),
        ({"BRIDGE": "a-bridge-of-long"}, "true", "bridge-name-invalid"),
        ({"ADDRESS": "fe80::1"}, "true", "addresses-invalid"),
        ({"PREFIX": "/24"}, "true", "addresses-invalid"),
        ({}, f"rmdir /sys/class/net/{BRIDGE}/bridge", "no-lab-bridge"),
        ({"GATEWAY": "127.0.0.2"}, "true", "no-gateway-address"),
        ({}, f"rm {BASE}/usr/bin/systemctl", "no-base-root"),
        (
            {},
            f"mkdir -p {OTHER} && echo '{BRIDGE} {ADDRESS}/24 via {GATEWAY}' >{OTHER}/settings",
            "address-in-lab-use",
        ),
        (
            {},
            f"python3 /server.py {ADDRESS} & until [ -e /listening ]; do sleep 0.05; done",
            "address-in-use",
        ),
    ],
)
def test_a_machine_that_could_not_work_is_not_started(
    host: Machine, changes: dict[str, str], prepare: str, code: str
) -> None:
    result = run(host, prepare, create(**changes))
    assert result.status == 1
    assert f"[{code}]" in result.stderr
    assert starts(host) == []
    assert not host.exists(f"{OWN}/root")


def test_a_machine_that_ends_at_once_shows_its_console(host: Machine) -> None:
    host.write("/ends", "")
    host.write("/create.sh", local_text("container-create.sh"))
    result = run(host, create())
    assert result.status == 1
    assert "[container-boot-failed]" in result.stderr
    assert "no init in the root" in result.stderr


# --- delete ---------------------------------------------------------------------------------------

ALLOWED = {"ALLOW_DATA_LOSS": "true"}
LINK = "/sys/class/net/vb-nm-*"


@pytest.mark.parametrize("ignores", [False, True])
def test_a_deleted_machine_leaves_nothing_and_others_run_on(
    host: Machine, *, ignores: bool
) -> None:
    if ignores:
        host.write("/ignores", "")
    identity = "nm-$(printf '%s' \"$BRIDGE/$NAME\" | sha256sum | cut -c1-8)"
    result = run(
        host,
        create(NAME="cp-2", ADDRESS="127.0.0.12"),
        create(),
        f"mkdir -p {OWN}/root/var/volume && mount -t tmpfs tmpfs {OWN}/root/var/volume",
        f"mkdir -p /sys/class/net/vb-$(NAME={NAME} BRIDGE={BRIDGE}; echo {identity})",
        f"mkdir -p /sys/fs/cgroup/nordmesh.{BRIDGE}.{NAME}/pod",
        f"mkdir -p /sys/fs/cgroup/nordmesh.{BRIDGE}.cp-2",
        delete(**ALLOWED),
        f"! pgrep -f -- --directory={OWN}/root >/dev/null",
        f"pgrep -f -- --directory={OTHER}/root >/dev/null",
        delete(**ALLOWED),
    )
    assert result.status == 0, result.stderr
    assert result.stderr.endswith(f"{NAME}: deleted\n")
    assert not host.exists(OWN)
    assert not list(host.path("/sys/class/net").glob("vb-*"))
    assert [path.name for path in host.path("/sys/fs/cgroup").iterdir()] == [
        f"nordmesh.{BRIDGE}.cp-2"
    ]
    assert host.read(f"{OTHER}/root/etc/hostname") == "cp-2\n"
    assert host.exists(f"{LAB}/id_ed25519")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, "container-has-data"),
        ({"ALLOW_DATA_LOSS": "false"}, "container-has-data"),
        ({**ALLOWED, "NAME": "../machines"}, "name-invalid"),
        ({**ALLOWED, "BRIDGE": "../lab0"}, "bridge-name-invalid"),
    ],
)
def test_a_machine_is_not_deleted_without_leave(
    host: Machine, changes: dict[str, str], code: str
) -> None:
    result = run(host, create(), f"{delete(**changes)} || status=$?", f"{create()}", "exit $status")
    assert result.status == 1
    assert f"[{code}]" in result.stderr
    assert len(starts(host)) == 1
    assert host.exists(f"{OWN}/root/usr/bin/systemctl")


def test_a_machine_that_is_gone_needs_no_leave(host: Machine) -> None:
    assert run(host, delete()) == Result(0, "", "")
