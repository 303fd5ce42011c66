"""Turn an unpacked snapshot into the files that a control plane gets."""

import hashlib
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from cli.backup import scratch_etcd
from cli.backup.proof import broken
from cli.backup.snapshots import missing
from cli.programs import captured
from config import ports
from config.errors import NordmeshError

PROGRAM = "etcdutl"
BUMP = 1_000_000_000
"""How much higher etcd's revision is after a restore.

Clients of the API server continue a watch from the revision that they saw last. It must never be
one that the restored cluster has not reached, or reaches with other content: they would miss
changes. Compacted, all of them read everything again.
"""
_BUMP_OPTIONS = ("--bump-revision", "--mark-compacted")
KEPT = (
    "ca.crt",
    "ca.key",
    "encryption.yaml",
    "etcd/ca.crt",
    "etcd/ca.key",
    "front-proxy-ca.crt",
    "front-proxy-ca.key",
    "sa.key",
    "sa.pub",
)
"""The files of the PKI that every control plane shares; kubeadm makes the others for the machine.

encryption.yaml: only of a cluster that encrypts its Secrets in etcd.
"""


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The file to upload, a tar archive with `member` and `pki`; sha256: in hexadecimal."""

    path: Path
    sha256: str


def require_program() -> None:
    """Refuse a machine without an etcdutl that can raise the revision; raises NordmeshError."""
    try:
        help_text = captured([PROGRAM, "snapshot", "restore", "--help"]).stdout
    except FileNotFoundError:
        raise missing(PROGRAM, "none; it is in etcd's releases, 3.5.10 or newer") from None
    if any(option not in help_text for option in _BUMP_OPTIONS):
        raise NordmeshError(
            f"{PROGRAM} has no {' and '.join(_BUMP_OPTIONS)}",
            code="restore-etcdutl-old",
            why="etcd's revision would go back, and kubelets and controllers would miss changes",
            fix=f"install {PROGRAM} 3.5.10 or newer, of the cluster's minor release of etcd",
        )


def bundle(folder: Path, name: str, *, node: str, address: str) -> Bundle:
    """Make the data directory of an etcd of one member, and add the PKI; raises NordmeshError.

    folder: has the unpacked snapshot. node, address: of the member. It has a new cluster id, so
    that no member of the old cluster can talk to it.
    """
    data, peer = folder / "restored", f"https://{address}:{ports.ETCD[-1]}"
    shutil.rmtree(data, ignore_errors=True)
    command = [PROGRAM, "snapshot", "restore", str(folder / scratch_etcd.DATABASE)]
    options = {
        "bump-revision": str(BUMP),
        "data-dir": str(data),
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"{node}={peer}",
        "initial-cluster-token": f"restored-{name}",
        "name": node,
    }
    result = captured(
        [*command, "--mark-compacted", *(f"--{key}={value}" for key, value in options.items())]
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        raise broken(name, f"etcdutl cannot restore it: {lines[-1] if lines else 'no message'}")
    path = folder / "bundle.tar.gz"
    path.touch(mode=0o600)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        archive.add(data / "member", "member", filter=_as_root)
        for file in KEPT:
            source = folder / scratch_etcd.PKI / file
            if source.exists():
                archive.add(source, f"pki/{file}", filter=_as_root)
    shutil.rmtree(data)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Bundle(path=path, sha256=digest)


def _as_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o700 if entry.isdir() else 0o600
    return entry
