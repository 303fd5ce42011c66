"""Backups with the real programs: a snapshot of an etcd, stored in S3 or a directory, and proven.

The script of the control plane runs on a fake machine with the host's network, beside a real etcd
with a PKI as kubeadm makes it. The snapshot is read with the command line `nordmesh backup`.
"""

import base64
import datetime
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import yaml

from cli.app import main
from cli.backup import command, comparison, scratch_etcd, snapshots
from config import Backup
from lab import paths, programs, toolchain
from tests.engine.stored import CLUSTER, LOCAL, NODE, OBJECTS, Place, Plane, fill, put
from tests.support.altered import alterations

STACK = "prod"


def settings_of(plane: Plane, place: Place) -> Backup:
    return Backup.model_validate({"keys": [plane.public], **place.settings})


@pytest.fixture
def stack(plane: Plane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Place], None]:
    """Write the stack file of the control plane, and work in its project."""

    def write(place: Place) -> None:
        section = {"keys": [plane.public], **place.settings}
        plane.install(settings_of(plane, place), place.secret)
        host_key = plane.machine.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()
        node = {"role": "control-plane", "provider": "existing", "address": "192.0.2.11"}
        config = {
            "nordmesh:machines": {"nodes": {NODE: {**node, "hostKey": host_key}}},
            "nordmesh:kubernetes": {
                "clusterName": CLUSTER,
                "version": programs.KUBERNETES,
                "endpoint": "api.example.internal",
                "podCidr": "10.244.0.0/16",
                "serviceCidr": "10.96.0.0/12",
                "cgroupDriver": "systemd",
            },
            "nordmesh:backup": section,
        }
        if place.secret:
            config["nordmesh:backupSecretKey"] = {"secure": "v1:not:decrypted"}
        config["nordmesh:sshPrivateKey"] = {"secure": "v1:not:decrypted"}
        project = tmp_path / "project"
        (project / "stacks").mkdir(parents=True)
        shutil.copy(paths.PROJECT / "stacks" / "artifacts.lock.json", project / "stacks")
        (project / "Pulumi.yaml").write_text("name: nordmesh\nruntime: python\n")
        (project / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump({"config": config}))
        monkeypatch.chdir(project)
        binaries = paths.cache().bin
        folders = [str(binaries / name) for name in ("etcd", "etcdutl")]
        monkeypatch.setenv("PATH", ":".join([*folders, os.environ["PATH"]]))

    return write


def nordmesh(*arguments: str) -> int:
    return main(["backup", *arguments, "--stack", STACK])


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_every_object_is_back_byte_for_byte(
    kind: str,
    plane: Plane,
    places: Callable[[str], Place],
    stack: Callable[[Place], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = places(kind)
    stack(place)
    before = fill(plane.etcd)
    assert len(before) == OBJECTS
    result = plane.store(place.environment)
    assert result.status == 0, result
    put(plane.etcd, "/registry/secrets/shop/later", b"not in the snapshot")

    assert nordmesh("list", *place.options) == 0
    assert " good" in capsys.readouterr().out
    assert nordmesh("check", *place.options, "--identity", str(plane.identity)) == 0
    output = capsys.readouterr().out
    print(output)
    assert "signed by cp-1" in output
    assert f"etcd started from it: {OBJECTS} objects" in output

    (name,) = snapshots.complete(path.name for path in (place.root / CLUSTER).iterdir())
    folder = tmp_path / "restored"
    shutil.copytree(place.root / CLUSTER, folder)
    archive = "age --decrypt --identity $1 $2 | zstd -dqc | tar -x -C $3"
    command = ["bash", "-o", "pipefail", "-c", archive, "-", str(plane.identity)]
    subprocess.run([*command, str(folder / f"{name}.age"), str(folder)], check=True)
    with scratch_etcd.started(folder, name) as restored:
        assert restored.objects() == before
    for path in place.root.rglob("*"):
        assert not path.is_file() or not any(
            value in path.read_bytes() for value in before.values() if len(value) > 16
        )


def test_the_objects_of_a_snapshot_are_compared_with_the_cluster(
    plane: Plane,
    places: Callable[[str], Place],
    stack: Callable[[Place], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = places("directory")
    stack(place)
    fill(plane.etcd)
    assert plane.store().status == 0
    put(plane.etcd, "/registry/secrets/shop/0007", b"changed since")
    put(plane.etcd, "/registry/secrets/shop/later", b"new")
    key = base64.b64encode(b"/registry/secrets/shop/0009").decode()
    plane.etcd.ask("v3/kv/deleterange", {"key": key})
    running = plane.etcd.keys()
    monkeypatch.setattr(command, "logins", lambda _stack, _script: {})
    monkeypatch.setattr(comparison, "live", lambda _: running)
    check = ("check", *place.options, "--identity", str(plane.identity), "--compare")
    assert nordmesh(*check) == 0
    output = capsys.readouterr().out
    print(output)
    assert "498 objects are as they were, 1 have changed since, 1 are new, 1 are deleted" in output
    assert "0 differences" in output
    # An object that the snapshot should have.
    running["/registry/secrets/shop/missing"] = scratch_etcd.Revisions(3, 3)
    assert nordmesh(*check) == 1
    error = capsys.readouterr().err
    assert "[backup-differs]" in error
    assert "/registry/secrets/shop/missing: created at revision 3" in error


@pytest.mark.parametrize("kind", ["directory", "s3"])
def test_the_team_deletes_old_snapshots_and_never_the_newest(
    kind: str,
    plane: Plane,
    places: Callable[[str], Place],
    stack: Callable[[Place], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = places(kind)
    stack(place)
    for year in (2019, 2020, 2021):
        plane.machine.fake("date", f"echo {year}0101T000000Z")
        assert plane.store(place.environment).status == 0

    def left() -> list[str]:
        return snapshots.complete(path.name for path in (place.root / CLUSTER).iterdir())

    assert nordmesh("list", *place.options, "--last", "2") == 0
    output = capsys.readouterr().out
    assert "2019" not in output
    assert output.count(" good") == 2
    assert nordmesh("prune", *place.options, "--older-than", "720h") == 0
    assert "6 files would be deleted" in capsys.readouterr().out
    assert len(left()) == 3
    assert nordmesh("prune", *place.options, "--older-than", "720h", "--yes") == 0
    assert left() == [f"20210101T000000Z-{NODE}"]
    assert nordmesh("prune", *place.options, "--older-than", "1h", "--yes") == 0
    assert left() == [f"20210101T000000Z-{NODE}"]


class WriteOnly(BaseHTTPRequestHandler):
    """S3 as a login sees it that has only s3:PutObject."""

    requests: ClassVar[list[str]] = []

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(f"PUT {self.path.partition('?')[0]}")
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self) -> None:
        self.requests.append(f"{self.command} {self.path}")
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD = do_POST = do_DELETE = _refuse

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def test_a_login_that_may_only_write_is_enough(
    plane: Plane, places: Callable[[str], Place], stack: Callable[[Place], None]
) -> None:
    place = places("s3")
    stack(place)
    WriteOnly.requests.clear()
    with ThreadingHTTPServer((LOCAL, 0), WriteOnly) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        configuration = plane.machine.read("/etc/nordmesh/rclone.conf")
        plain = re.sub(
            "endpoint = .*", f"endpoint = http://{LOCAL}:{server.server_port}", configuration
        )
        plane.machine.write("/etc/nordmesh/rclone.conf", plain)
        result = plane.store(place.environment)
        server.shutdown()
    assert result.status == 0, result
    bucket = place.root.name
    found = [re.sub(r"\d{8}T\d{6}Z", "TIME", request) for request in WriteOnly.requests]
    assert found == [f"PUT /{bucket}/prod/TIME-cp-1.{part}" for part in snapshots.PARTS]


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a snapshot in a folder, by suffix."""
    return {part: (folder / f"{name}.{part}").read_bytes() for part in snapshots.PARTS}


def store_at(plane: Plane, place: Place, time: str) -> str:
    """Store a snapshot as if it were that time; returns its name."""
    plane.machine.fake("date", f"echo {time}")
    result = plane.store(place.environment)
    assert result.status == 0, result
    plane.machine.path("/usr/local/bin/date").unlink()
    return f"{time}-{NODE}"


@pytest.mark.parametrize("count", [30, pytest.param(1000, marks=pytest.mark.long)])
def test_snapshots_that_were_altered_in_the_bucket_are_refused(
    count: int,
    plane: Plane,
    places: Callable[[str], Place],
    stack: Callable[[Place], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a pipeline checks them: fetched with rclone, and proven with the team's key.

    tests/unit/cli/backup/test_snapshots.py alters 1,000 on the disk.
    """
    place = places("s3")
    stack(place)
    fill(plane.etcd)
    older = store_at(plane, place, "20200101T000000Z")
    time = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    name, folder = store_at(plane, place, time), place.root / CLUSTER
    plane.install(settings_of(plane, place), place.secret, cluster="staging")
    assert store_at(plane, place, time) == name
    others = [files_of(folder, older), files_of(place.root / "staging", name)]
    original = files_of(folder, name)
    check = ("check", name, "--identity", str(plane.identity))
    codes: dict[str, set[str]] = {}
    for way, files in alterations(original, others, count):
        for part, data in files.items():
            (folder / f"{name}.{part}").write_bytes(data)
        status = nordmesh(*check)
        output, error = capsys.readouterr()
        assert (status, output) == (1, ""), f"{way} was accepted: {output}"
        codes.setdefault(way, set()).update(re.findall(r"\[(backup-[a-z-]+)\]", error))
    print(f"{count} of {count} altered snapshots refused: {codes}")
    assert set().union(*codes.values()) == {"backup-altered", "backup-of-another-cluster"}
    for part, data in original.items():
        (folder / f"{name}.{part}").write_bytes(data)
    assert nordmesh(*check) == 0


def test_an_old_newest_snapshot_is_refused(
    plane: Plane,
    places: Callable[[str], Place],
    stack: Callable[[Place], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = places("directory")
    stack(place)
    assert nordmesh("check", *place.options) == 1
    assert "[backup-none]" in capsys.readouterr().err
    plane.machine.fake("date", "echo 20200101T000000Z")
    assert plane.store().status == 0
    assert nordmesh("check", *place.options) == 1
    assert "[backup-too-old]" in capsys.readouterr().err
    assert nordmesh("check", *place.options, "--max-age", "999999h") == 0


# --- the nightly proof ---------------------------------------------------------------------------


def cut_short(plane: Plane, place: Place) -> None:
    """Upload only half of the archive, as a full storage does."""
    assert plane.store(place.environment).status == 0
    (archive,) = (place.root / CLUSTER).glob("*.age")
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])


def old(plane: Plane, place: Place) -> None:
    store_at(plane, place, "20200101T000000Z")


def of_another_cluster(plane: Plane, place: Place) -> None:
    """Put a snapshot of another cluster that the same node wrote in the place of this one's."""
    time = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    name = store_at(plane, place, time)
    plane.install(settings_of(plane, place), place.secret, cluster="staging")
    store_at(plane, place, time)
    for part, data in files_of(place.root / "staging", name).items():
        (place.root / CLUSTER / f"{name}.{part}").write_bytes(data)


def lost_bucket(plane: Plane, place: Place) -> None:
    assert plane.store(place.environment).status == 0
    shutil.rmtree(place.root)


def absent(plane: Plane, place: Place) -> None:
    """Nothing was ever stored."""


def good(plane: Plane, place: Place) -> None:
    assert plane.store(place.environment).status == 0


@pytest.mark.parametrize(
    ("prepare", "status", "code"),
    [
        (cut_short, 1, "backup-altered"),
        (old, 1, "backup-too-old"),
        (of_another_cluster, 1, "backup-of-another-cluster"),
        pytest.param(absent, 1, "backup-none", marks=pytest.mark.long),
        (lost_bucket, 1, "backup-none"),
        # The stack was never deployed, so nobody knows the cluster to compare it with.
        (good, 3, ""),
    ],
)
def test_the_nightly_proof_fails_and_its_report_says_why(
    prepare: Callable[[Plane, Place], None],
    status: int,
    code: str,
    plane: Plane,
    places: Callable[[str], Place],
    stack: Callable[[Place], None],
) -> None:
    place = places("s3")
    stack(place)
    fill(plane.etcd)
    prepare(plane, place)
    shutil.copytree(paths.PROJECT / "ci", "ci")
    Path("lab").mkdir()
    Path("lab/bootstrap.sh").write_text("#!/bin/sh\n")
    Path("lab/bootstrap.sh").chmod(0o755)
    Path(".venv").symlink_to(sys.prefix)
    key = plane.identity.read_text()
    result = subprocess.run(
        ["ci/backup.sh", STACK, "report.txt"],
        env={**toolchain.environment(), "PYTHONPATH": str(paths.PROJECT), "BACKUP_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    report = Path("report.txt").read_text()
    print(report)
    assert result.returncode == status, result.stdout + result.stderr
    assert re.findall(r"\[(backup-[a-z-]+)\]", report) == [code] * bool(code)
    assert (f"etcd started from it: {OBJECTS} objects" in report) == (prepare in (good, old))
    assert "AGE-SECRET-KEY" not in result.stdout + result.stderr
