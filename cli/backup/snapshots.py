"""The format of a stored snapshot, as backup.sh writes it, and the check of who wrote it.

A snapshot is three files: the archive `.age`, encrypted to the team's keys; the `.manifest`, which
describes it; and the `.sig`, the manifest's signature by the machine's SSH host key. Nothing here
needs a private key.
"""

import base64
import binascii
import datetime
import hashlib
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from config.errors import NordmeshError

PARTS = ("age", "manifest", "sig")
"""The suffixes of a snapshot's files."""

_NAME = r"(?P<time>\d{8}T\d{6}Z)-(?P<node>[a-z0-9]([-a-z0-9.]*[a-z0-9])?)"
_TIME = "%Y%m%dT%H%M%SZ"
_PURPOSE = "nordmesh-backup"
_MANIFEST = re.compile(
    r"nordmesh-backup 1\n"
    r"cluster (?P<cluster>\S+)\n"
    r"node (?P<node>\S+)\n"
    r"time (?P<time>\S+)\n"
    r"revision (?P<revision>\d{1,19})\n"
    r"etcd (?P<etcd>\d[\d.]*)\n"
    r"ca (?P<ca>[0-9a-f]{64})\n"
    r"size (?P<size>\d{1,19})\n"
    r"sha256 (?P<sha256>[0-9a-f]{64})\n"
)
_SIGNATURE = re.compile(
    r"-----BEGIN SSH SIGNATURE-----\n(?P<body>[A-Za-z0-9+/=\n]+)\n-----END SSH SIGNATURE-----\n"
)
_LINE = 70  # of ssh-keygen's base64
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What the writer says of a snapshot. ca: the SHA-256 of the cluster's CA certificate.

    revision: etcd's, just before the snapshot. size, sha256: of the encrypted archive, in bytes and
    in hexadecimal.
    """

    cluster: str
    node: str
    time: datetime.datetime
    revision: int
    etcd: str
    ca: str
    size: int
    sha256: str


def time_of(name: str) -> datetime.datetime | None:
    """The time in the name of a snapshot; None if it is not the name of one."""
    match = re.fullmatch(_NAME, name)
    if match is None:
        return None
    try:
        return datetime.datetime.strptime(match["time"], _TIME).replace(tzinfo=datetime.UTC)
    except ValueError:
        return None


def complete(files: Iterable[str]) -> list[str]:
    """The names of the snapshots whose files are all there, oldest first."""
    stored = set(files)
    names = {file.rpartition(".")[0] for file in stored}
    return sorted(
        name
        for name in names
        if time_of(name) is not None and all(f"{name}.{part}" in stored for part in PARTS)
    )


def older(files: Iterable[str], limit: datetime.datetime) -> list[str]:
    """The files of snapshots from before a time, oldest first, also of incomplete ones.

    The newest complete snapshot is never among them.
    """
    stored = set(files)
    kept = complete(stored)[-1:]
    return sorted(
        file
        for file in stored
        if file.rpartition(".")[2] in PARTS
        and (name := file.rpartition(".")[0]) not in kept
        and (time := time_of(name)) is not None
        and time < limit
    )


def verify(
    folder: Path, name: str, *, cluster: str, signers: Mapping[str, Iterable[str]]
) -> Manifest:
    """Check the files of a snapshot in a folder, and return its manifest; raises NordmeshError.

    signers: the host keys of each node that may have written it.
    """
    manifest = verify_manifest(folder, name, cluster=cluster, signers=signers)
    archive = folder / f"{name}.age"
    size = archive.stat().st_size
    if size != manifest.size or _sha256(archive) != manifest.sha256:
        raise _altered(name, f"its archive is not the one that {manifest.node} wrote")
    return manifest


def verify_manifest(
    folder: Path, name: str, *, cluster: str, signers: Mapping[str, Iterable[str]]
) -> Manifest:
    """Check a snapshot's manifest and signature, without its archive; raises NordmeshError."""
    manifest = _parsed(name, (folder / f"{name}.manifest").read_bytes())
    if manifest.cluster != cluster:
        raise NordmeshError(
            f"this is a snapshot of the cluster {manifest.cluster}, not of {cluster}",
            code="backup-of-another-cluster",
            path=name,
            why="a restore would replace this cluster's objects with those of another one",
            fix="choose another snapshot; `nordmesh backup list` shows those of this cluster",
        )
    keys = list(signers.get(manifest.node, ()))
    if not keys:
        raise NordmeshError(
            f"{manifest.node} wrote the snapshot, and its host key is not known",
            code="backup-signer-unknown",
            path=name,
            why="without the key, a forged snapshot looks the same",
            fix=f"if that machine was replaced, pass --signer '{manifest.node} KEY' with its "
            "earlier hostKey, from the history of the stack file",
        )
    _verify_signature(folder, name, manifest.node, keys)
    return manifest


def _parsed(name: str, raw: bytes) -> Manifest:
    try:
        match = _MANIFEST.fullmatch(raw.decode("ascii"))
    except UnicodeDecodeError:
        match = None
    if match is None:
        raise _altered(name, "its manifest cannot be read")
    time = time_of(f"{match['time']}-{match['node']}")
    if time is None or name != f"{match['time']}-{match['node']}":
        raise _altered(name, f"its manifest is that of {match['time']}-{match['node']}")
    return Manifest(
        cluster=match["cluster"],
        node=match["node"],
        time=time,
        revision=int(match["revision"]),
        etcd=match["etcd"],
        ca=match["ca"],
        size=int(match["size"]),
        sha256=match["sha256"],
    )


def _verify_signature(folder: Path, name: str, node: str, keys: list[str]) -> None:
    signature = folder / f"{name}.sig"
    if not _is_canonical(signature.read_bytes()):
        raise _altered(name, "its signature cannot be read")
    allowed = folder / f"{name}.signers"
    allowed.write_text("".join(f'{node} namespaces="{_PURPOSE}" {key}\n' for key in keys))
    command = ["ssh-keygen", "-q", "-Y", "verify", "-f", str(allowed), "-I", node]
    command += ["-n", _PURPOSE, "-s", str(signature)]
    with (folder / f"{name}.manifest").open("rb") as stream:
        try:
            result = subprocess.run(command, stdin=stream, capture_output=True, check=False)
        except FileNotFoundError:
            raise missing("ssh-keygen", "openssh-client") from None
    if result.returncode:
        raise _altered(name, f"its signature is not from the host key of {node}")


def _is_canonical(raw: bytes) -> bool:
    """Whether a signature is written as ssh-keygen writes it, so that each byte of it counts."""
    match = _SIGNATURE.fullmatch(raw.decode("ascii", errors="replace"))
    if match is None:
        return False
    try:
        data = base64.b64decode(match["body"].replace("\n", ""), validate=True)
    except binascii.Error:
        return False
    text = base64.b64encode(data).decode()
    return match["body"] == "\n".join(
        text[start : start + _LINE] for start in range(0, len(text), _LINE)
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _altered(name: str, what: str) -> NordmeshError:
    return NordmeshError(
        what,
        code="backup-altered",
        path=name,
        why="it was damaged or tampered with, and a restore would bring back wrong data",
        fix="use another snapshot, and find out who can write to the storage",
    )


def missing(program: str, package: str) -> NordmeshError:
    """The error for a machine without a program that a command needs."""
    return NordmeshError(
        f"there is no {program} on PATH",
        code="backup-program-missing",
        fix=f"install it: Debian's package is {package}",
    )
