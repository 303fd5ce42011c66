"""Download a file with a known checksum, and resume where the last attempt ended."""

import fcntl
import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from config.errors import NordmeshError

Say = Callable[[str], None]

_ATTEMPTS = 5
_BLOCK = 2**20
_SAY_SECONDS = 5.0
_TIMEOUT = 60
_BUSY = (408, 425, 429)


@dataclass(frozen=True, kw_only=True)
class Done:
    """The result for an artifact: its size in bytes, and whether anything was copied."""

    size: int
    is_new: bool
    note: str = ""


def fetch(url: str, sha256: str, target: Path, say: Say) -> Done:
    """Download a file unless it is there; raises NordmeshError.

    It is written to a temporary file beside the target, and renamed when its checksum matches.
    """
    if target.is_file() and _sha256(target) == sha256:
        return Done(size=target.stat().st_size, is_new=False)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    with partial.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NordmeshError(
                f"another run is writing {partial}", code="mirror-busy", fix="wait for it to end"
            ) from None
        had = file.seek(0, 2)
        if not had or _sha256(partial) != sha256:
            had = _fill(url, sha256, file, partial, say)
        size = file.seek(0, 2)
        partial.chmod(0o644)
        partial.replace(target)
    return Done(size=size, is_new=True, note=f"continued after {megabytes(had)}" if had else "")


def _fill(url: str, sha256: str, file: IO[bytes], partial: Path, say: Say) -> int:
    """Fill a file until its checksum matches; return where the last piece began."""
    begun_at = _rest(url, file, say)
    if begun_at and _sha256(partial) != sha256:
        # The first part may belong to another file: download it again, in one piece.
        file.truncate(0)
        begun_at = _rest(url, file, say)
    got = _sha256(partial)
    if got != sha256:
        file.truncate(0)
        raise NordmeshError(
            f"{url} serves another file: its sha256 is {got}, the lock file says {sha256}",
            code="wrong-checksum",
            why="the file may have been tampered with; it was not kept",
            fix="find out which of the two is right before you change the lock file",
        )
    return begun_at


def _rest(url: str, file: IO[bytes], say: Say) -> int:
    """Download the rest of a file, with retries; return where the last piece began."""
    failures = 0
    while True:
        end = file.seek(0, 2)
        try:
            return _append(url, file, say)
        except urllib.error.HTTPError as error:
            if error.code == 416:
                file.truncate(0)
            elif error.code < 500 and error.code not in _BUSY:
                raise NordmeshError(
                    f"{url} answers with status {error.code} {error.reason}", code="download-failed"
                ) from None
            problem = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(error) or type(error).__name__
        came = file.seek(0, 2)
        failures = 1 if came > end + _BLOCK else failures + 1
        if failures == _ATTEMPTS:
            raise NordmeshError(
                f"{url} failed {_ATTEMPTS} times, the last time with: {problem}",
                code="download-failed",
                fix=f"run the command again; it continues after the first {megabytes(came)}",
            )
        say(f"      cut off at {megabytes(came)} ({problem}); continuing")
        time.sleep(2.0**failures / 4)


def _append(url: str, file: IO[bytes], say: Say) -> int:
    """Request the rest of a file, or all of it; return where the response begins."""
    first = file.seek(0, 2)
    headers = {"Range": f"bytes={first}-"} if first else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  http or https, as checked
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:  # noqa: S310
        placed = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if response.status != 206 or placed is None or int(placed[1]) != first:
            file.truncate(0)
            first = 0
        length = response.headers.get("Content-Length")
        total = first + int(length) if length else None
        reported, end = time.monotonic(), first
        while block := response.read1(_BLOCK):
            _write(file, block)
            end += len(block)
            if time.monotonic() - reported > _SAY_SECONDS:
                reported = time.monotonic()
                say(f"      {megabytes(end)}{f' of {megabytes(total)}' if total else ''}")
        if total is not None and end < total:
            raise ConnectionError(f"the server ended after {end} of {total} bytes")
    return first


def _write(file: IO[bytes], block: bytes) -> None:
    try:
        file.write(block)
        file.flush()
    except OSError as error:
        raise NordmeshError(
            f"the file cannot be written: {error.strerror}", code="disk-full", path=str(file.name)
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def megabytes(size: int) -> str:
    """A size in bytes, for people."""
    return f"{size / 1e6:.1f} MB"
