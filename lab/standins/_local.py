"""Run commands on this machine, and collect the files that they write."""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.engine_values import SIGNATURE
from lab.standins._plugin import StepFailedError, end
from lab.standins._values import ARCHIVE, ASSET

_CHUNK = 65536

Sink = Callable[[bool, bytes], None]
"""Receives a piece of output: True for standard output, False for standard error."""


async def _read(stream: asyncio.StreamReader | None, is_stdout: bool, sink: Sink) -> None:
    while stream is not None and (data := await stream.read(_CHUNK)):
        sink(is_stdout, data)


async def _write(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    if stream is None:
        return
    # A command need not read what it is given.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    stream.close()


async def run_local(
    arguments: Sequence[str],
    *,
    directory: str | None,
    environment: Mapping[str, str],
    stdin: str,
    sink: Sink,
) -> str | None:
    """Run a program to its end; return what went wrong, or None when it exited with 0.

    `environment` is added to our own. Cancelling ends the program and its children.
    Raises StepFailedError when it cannot be started.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            cwd=directory,
            env={**os.environ, **environment},
            stdin=PIPE if stdin else DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            process_group=0,
        )
    except OSError as error:
        where = f" in directory {directory}" if directory else ""
        raise StepFailedError(f"cannot start {arguments[0]}{where}: {error.strerror}") from error
    try:
        await asyncio.gather(
            _write(process.stdin, stdin.encode()),
            _read(process.stdout, True, sink),
            _read(process.stderr, False, sink),
        )
        status = await process.wait()
    finally:
        if process.returncode is None:
            await asyncio.shield(end(process))
    if status < 0:
        return f"signal: {str(signal.strsignal(-status)).lower()}"
    return f"exit status {status}" if status else None


_GLOB = re.compile(r"\*\*|\*|\?|\[!?[^\]]+\]|[{},]|\\.|.", re.DOTALL)


def _pattern(glob: str) -> re.Pattern[str]:
    """A glob in the dialect of github.com/gobwas/glob, with / as the separator."""
    depth, parts = 0, []
    for piece in _GLOB.findall(glob):
        if piece in ("**", "*", "?"):
            parts.append({"**": ".*", "*": "[^/]*", "?": "[^/]"}[piece])
        elif piece.startswith("[") and len(piece) > 1:
            parts.append(piece.replace("[!", "[^", 1))
        elif piece == "{" or (piece == "}" and depth):
            depth += 1 if piece == "{" else -1
            parts.append("(?:" if piece == "{" else ")")
        elif piece == "," and depth:
            parts.append("|")
        else:
            parts.append(re.escape(piece[-1]))
    try:
        return re.compile("".join(parts), re.DOTALL)
    except re.error as error:
        raise StepFailedError(f"the glob {glob!r} cannot be read: {error}") from error


def find_assets(directory: str | None, globs: Sequence[str]) -> dict[str, Any]:
    """The files below `directory` that the globs name, as assets keyed by relative path.

    Globs are taken in order; one that begins with ! takes files out again.
    """
    root = Path(directory or ".").resolve()
    rules = [(glob.startswith("!"), _pattern(glob.removeprefix("!"))) for glob in globs]
    found: dict[str, Any] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            chosen = [not out for out, pattern in rules if pattern.fullmatch(relative)]
            if chosen and chosen[-1] and path.is_file():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[relative] = {SIGNATURE: ASSET, "path": str(path), "hash": digest}
    return dict(sorted(found.items()))


def archive_of(assets: dict[str, Any]) -> dict[str, Any]:
    """One archive that holds the assets."""
    return {SIGNATURE: ARCHIVE, "assets": assets}
