"""`pulumi up` killed at the beginning and at the end of each script that an edit runs.

The preview of the edit lists these moments. Each run is killed at the first one that no earlier run
has reached, and the next run continues it: it must get past that moment to reach another.
"""

import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COMMANDS = ("command:local:Command", "command:remote:Command")
# The words that pulumi prints when an operation begins, and when it has ended.
_WORDS = {
    "create": ("creating", "created"),
    "create-replacement": ("creating replacement", "created replacement"),
    "delete": ("deleting", "deleted"),
    "delete-replaced": ("deleting original", "deleted original"),
    "update": ("updating", "updated"),
}
# The longest words first: one begins with another.
_ANY_WORD = "|".join(sorted((word for pair in _WORDS.values() for word in pair), reverse=True))
_PRINTED = re.compile(rf":Command (\S+) ({_ANY_WORD})\b")
_SECONDS = 1800.0


@dataclass(frozen=True, order=True)
class Moment:
    """A resource whose script has just begun, or has just ended, in the word of pulumi."""

    resource: str
    word: str

    def __str__(self) -> str:
        return f"{self.resource} {self.word}"


@dataclass(frozen=True, kw_only=True)
class Killed:
    """The moments that the runs reached, and those of them at which a run was killed."""

    reached: set[Moment]
    at: list[Moment]


def moments(steps: Iterable[Mapping[str, Any]]) -> list[Moment]:
    """List the moments of the steps of a preview (`pulumi preview --json`), in their order."""
    found = []
    for step in steps:
        _, _, type_, name = str(step["urn"]).split("::")
        if type_.rpartition("$")[2] in _COMMANDS:
            found += [Moment(name, word) for word in _WORDS.get(str(step["op"]), ())]
    return found


def printed(output: str) -> list[Moment]:
    """List the moments that pulumi has printed, in their order, each once."""
    return list(dict.fromkeys(Moment(*found) for found in _PRINTED.findall(output)))


def kill_at_each_moment(
    start: "Callable[[], subprocess.Popen[bytes]]",
    log: Path,
    *,
    kill: "Callable[[subprocess.Popen[bytes]], None]",
    after: Callable[[Moment], None],
) -> Killed:
    """Run until a run ends by itself, which must succeed; kill all before it.

    start: starts a run, which appends its output to the log. after: called after each kill.
    """
    reached, at = set[Moment](), list[Moment]()
    while True:
        begin = log.stat().st_size if log.exists() else 0
        process = start()

        def new(begin: int = begin) -> list[Moment]:
            text = log.read_bytes()[begin:].decode(errors="replace")
            return [moment for moment in printed(text) if moment not in reached]

        was_killed = _kill_at_first(process, new, kill)
        seen = new()
        reached.update(seen)
        if not was_killed:
            assert process.returncode == 0, log.read_bytes()[begin:].decode(errors="replace")
            return Killed(reached=reached, at=at)
        at.append(seen[-1])
        after(seen[-1])


def _kill_at_first(
    process: "subprocess.Popen[bytes]",
    new: Callable[[], list[Moment]],
    kill: "Callable[[subprocess.Popen[bytes]], None]",
) -> bool:
    """Kill a run when there is a new moment; whether there was one before its end."""
    deadline = time.monotonic() + _SECONDS
    while process.poll() is None:
        assert time.monotonic() < deadline
        if new():
            kill(process)
            return True
        time.sleep(0.02)
    return False


def kill_with_descendants(process: "subprocess.Popen[bytes]") -> None:
    """Kill a process that leads its group, and all that it has started; wait for its end."""
    # Plugins and the program have their own process groups, so they would survive.
    started = list(descendants(process.pid))
    os.killpg(process.pid, signal.SIGKILL)
    kill_each(started)
    process.wait()


def kill_each(pids: Iterable[int]) -> None:
    """Kill processes, of which some may have ended."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> Iterator[int]:
    """Return all descendants of a process, as they are at one moment.

    A process that has left its parent meanwhile, such as a machine that has started, is none.
    """
    listed = subprocess.run(
        ["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    children = defaultdict[int, list[int]](list)
    for child, parent in (map(int, line.split()) for line in listed):
        children[parent].append(child)

    def below(parent: int) -> Iterator[int]:
        for child in children[parent]:
            yield child
            yield from below(child)

    return below(pid)
