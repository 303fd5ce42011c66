"""Machines of a lab that lose power, and start again."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from lab import services
from tests.live.counted import wait_for
from tests.live.harness import Project


def cut_power(project: Project, name: str) -> None:
    """Kill a machine with all its processes at once."""
    (supervisor,) = _supervisors(project, name)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(f"{name} is off", lambda: not _processes(project, name), seconds=30)


def restore_power(project: Project) -> None:
    """Start the machines of the stack file that are off."""
    services.start_stopped_machines(services.read_lab(project.directory, project.stack), print)


def _supervisors(project: Project, name: str) -> list[int]:
    root = f"--directory={project.state_directory / 'machines' / name / 'root'}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # A process may exit in the meantime.
        with suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if words[0].endswith(b"systemd-nspawn") and root in words:
                found.append(int(path.parent.name))
    return found


def _processes(project: Project, name: str) -> set[str]:
    found: set[str] = set()
    cgroups = Path("/sys/fs/cgroup").glob(f"**/nordmesh.{project.bridge}.{name}")
    for file in (file for cgroup in cgroups for file in cgroup.glob("**/cgroup.procs")):
        with suppress(OSError):
            found |= set(file.read_text().split())
    return found
