"""Three control planes that are made one after another: who creates the cluster, and who joins."""

import re
import socket
from collections.abc import Callable

import pytest

from components.peers import Asked
from components.remote.nodes_ssh import Login
from tests.engine.conftest import Sshd
from tests.engine.pretended import Machine, Up

ENCRYPTION = "etc/kubernetes/pki/encryption.yaml"
NAMES = ("cp-1", "cp-2", "cp-3")
Planes = dict[str, Machine]


@pytest.fixture(scope="module")
def machines(start_sshd: Callable[..., Sshd], tmp_path_factory: pytest.TempPathFactory) -> Planes:
    return {name: Machine(tmp_path_factory.mktemp(name), start_sshd) for name in NAMES}


@pytest.fixture
def planes(machines: Planes) -> Planes:
    """Machines without a cluster."""
    for machine in machines.values():
        machine.reset()
    return machines


def silent_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def make(planes: Planes, name: str, *, silent: str = "", key: int = 1) -> Up:
    """Make a machine a control plane, or add a key to one.

    silent: another one that does not answer. key: the number of the key.
    """
    others = {
        other: Asked(
            address=f"192.0.2.{number}",
            login=Login(
                host="127.0.0.1",
                user="root",
                port=silent_port() if other == silent else machine.sshd.port,
                host_key=machine.sshd.host_key,
                private_key=machine.sshd.private_key,
            ),
        )
        for number, (other, machine) in enumerate(planes.items(), 1)
        if other != name
    }
    machine = planes[name]
    scripts = machine.scripts(
        "http://127.0.0.1:9", name, JOIN_CONFIG="@TOKEN@ @KEY@", ENCRYPTION_KEY=str(key)
    )
    script = {"kubeadm-init.sh": scripts["kubeadm-init.sh"]}
    return machine.up(script, machine.sshd.port, others=others).run()


def work(machine: Machine) -> list[str]:
    """Return what kubeadm did on a machine."""
    return [work for kind, _, work in machine.journal() if kind == "end"]


@pytest.mark.parametrize("order", [NAMES, ("cp-3", "cp-1", "cp-2")])
def test_the_first_creates_the_cluster_and_the_others_join_it(
    planes: Planes, order: tuple[str, ...]
) -> None:
    for name in order:
        up = make(planes, name)
        assert up.failure is None, up.failure
    first, *others = order
    assert work(planes[first]) == ["kubeadm init"]
    for name in others:
        assert work(planes[name]) == ["kubeadm join"]
        files = planes[name].files()
        assert "etc/kubernetes/nordmesh-initialised.yaml" in files
        assert "etc/kubernetes/nordmesh-joining" not in files
        assert planes[name].files_with_secrets() == []


def test_a_member_never_asks_again(planes: Planes) -> None:
    assert make(planes, "cp-1").failure is None
    again = make(planes, "cp-1", silent="cp-2")
    assert again.failure is None, again.failure
    assert work(planes["cp-1"]) == ["kubeadm init"]


def test_nobody_creates_a_cluster_while_a_machine_that_may_have_one_is_silent(
    planes: Planes,
) -> None:
    up = make(planes, "cp-1", silent="cp-3")
    assert up.failure is not None
    assert "[cluster-unknown]" in up.failure
    assert "cp-3: root@127.0.0.1 port" in up.failure
    assert work(planes["cp-1"]) == []


def test_a_machine_joins_while_a_third_one_is_silent(planes: Planes) -> None:
    assert make(planes, "cp-2").failure is None
    up = make(planes, "cp-1", silent="cp-3")
    assert up.failure is None, up.failure
    assert work(planes["cp-1"]) == ["kubeadm join"]


def test_nobody_creates_a_cluster_beside_one_that_is_half_made(planes: Planes) -> None:
    planes["cp-3"].write("etc/kubernetes/nordmesh-started", "")
    up = make(planes, "cp-1")
    assert up.failure is not None
    assert "cp-3: it was interrupted while it created the cluster" in up.failure
    assert work(planes["cp-1"]) == []
    assert make(planes, "cp-3").failure is None
    assert make(planes, "cp-1").failure is None
    assert work(planes["cp-1"]) == ["kubeadm join"]


def keys(machine: Machine) -> list[tuple[str, str]]:
    """The keys of Secrets that a control plane has: names and values, in order."""
    return re.findall(r"- name: (\S+)\n +secret: (\S+)", machine.files()[ENCRYPTION])


def test_every_control_plane_has_the_same_keys(planes: Planes) -> None:
    for name in NAMES:
        up = make(planes, name)
        assert up.failure is None, up.failure
    (first,) = {tuple(keys(machine)) for machine in planes.values()}
    assert [name for name, _ in first] == ["key1"]
    for name in NAMES:
        up = make(planes, name, key=2)
        assert up.failure is None, up.failure
    (both,) = {tuple(keys(machine)) for machine in planes.values()}
    assert [name for name, _ in both] == ["key1", "key2"]
    assert both[0] == first[0]
    for machine in planes.values():
        paths = [path for path, text in machine.files().items() if both[1][1] in text]
        assert paths == [ENCRYPTION]
        assert machine.mode(ENCRYPTION) == 0o600


def test_a_key_is_made_only_if_every_control_plane_answers(planes: Planes) -> None:
    for name in NAMES:
        assert make(planes, name).failure is None
    up = make(planes, "cp-1", silent="cp-3", key=2)
    assert up.failure is not None
    assert "[encryption-key-unknown]" in up.failure
    assert "cp-3: root@127.0.0.1 port" in up.failure
    assert [name for name, _ in keys(planes["cp-1"])] == ["key1"]
    assert make(planes, "cp-1", key=2).failure is None
    # Now another one has it.
    assert make(planes, "cp-2", silent="cp-3", key=2).failure is None
    assert keys(planes["cp-2"]) == keys(planes["cp-1"])


def test_a_control_plane_that_joins_in_the_middle_of_a_rotation_has_both_keys(
    planes: Planes,
) -> None:
    assert make(planes, "cp-1").failure is None
    assert make(planes, "cp-1", key=2).failure is None
    assert make(planes, "cp-3", key=2).failure is None
    assert keys(planes["cp-3"]) == keys(planes["cp-1"])
    assert len(keys(planes["cp-3"])) == 2
