"""A machine with an uploaded snapshot, and helpers that run the scripts of a restore on it."""

import hashlib
import io
import tarfile
from collections.abc import Mapping

from cli.restore.data import KEPT
from cli.restore.steps import UPLOAD
from tests.unit import node
from tests.unit.machine import Machine, Result

SNAPSHOT = "20261130T012058Z-cp-1"
RESTORING = "/etc/kubernetes/nordmesh-restoring"
STARTED = "/etc/kubernetes/nordmesh-started"
INITIALISED = "/etc/kubernetes/nordmesh-initialised.yaml"
DATABASE = "/var/lib/etcd/member/snap/db"
PKI = "/etc/kubernetes/pki"
FILES = {"member/snap/db": "the database", "member/wal/0.wal": "the log"}
FILES |= {f"pki/{name}": f"the text of {name}" for name in KEPT}
FILES["pki/encryption.yaml"] = node.KEYS


def bundle(files: Mapping[str, str] = FILES) -> bytes:
    """The file that `nordmesh restore` uploads."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text), 0o600
            archive.addfile(entry, io.BytesIO(text.encode()))
    return made.getvalue()


BUNDLE = bundle()
SHA256 = hashlib.sha256(BUNDLE).hexdigest()


def run(machine: Machine, file: str, **settings: str) -> Result:
    """Run one of the scripts of a restore."""
    return machine.run(file, {"ENDPOINT": node.ENDPOINT, "BUNDLE": UPLOAD, **settings})


def mark(machine: Machine, snapshot: str = SNAPSHOT) -> Result:
    return run(machine, "restore-mark.sh", SNAPSHOT=snapshot)


def place(
    machine: Machine, *, data: bytes = BUNDLE, snapshot: str = SNAPSHOT, sha256: str = SHA256
) -> Result:
    """Upload the data, and run the script that places it."""
    machine.write(UPLOAD, "", mode=0o600)
    machine.path(UPLOAD).write_bytes(data)
    return run(machine, "restore-place.sh", SNAPSHOT=snapshot, SHA256=sha256)


def look(machine: Machine, *, directory: str = "") -> dict[str, str]:
    """What the machine reports before a restore. directory: where it is to store snapshots."""
    result = run(machine, "restore-look.sh", DIRECTORY=directory)
    assert result.status == 0, result.stderr
    lines = (line.partition(" ") for line in result.stdout.splitlines())
    return {key: value for key, _, value in lines}


def prepared(machine: Machine) -> None:
    """An empty machine that node-prepare.sh has prepared, with the mark of a restore."""
    node.future_control_plane(machine)
    machine.write(RESTORING, f"{SNAPSHOT}\n")


def restore(machine: Machine) -> Result:
    """Place the data, and start the control plane."""
    result = place(machine)
    return result if result.status else node.init(machine)
