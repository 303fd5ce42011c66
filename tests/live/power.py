"""Machines of a lab that lose power or reboot, and start again."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from lab import services
from tests.live.counted import wait_for
from tests.live.harness import Project


def cut_power(project: Project, name: str) -> None:
    """Kill a machine with all its processes at once: the kernel does so with the first of them.

    Its cgroups go, too, as those of a real machine do; kubelet would look for their containers.
    """
    (supervisor,) = _supervisors(project, name)
    (first,) = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    os.kill(int(first), signal.SIGKILL)
    wait_for(f"{name} is off", lambda: not _supervisors(project, name), seconds=30)
    wait_for(f"{name} has no cgroups", lambda: _remove_cgroups(project, name), seconds=30)


def reboot(project: Project, name: str) -> None:
    """Shut a machine down in order, and start it again; sshd answers at the end."""
    address = project.machine_addresses()[name]
    # Later, so that this login ends before. By default a timer may fire a minute late.
    timer = "--on-active=1 --timer-property=AccuracySec=100ms"
    project.ssh(address, f"systemd-run --quiet {timer} systemctl poweroff")
    wait_for(f"{name} is off", lambda: not _supervisors(project, name), seconds=180)
    wait_for(f"{name} has no cgroups", lambda: _remove_cgroups(project, name), seconds=30)
    restore_power(project)


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


def _remove_cgroups(project: Project, name: str) -> bool:
    """Remove a machine's cgroups; whether none is left. Its last processes may still be ending."""
    for top in Path("/sys/fs/cgroup").glob(f"*/nordmesh.{project.bridge}.{name}"):
        for cgroup in sorted((top, *top.glob("**/")), key=lambda path: -len(path.parts)):
            with suppress(OSError):
                cgroup.rmdir()
    return not any(Path("/sys/fs/cgroup").glob(f"*/nordmesh.{project.bridge}.{name}"))
