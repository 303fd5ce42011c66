"""Prove that a snapshot can be restored: decrypt it, and start an etcd from it.

That etcd listens on this machine only, and answers only to the certificates of the snapshot's own
PKI, because it has every Secret of the cluster.
"""

import hashlib
import mmap
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cli.backup import scratch_etcd
from cli.backup.snapshots import Manifest, missing
from cli.programs import captured
from components.manifests.hardening import ENCRYPTION_FILE
from config.errors import NordmeshError

_DIGEST = 32  # bytes of SHA-256 at the end of etcd's snapshots
_KEYS = ("ca.key", "sa.key", "etcd/ca.key", "front-proxy-ca.key")
_CHUNK = 1 << 20
# With which keys the API server encrypts Secrets; and how a value in etcd begins that is encrypted.
_ENCRYPTION = Path(ENCRYPTION_FILE).name
_ENCRYPTED, _KEY = b"k8s:enc:", re.compile(rb"k8s:enc:secretbox:v1:([^:]+):")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What etcd had after it started from a snapshot. keys: those of Kubernetes objects."""

    keys: Mapping[str, scratch_etcd.Revisions]
    revision: int

    @property
    def objects(self) -> int:
        return len(self.keys)


def prove(folder: Path, name: str, manifest: Manifest, identity: Path) -> Contents | None:
    """Decrypt a verified snapshot in a folder, and check its contents; raises NordmeshError.

    identity: a file with a private key of age. None if this machine does not have the programs of
    etcd, so that none was started.
    """
    _unpack(folder, name, identity)
    _check_contents(folder, name, manifest)
    if any(shutil.which(program) is None for program in scratch_etcd.PROGRAMS):
        return None
    with scratch_etcd.started(folder, name) as etcd:
        keys, (_, revision) = etcd.keys(), etcd.count()
        _check_secrets(folder / scratch_etcd.PKI, name, etcd.objects(scratch_etcd.SECRETS))
    if revision < manifest.revision:
        raise broken(name, f"its etcd is at revision {revision}, not {manifest.revision}")
    return Contents(keys=keys, revision=revision)


def _unpack(folder: Path, name: str, identity: Path) -> None:
    archive, compressed = folder / f"{name}.age", folder / "archive.tar.zst"
    decrypt = ["age", "--decrypt", "--identity", str(identity), "--output", str(compressed)]
    result = _run("age", [*decrypt, str(archive)])
    if result.returncode:
        raise NordmeshError(
            f"it cannot be decrypted: {result.stderr.strip().partition(chr(10))[0]}",
            code="backup-not-decrypted",
            path=name,
            why="a restore needs the same key",
            fix="pass the private half of a key that was in backup.keys at that time",
        )
    result = _run("zstd", ["zstd", "--decompress", "--quiet", "--rm", str(compressed)])
    if result.returncode:
        raise broken(name, f"it cannot be decompressed: {result.stderr.strip()}")
    try:
        with tarfile.open(folder / "archive.tar") as files:
            files.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise broken(name, f"it cannot be unpacked: {error}") from None
    (folder / "archive.tar").unlink()


def _check_contents(folder: Path, name: str, manifest: Manifest) -> None:
    database, pki = folder / scratch_etcd.DATABASE, folder / scratch_etcd.PKI
    authority = pki / "ca.crt"
    if not database.is_file() or not authority.is_file():
        raise broken(name, "the database or the CA is not in it")
    if hashlib.sha256(authority.read_bytes()).hexdigest() != manifest.ca:
        raise broken(name, "its CA is not the one in the manifest")
    absent = [key for key in _KEYS if not (pki / key).is_file()]
    if absent:
        raise broken(name, f"{', '.join(absent)} of the PKI is not in it")
    if not _is_whole(database):
        raise broken(name, "its database is cut short or altered")
    if not (pki / _ENCRYPTION).is_file() and _has_encrypted(database):
        raise broken(
            name, f"Secrets in it are encrypted, and their keys (pki/{_ENCRYPTION}) are not in it"
        )


def _has_encrypted(database: Path) -> bool:
    with database.open("rb") as stream, mmap.mmap(stream.fileno(), 0, prot=mmap.PROT_READ) as data:
        return data.find(_ENCRYPTED) != -1


def _check_secrets(pki: Path, name: str, secrets: Mapping[bytes, bytes]) -> None:
    """Refuse a snapshot with a Secret whose key is not in it. secrets: as etcd has them, by key."""
    file = pki / _ENCRYPTION
    keys = re.findall(rb"- name: (\S+)", file.read_bytes()) if file.is_file() else []
    for path, value in secrets.items():
        match = _KEY.match(value)
        if value.startswith(_ENCRYPTED) and (match is None or match[1] not in keys):
            key = match[1].decode(errors="replace") if match else "an unknown key"
            raise broken(name, f"{path.decode()} is encrypted with {key}, which is not in it")


def _is_whole(database: Path) -> bool:
    """Whether a snapshot of etcd ends with the SHA-256 of all before it."""
    digest, left = hashlib.sha256(), database.stat().st_size - _DIGEST
    with database.open("rb") as stream:
        while left > 0:
            chunk = stream.read(min(left, _CHUNK))
            digest.update(chunk)
            left -= len(chunk)
        return left == 0 and stream.read() == digest.digest()


def _run(program: str, command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return captured(command)
    except FileNotFoundError:
        raise missing(program, program) from None


def broken(name: str, what: str) -> NordmeshError:
    """The error for a snapshot that its writer signed, and that cannot be restored."""
    return NordmeshError(
        what,
        code="backup-broken",
        path=name,
        why="the cluster could not be restored from it",
        fix="use another snapshot; if the newest ones are broken too, check the disk of etcd",
    )
