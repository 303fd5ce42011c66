"""Wait for moments of a `pulumi up`, recognised by the processes on a node."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from lab.stack import Stack, remove_empty_attributes
from tests.live.harness import Project, command_lines
from tests.support.killed_runs import descendants, kill_each, kill_with_descendants

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
    project: Project, process: "subprocess.Popen[bytes]", arguments: str, seconds: float
) -> None:
    """Kill a run and all its processes a number of seconds after a program starts in its lab."""
    wait_for_program(process, arguments, on=project.bridge)
    time.sleep(seconds)
    assert process.poll() is None
    kill_with_descendants(process)
    remove_incomplete_files(project)


def remove_incomplete_files(project: Project) -> None:
    """Remove those that a killed run has left beside its state."""
    remove_empty_attributes(Stack(project=project.directory, name=project.stack).state_file())


def kill_sessions(project: Project) -> None:
    """Kill the SSH sessions on the machines of a lab, and what runs in them."""
    for session in list(_sessions(project.bridge)):
        kill_each([session, *descendants(session)])


def _sessions(bridge: str) -> Iterator[int]:
    for process in Path("/proc").glob("[0-9]*"):
        # A process may exit in the meantime.
        with suppress(OSError):
            is_in_lab = f"nordmesh.{bridge}." in (process / "cgroup").read_text()
            if is_in_lab and (process / "cmdline").read_bytes().startswith(b"sshd: root"):
                yield int(process.name)
