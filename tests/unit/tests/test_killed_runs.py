"""The moments at which runs are killed: all of a preview, and each once."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.killed_runs import (
    Moment,
    kill_at_each_moment,
    kill_with_descendants,
    moments,
    printed,
)

TYPE = "nordmesh:node:Node$command:remote:Command"
# A step that is done is in the file `done`; an interrupted one is done again.
RUN = """
import pathlib, sys, time
done = pathlib.Path("done")
for name in ("cp-4-init", "cp-4-member"):
    if name not in done.read_text():
        print(f" +  command:remote:Command {name} creating (0s)", flush=True)
        time.sleep(0.3)
        with done.open("a") as file:
            file.write(name)
        print(f" +  command:remote:Command {name} created (0.3s)", flush=True)
        time.sleep(0.3)
sys.exit(STATUS)
"""


def urn(name: str, type_: str = TYPE) -> str:
    return f"urn:pulumi:test::nordmesh::{type_}::{name}"


def test_a_preview_gives_the_beginning_and_the_end_of_each_script() -> None:
    steps = [
        {"op": "same", "urn": urn("cp-2-init")},
        {"op": "create", "urn": urn("cp-4", "nordmesh:kubernetes:ControlPlane")},
        {"op": "create", "urn": urn("cp-4-init")},
        {"op": "replace", "urn": urn("cp-4-guest", "command:local:Command")},
        {"op": "create-replacement", "urn": urn("cp-4-guest", "command:local:Command")},
        {"op": "delete", "urn": urn("cp-1-member")},
    ]
    assert [str(moment) for moment in moments(steps)] == [
        "cp-4-init creating",
        "cp-4-init created",
        "cp-4-guest creating replacement",
        "cp-4-guest created replacement",
        "cp-1-member deleting",
        "cp-1-member deleted",
    ]


def test_each_moment_of_the_output_counts_once() -> None:
    output = """
 +  command:remote:Command cp-4-init creating (0s)
@ updating....
 +  command:remote:Command cp-4-init creating (1s) == kubeadm join
 +  nordmesh:node:Node cp-4 created (2s)
 +  command:remote:Command cp-4-init **creating failed** 1 error
 ++ command:local:Command cp-4-guest creating replacement (0s)
 -  command:remote:Command cp-1-member deleted (3s)
"""
    assert [str(moment) for moment in printed(output)] == [
        "cp-4-init creating",
        "cp-4-guest creating replacement",
        "cp-1-member deleted",
    ]


@pytest.mark.parametrize("status", [0, 1])
def test_runs_are_killed_at_each_moment_until_one_ends(tmp_path: Path, status: int) -> None:
    log, after = tmp_path / "log", list[Moment]()
    (tmp_path / "done").touch()
    program = RUN.replace("STATUS", str(status))

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            command = [sys.executable, "-c", program]
            return subprocess.Popen(command, cwd=tmp_path, stdout=file, start_new_session=True)

    def run() -> None:
        killed = kill_at_each_moment(start, log, kill=kill_with_descendants, after=after.append)
        assert killed.at == after
        assert killed.reached == {Moment(name, word) for name, word in expected}

    names, words = ("cp-4-init", "cp-4-member"), ("creating", "created")
    expected = [(name, word) for name in names for word in words]
    if status:
        with pytest.raises(AssertionError):
            run()
    else:
        run()
    assert {(moment.resource, moment.word) for moment in after} <= set(expected)
    assert len(after) >= len(names)
