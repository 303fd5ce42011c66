"""Redirected SSH connections: test runs on one machine do not interfere."""

import subprocess
import threading
from pathlib import Path

import pytest

from tests.support import ssh_way
from tests.support.ssh_way import redirected


def test_a_network_is_redirected_by_one_run_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules: list[str] = []

    def run(command: list[str], **_: object) -> None:
        rules.append(f"{command[4]} {command[-1]}")

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(ssh_way, "gettempdir", lambda: str(tmp_path))

    def redirect(network: str, port: int) -> None:
        with redirected(network, port):
            pass

    def start(network: str, port: int) -> threading.Thread:
        thread = threading.Thread(target=redirect, args=(network, port), daemon=True)
        thread.start()
        return thread

    with redirected("192.0.2.0/24", 1):
        waiting = start("192.0.2.0/24", 2)
        start("198.51.100.0/24", 3).join(120)
        waiting.join(0.2)
        assert rules == ["-I 1", "-I 3", "-D 3"]
    waiting.join(120)
    assert rules[3:] == ["-D 1", "-I 2", "-D 2"]
