"""The scripts of `nordmesh restore` on a control plane."""

import hashlib
from collections.abc import Callable

import pytest

from cli.restore.steps import UPLOAD
from components.encryption_keys import PIPE as KEYS_PIPE
from tests.support.joining import handing_over
from tests.unit import node, restored
from tests.unit.machine import Machine
from tests.unit.restored import (
    DATABASE,
    FILES,
    INITIALISED,
    PKI,
    RESTORING,
    SNAPSHOT,
    STARTED,
    look,
    mark,
    place,
)


@pytest.fixture
def plane(machine: Machine) -> Machine:
    restored.prepared(machine)
    return machine


def test_kubeadm_starts_from_the_placed_data(plane: Machine) -> None:
    result = restored.restore(plane)
    assert result.status == 0, result.stderr
    assert plane.read(DATABASE) == "the database"
    for name, text in FILES.items():
        if name.startswith("pki/"):
            path = plane.path(f"{PKI}/{name.removeprefix('pki/')}")
            assert path.read_text() == text
            assert path.stat().st_mode & 0o777 == 0o600
    assert plane.calls("kubeadm init")
    assert plane.exists(INITIALISED)
    assert not plane.exists(UPLOAD)


def test_a_restored_control_plane_is_not_placed_again(plane: Machine) -> None:
    assert restored.restore(plane).status == 0
    plane.write(DATABASE, "written since")
    assert place(plane).status == 0
    assert plane.read(DATABASE) == "written since"
    assert not plane.exists(UPLOAD)


def test_an_upload_that_was_altered_or_cut_changes_nothing(plane: Machine) -> None:
    for data in (restored.BUNDLE[:-1], restored.BUNDLE + b"x", b""):
        result = place(plane, data=data)
        assert result.status == 1
        assert "[restore-upload-altered]" in result.stderr
        assert not plane.exists("/var/lib/etcd/member")
        assert not plane.exists(STARTED)
        assert not plane.exists(UPLOAD)


def test_a_machine_without_the_mark_keeps_its_data(plane: Machine) -> None:
    plane.write(DATABASE, "of a running cluster")
    mark(plane, "")
    result = place(plane)
    assert result.status == 1
    assert plane.read(DATABASE) == "of a running cluster"
    plane.write(RESTORING, "20250101T000000Z-cp-1\n")
    result = place(plane)
    assert "[restore-not-begun]" in result.stderr
    assert plane.read(DATABASE) == "of a running cluster"


@pytest.mark.parametrize("cluster", ["new", "exists"])
def test_an_interrupted_restore_never_becomes_an_empty_cluster(
    plane: Machine, cluster: str
) -> None:
    """`pulumi up` between the moment that etcd's data is placed and the last one."""
    plane.write(DATABASE, "the database")
    for files in ((), (f"{PKI}/ca.crt", f"{PKI}/ca.key")):
        for file in files:
            plane.write(file, "restored")
        result = node.init(plane, CLUSTER=cluster)
        assert result.status == 1
        assert ("[foreign-etcd-data]" if cluster == "new" else "[cluster-missing]") in result.stderr
    assert not plane.calls("kubeadm")
    assert restored.restore(plane).status == 0


def test_a_cluster_that_did_not_encrypt_secrets_reads_them_and_encrypts_the_next(
    plane: Machine,
) -> None:
    """Its snapshot has no keys: an API server with only a new one could not read its Secrets."""
    files = {name: text for name, text in FILES.items() if name != "pki/encryption.yaml"}
    data = restored.bundle(files)
    assert place(plane, data=data, sha256=hashlib.sha256(data).hexdigest()).status == 0
    with handing_over(plane.path(KEYS_PIPE), "keys"):
        result = node.init(plane)
    assert result.status == 0, result.stderr
    # The keys that each API server started with.
    assert plane.read("/keys").split() == ["identity,key1"]
    names = [
        line.split()[-1]
        for line in plane.read(f"{PKI}/encryption.yaml").splitlines()
        if "identity" in line or "name:" in line
    ]
    assert names == ["{}", "key1"]


def test_a_key_that_is_newer_than_the_snapshot_is_added(plane: Machine) -> None:
    assert place(plane).status == 0
    with handing_over(plane.path(KEYS_PIPE), "keys -"):
        result = node.init(plane, ENCRYPTION_KEY="2")
    assert result.status == 0, result.stderr
    assert plane.read("/keys").split() == ["key1,key2"]


def test_after_a_restore_an_update_finds_a_member(plane: Machine) -> None:
    assert restored.restore(plane).status == 0
    assert mark(plane, "").status == 0
    assert not plane.exists(RESTORING)
    before = plane.calls("kubeadm")
    result = node.init(plane, CLUSTER="exists")
    assert result.status == 0, result.stderr
    assert plane.calls("kubeadm") == before
    state = plane.run("cluster-member.sh", {"ENDPOINT": node.ENDPOINT})
    assert state.stdout.strip() == "member"


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda _: None, {"etcd": "none", "cluster": "no", "placed": "no", "restoring": ""}),
        (node.control_plane, {"etcd": "stopped", "cluster": "yes", "placed": "yes"}),
        (restored.prepared, {"etcd": "none", "cluster": "no", "restoring": SNAPSHOT}),
        (
            lambda machine: machine.write(DATABASE, "remains"),
            {"etcd": "stopped", "cluster": "no", "placed": "no"},
        ),
    ],
)
def test_a_machine_reports_what_a_restore_would_delete(
    machine: Machine, make: Callable[[Machine], None], shown: dict[str, str]
) -> None:
    make(machine)
    assert look(machine).items() >= shown.items()


def test_a_machine_reports_a_directory_that_is_not_mounted(machine: Machine) -> None:
    assert look(machine)["missing"] == ""
    assert look(machine, directory="/srv/backup")["missing"] == "/srv/backup"
    machine.path("/srv/backup").mkdir(parents=True)
    assert look(machine, directory="/srv/backup")["missing"] == ""


def test_a_running_etcd_is_seen(machine: Machine) -> None:
    machine.write(DATABASE, "data")
    machine.write("/etc/bash.startup", "cp /bin/sleep /tmp/etcd && { /tmp/etcd 30 & }\n")
    assert look(machine)["etcd"] == "running"


def test_a_machine_of_another_node_is_reported_and_not_marked(machine: Machine) -> None:
    machine.write("/etc/kubernetes/admin.conf", "    server: https://api.other.example:6443\n")
    assert "api.other.example" in look(machine)["owner"]
    result = mark(machine)
    assert "[another-node]" in result.stderr
    assert not machine.exists(RESTORING)


def test_nodes_of_empty_machines_leave_the_restored_cluster(machine: Machine) -> None:
    machine.write("/etc/kubernetes/admin.conf", f"    server: https://{node.ENDPOINT}:6443\n")
    machine.fake("kubectl", "case $* in *'get nodes'*) printf 'worker-1\\ncp-2\\ncp-3\\n' ;; esac")
    result = restored.run(machine, "restore-forget.sh")
    assert result.status == 0, result.stderr
    changes = [call.partition("--request-timeout 30s ")[2] for call in machine.calls("kubectl")[1:]]
    assert changes == [
        change
        for name in ("cp-2", "cp-3")
        for change in (
            f"cordon {name}",
            f"delete pods --all-namespaces --field-selector spec.nodeName={name} --force "
            "--grace-period 0",
            f"delete node {name} --ignore-not-found",
        )
    ]


def test_a_silent_api_server_removes_no_node(machine: Machine) -> None:
    machine.skip_waits()
    machine.write("/etc/kubernetes/admin.conf", f"    server: https://{node.ENDPOINT}:6443\n")
    machine.fake("kubectl", "exit 1")
    result = restored.run(machine, "restore-forget.sh")
    assert result.status == 1
    assert "[restore-nodes-unknown]" in result.stderr
    assert not [call for call in machine.calls("kubectl") if " delete " in call]
