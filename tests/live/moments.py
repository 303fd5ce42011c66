"""Wait for moments of a `pulumi up`, recognised by the processes on a node."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress

from lab import paths
from lab.stack import remove_empty_attributes
from tests.live.harness import command_lines

_SECONDS = 300


def wait_for_program(
    process: "subprocess.Popen[bytes]", arguments: str, *, on: str, seconds: float = _SECONDS
) -> None:
    """Wait during a run until a machine on a bridge runs a program with these arguments.

    The text of a script is an argument of its shell and does not count.
    """
    deadline = time.monotonic() + seconds
    while not any(arguments in line and "\n" not in line for line in command_lines(on=on)):
        assert process.poll() is None, "the run ended before the moment came"
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill_in_the_middle(
    process: "subprocess.Popen[bytes]", arguments: str, seconds: float, *, on: str
) -> None:
    """Kill a run and all its processes a number of seconds after a program starts on a bridge."""
    wait_for_program(process, arguments, on=on)
    time.sleep(seconds)
    assert process.poll() is None
    # Plugins and the program have their own process groups, so they would survive.
    started = list(_started_by(process.pid))
    os.killpg(process.pid, signal.SIGKILL)
    for pid in started:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
    remove_empty_attributes(paths.state().pulumi)


def _started_by(pid: int) -> Iterator[int]:
    """Return all descendants of a process."""
    children = subprocess.run(
        ["pgrep", "--parent", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split()
    for child in map(int, children):
        yield child
        yield from _started_by(child)
