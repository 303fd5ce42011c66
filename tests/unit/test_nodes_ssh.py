"""Keys of nodes: where they are while the nodes are asked, and that nothing is left of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import paths
from tests.mocked import HOST_KEY, SSH_KEY

SSH = """#!/bin/sh
{ printf '%s\\n' "$*"; env; } >>"$LOG"
cat >/dev/null
for word in "$@"; do
    case $word in
    */key) stat -c '%a' "$word" >>"$LOG.mode"; cat "$word" >>"$LOG.key" ;;
    *KnownHostsFile=/*) cat "${word#*=}" >>"$LOG.known" ;;
    esac
done
[ -z "$SLOW" ] || exec sleep 30
echo yes
"""
PROGRAM = f"""
import signal
from stacks.nodes_ssh import Login, run

def end(number, _):
    raise SystemExit(128 + number)

signal.signal(signal.SIGTERM, end)
login = Login(
    host="192.0.2.11", user="admin", port=2222, host_key={HOST_KEY + " a comment"!r},
    private_key={SSH_KEY!r},
)
print(run({{"cp-1": (login, "the script")}}, seconds=20)["cp-1"].text, end="")
"""


class Desk:
    """A program that asks a node, by an ssh of the test's own."""

    def __init__(self, directory: Path) -> None:
        tools = directory / "bin"
        tools.mkdir()
        (tools / "ssh").write_text(SSH)
        (tools / "ssh").chmod(0o755)
        self.tmp, self.log = directory / "tmp", directory / "log"
        self.tmp.mkdir()
        self.environment = {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "TMPDIR": str(self.tmp),
            "LOG": str(self.log),
            "SLOW": "",
        }

    def start(self) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=paths.PROJECT,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_keys_are_in_private_files_only_and_host_keys_pinned(desk: Desk) -> None:
    with desk.start() as process:
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "yes\n")
    given = desk.log.read_text()
    assert "PRIVATE KEY" not in given
    assert "StrictHostKeyChecking=yes" in given
    assert "-p 2222 -l admin" in given
    assert "192.0.2.11 sudo -n timeout" in given
    assert "the script" not in given
    assert Path(f"{desk.log}.mode").read_text() == "600\n"
    assert Path(f"{desk.log}.key").read_text() == SSH_KEY
    assert f"node {HOST_KEY}\n" in Path(f"{desk.log}.known").read_text()
    assert list(desk.tmp.iterdir()) == []


def test_nothing_is_left_when_it_is_ended_while_a_node_is_asked(desk: Desk) -> None:
    desk.environment["SLOW"] = "yes"
    with desk.start() as process:
        deadline = time.monotonic() + 30
        while not Path(f"{desk.log}.key").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert list(desk.tmp.iterdir()) == []
