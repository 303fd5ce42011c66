"""Moments of a `pulumi up`, recognised by what runs on a node."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

from tests.live.harness import command_lines

_SECONDS = 300


def wait_for_program(
    process: "subprocess.Popen[bytes]", words: str, *, on: str, seconds: float = _SECONDS
) -> None:
    """Wait until a machine on a bridge runs a program with these words, while the run goes on.

    A script's whole text is an argument of its shell and does not count.
    """
    deadline = time.monotonic() + seconds
    while not any(words in line and "\n" not in line for line in command_lines(on=on)):
        assert process.poll() is None, "the run ended before the moment came"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_in_the_middle(
    process: "subprocess.Popen[bytes]", words: str, seconds: float, *, on: str
) -> None:
    """Kill a run and all its processes, so many seconds after a program starts on a bridge."""
    wait_for_program(process, words, on=on)
    time.sleep(seconds)
    assert process.poll() is None
    # A plugin is in a process group of its own, and would stay, and so would the program.
    started = list(_started_by(process.pid))
    os.killpg(process.pid, signal.SIGKILL)
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _started_by(pid: int) -> Iterator[int]:
    """The processes that a process has started, and those that these have."""
    children = subprocess.run(
        ["pgrep", "--parent", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    for child in map(int, children):
        yield child
        yield from _started_by(child)
