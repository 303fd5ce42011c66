"""`nordmesh restore` with a real etcd: what the restored one has, and what its clients see."""

import base64
import os
import shutil
import subprocess
import tarfile
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.backup import proof, scratch_etcd, snapshots
from cli.backup.scratch_etcd import ScratchEtcd
from cli.restore import data
from config import Backup
from config.errors import NordmeshError
from lab import paths
from lab.ports import reserved_port
from tests.engine.conftest import wait_until
from tests.engine.stored import CLUSTER, LOCAL, NODE, Plane, fill, put


@pytest.fixture(autouse=True)
def programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the programs of etcd on PATH."""
    folders = [str(paths.cache().bin / name) for name in ("etcd", "etcdutl")]
    monkeypatch.setenv("PATH", ":".join([*folders, os.environ["PATH"]]))


@pytest.fixture
def unpacked(plane: Plane, tmp_path: Path) -> tuple[Path, str, dict[bytes, bytes]]:
    """A decrypted snapshot in a folder, its name, and the objects that etcd had."""
    settings = Backup.model_validate({"directory": "/srv/backup", "keys": [plane.public]})
    plane.machine.path("/srv/backup").mkdir(parents=True)
    plane.install(settings)
    before = fill(plane.etcd)
    result = plane.store()
    assert result.status == 0, result
    folder = tmp_path / "unpacked"
    shutil.copytree(plane.machine.path(f"/srv/backup/{CLUSTER}"), folder)
    (name,) = snapshots.complete(path.name for path in folder.iterdir())
    host_key = plane.machine.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()
    manifest = snapshots.verify(folder, name, cluster=CLUSTER, signers={NODE: [host_key]})
    proof.prove(folder, name, manifest, plane.identity)
    return folder, name, before


@contextmanager
def restored(bundle: data.Bundle, folder: Path, pki: Path) -> Iterator[ScratchEtcd]:
    """Start the etcd of the cluster's release on the data of a bundle, as kubelet would."""
    folder.mkdir()
    with tarfile.open(bundle.path) as archive:
        archive.extractall(folder, filter="data")
    with reserved_port() as client, reserved_port() as peer:
        command = [
            *("etcd", f"--data-dir={folder}", f"--name={NODE}", "--unsafe-no-fsync"),
            f"--listen-client-urls=https://{LOCAL}:{client}",
            f"--advertise-client-urls=https://{LOCAL}:{client}",
            f"--listen-peer-urls=http://{LOCAL}:{peer}",
            f"--initial-advertise-peer-urls=http://{LOCAL}:{peer}",
            f"--initial-cluster={NODE}=http://{LOCAL}:{peer}",
            *(f"--cert-file={pki}/server.crt", f"--key-file={pki}/server.key"),
            *("--client-cert-auth", f"--trusted-ca-file={pki}/ca.crt"),
        ]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            running = ScratchEtcd.of(f"https://{LOCAL}:{client}", pki.parent)
            wait_until(running.answers, "the restored etcd answers")
            yield running
        finally:
            server.kill()
            server.wait()


def test_every_object_is_back_and_no_client_goes_on_from_a_lost_revision(
    plane: Plane, unpacked: tuple[Path, str, dict[bytes, bytes]], tmp_path: Path
) -> None:
    folder, name, before = unpacked
    put(plane.etcd, "/registry/secrets/shop/lost", b"written after the snapshot")
    _, lost = plane.etcd.count()
    bundle = data.bundle(folder, name, node=NODE, address="192.0.2.11")
    print(f"\n{bundle.path.stat().st_size} bytes to upload")
    with restored(bundle, tmp_path / "cp-1", folder / "pki" / "etcd") as etcd:
        assert etcd.objects() == before
        _, revision = etcd.count()
        print(f"revision {lost} before, {revision} after")
        assert revision > lost + data.BUMP // 2
        put(etcd, "/registry/secrets/shop/new", b"x")
        key = base64.b64encode(b"/registry/secrets/shop/new").decode()
        with pytest.raises(urllib.error.HTTPError) as caught:
            etcd.ask("v3/kv/range", {"key": key, "revision": lost})
        assert "compacted" in caught.value.read().decode()
        (member,) = etcd.ask("v3/cluster/member/list", {})["members"]
        assert (member["name"], member["peerURLs"]) == (NODE, ["https://192.0.2.11:2380"])
        old, new = (one.ask("v3/cluster/member/list", {}) for one in (plane.etcd, etcd))
        assert old["header"]["cluster_id"] != new["header"]["cluster_id"]


def test_the_upload_has_the_keys_that_control_planes_share_and_no_other(
    unpacked: tuple[Path, str, dict[bytes, bytes]],
) -> None:
    folder, name, _ = unpacked
    (folder / "pki" / "encryption.yaml").write_text("the keys of Secrets")
    bundle = data.bundle(folder, name, node=NODE, address="192.0.2.11")
    with tarfile.open(bundle.path) as archive:
        files = {entry.name: entry for entry in archive if entry.isfile()}
    pki = {name.removeprefix("pki/") for name in files if name.startswith("pki/")}
    # The fake control plane has no sa.pub.
    assert pki == {*data.KEPT} - {"sa.pub"}
    assert {entry.mode for entry in files.values()} == {0o600}
    assert {entry.uid for entry in files.values()} == {0}
    assert bundle.path.stat().st_mode & 0o077 == 0


def test_a_database_that_etcdutl_refuses_is_not_uploaded(
    unpacked: tuple[Path, str, dict[bytes, bytes]],
) -> None:
    folder, name, _ = unpacked
    database = folder / scratch_etcd.DATABASE
    content = bytearray(database.read_bytes())
    content[len(content) // 2] ^= 1
    database.write_bytes(content)
    with pytest.raises(NordmeshError) as caught:
        data.bundle(folder, name, node=NODE, address="192.0.2.11")
    assert caught.value.code == "backup-broken"


def test_an_etcdutl_that_cannot_raise_the_revision_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.require_program()
    program = tmp_path / "etcdutl"
    program.write_text("#!/bin/sh\necho '      --data-dir string   Path'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(NordmeshError) as caught:
        data.require_program()
    assert caught.value.code == "restore-etcdutl-old"
    program.unlink()
    with pytest.raises(NordmeshError) as caught:
        data.require_program()
    assert caught.value.code == "backup-program-missing"
