"""Locks of a stack: whether the pulumi that holds one still runs."""

import shutil
import socket
import subprocess
from pathlib import Path

from lab.stack import Lock


def lock(pid: int, host: str = "") -> Lock:
    return Lock(pid=pid, host=host or socket.gethostname(), since="today")


def test_a_lock_is_held_while_its_pulumi_runs(tmp_path: Path) -> None:
    sleep = shutil.which("sleep")
    assert sleep
    pulumi = shutil.copy(sleep, tmp_path / "pulumi")
    process = subprocess.Popen([str(pulumi), "60"])
    held = lock(process.pid)
    assert held.holder_is_alive()
    process.kill()
    # Without a wait the process stays in the process table as a zombie.
    while Path(f"/proc/{process.pid}/stat").read_text().split(")")[1].split()[0] != "Z":
        pass
    assert not held.holder_is_alive()
    process.wait()
    assert not held.holder_is_alive()


def test_another_program_with_the_same_pid_does_not_hold_a_lock() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        assert not lock(other.pid).holder_is_alive()
        other.kill()


def test_a_lock_of_another_host_is_held() -> None:
    assert lock(1, host="elsewhere").holder_is_alive()
