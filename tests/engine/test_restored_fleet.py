"""`nordmesh restore` on three empty machines: which scripts run where, and what `pulumi up` finds.

The snapshot is a real one; the machines are one SSH server, which reports success.
"""

from collections.abc import Callable
from typing import Any

import pytest

from cli.app import main
from cli.backup import snapshots
from cli.restore.steps import UPLOAD
from components.encryption_keys import RETIRE, USE
from config import Backup
from lab import paths
from tests.engine.stored import Plane, fill
from tests.support.fleet import STACK, Fleet, Server

# The control planes beside the first are added later: a worker never becomes one.
NODES = 2
ADDRESSES = 4
NETWORK = "198.18.12.0/24"
PLANES = ("node-0", "node-2", "node-3")
EMPTY = "owner \netcd none\ncluster no\nrestoring \nplaced no\nmissing \n"
OWN = ("restore-mark.sh", "restore-place.sh", "restore-forget.sh")


@pytest.fixture
def deployed(
    fleet: Fleet, server: Server, plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Deploy three control planes that store snapshots; return the command that restores one."""
    section = {"directory": "/srv/backup", "keys": [plane.public]}

    def edit(config: dict[str, Any]) -> None:
        for name in PLANES:
            config["nordmesh:machines"]["nodes"][name]["role"] = "control-plane"
        config["nordmesh:backup"] = section

    fleet.write(ADDRESSES, edit)
    fleet.up()
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    folders = [str(paths.cache().bin / name) for name in ("etcd", "etcdutl")]
    monkeypatch.setenv("PATH", ":".join([*folders, fleet.environment["PATH"]]))
    monkeypatch.chdir(fleet.directory)
    for name in PLANES:
        server.said[name, "restore-look.sh"] = EMPTY
        server.said |= {(name, file): "" for file in OWN}

    plane.machine.path("/srv/backup").mkdir(parents=True)
    key = server.keys[0].export_private_key("openssh").decode()
    plane.machine.write("/etc/ssh/ssh_host_ed25519_key", key, mode=0o600)
    # ssh-keygen refuses to sign with a key beside the public half of another.
    plane.machine.write("/etc/ssh/ssh_host_ed25519_key.pub", f"{server.host_key(0)}\n")
    plane.install(Backup.model_validate(section), node="node-0", cluster=fleet.cluster)
    fill(plane.etcd)
    result = plane.store()
    assert result.status == 0, result
    root = plane.machine.path("/srv/backup")
    (snapshot,) = snapshots.complete(path.name for path in (root / fleet.cluster).iterdir())

    def restore(*arguments: str) -> int:
        server.forget()
        common = ("--stack", STACK, "--identity", str(plane.identity), "--directory", str(root))
        return main(["restore", snapshot, *common, "--yes", *arguments])

    return restore


def scripts(server: Server, node: str) -> list[str]:
    """The scripts that ran on a node, in order."""
    return [file for name, file in server.ran if name == node]


def test_three_empty_machines_become_the_cluster_again(
    deployed: Callable[..., int],
    fleet: Fleet,
    server: Server,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.failing = {("node-2", "kubeadm-init.sh")}
    assert deployed() == 1
    output, error = capsys.readouterr()
    print(output, error)
    assert "[restore-step-failed]" in error
    assert "node-2-init" in error
    first = ["restore-look.sh", "restore-mark.sh", "node-prepare.sh"]
    placed = [UPLOAD, "restore-place.sh", "kubeadm-init.sh", "restore-forget.sh"]
    assert scripts(server, "node-0") == [*first, *placed]
    assert scripts(server, "node-2") == [*first, "kubeadm-init.sh"]
    assert scripts(server, "node-3") == first

    # The same command continues: nothing is placed again.
    (snapshot,) = {line.partition(":")[0] for line in output.splitlines() if "unaltered" in line}
    begun = EMPTY.replace("restoring ", f"restoring {snapshot}")
    started = f"owner \netcd running\ncluster yes\nrestoring {snapshot}\nplaced yes\nmissing \n"
    server.said |= {("node-0", "restore-look.sh"): started}
    server.said |= {(name, "restore-look.sh"): begun for name in PLANES[1:]}
    server.failing = set()
    assert deployed() == 0
    output, error = capsys.readouterr()
    print(output, error)
    last = [USE, RETIRE, "backup-install.sh", "restore-mark.sh"]
    again = [*first, "kubeadm-init.sh", "restore-forget.sh", *last]
    assert scripts(server, "node-0") == again
    for name in PLANES[1:]:
        assert scripts(server, name) == [*first, "kubeadm-init.sh", *last]
    # No key is used before every control plane has it, nor removed before every one uses another.
    keys = [file for _, file in server.ran if file in (USE, RETIRE)]
    assert keys == [USE] * 3 + [RETIRE] * 3
    assert "control planes: node-0, node-2, node-3" in output
    assert not any(node == "node-1" for node, _ in server.ran)

    server.forget()
    assert fleet.up().touched == []
    assert server.opened == []


def test_a_living_etcd_is_deleted_only_if_that_is_said(
    deployed: Callable[..., int], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.said["node-3", "restore-look.sh"] = (
        "owner \netcd running\ncluster yes\nrestoring \nplaced yes\nmissing \n"
    )
    server.said["node-2", "restore-look.sh"] = f"{EMPTY.removesuffix(chr(10))}/srv/backup\n"
    assert deployed("--discard-etcd") == 1
    assert "[restore-directory-missing]" in capsys.readouterr().err
    assert {file for _, file in server.ran} == {"restore-look.sh"}
    server.said["node-2", "restore-look.sh"] = EMPTY
    assert deployed() == 1
    assert "node-3 (etcd runs)" in capsys.readouterr().err
    assert {file for _, file in server.ran} == {"restore-look.sh"}
    server.dead = {"node-2"}
    assert deployed("--discard-etcd") == 1
    assert "node-2: " in capsys.readouterr().err
    assert {file for _, file in server.ran} == {"restore-look.sh"}
    assert deployed("--discard-etcd", "--lost", "node-2") == 0
    output = capsys.readouterr().out
    assert "- etcd's data on node-3" in output
    assert "node-2 is left out" in output
    assert scripts(server, "node-2") == []
    assert scripts(server, "node-3")[:4] == [
        "restore-look.sh",
        "node-reset.sh",
        "restore-mark.sh",
        "node-prepare.sh",
    ]
