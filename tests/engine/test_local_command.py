"""local.Command with a real engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.engine.conftest import Project

    Projects = Callable[..., Project]


def test_each_step_runs_its_own_command(project: Projects, tmp_path: Path) -> None:
    program = """
import sys
it = local.Command("it", dir=settings["dir"],
    environment={"COLOUR": settings["colour"]},
    stdin="from stdin",
    create="echo create $COLOUR >> journal; cat",
    update="echo update $COLOUR after $PULUMI_COMMAND_STDOUT >> journal; echo changed >&2",
    delete="echo delete $COLOUR $PULUMI_COMMAND_STDERR >> journal",
    asset_paths=["**", "!*.tmp"])
python = local.Command("python", interpreter=[sys.executable, "-c"], create="print(6 * 7)")
pulumi.export("python", python.stdout)
pulumi.export("function", local.run_output(command="echo $((6 * 7))").stdout)
pulumi.export("stdout", it.stdout)
pulumi.export("assets", it.assets.apply(sorted))
"""
    directory = tmp_path / "there"
    directory.mkdir()
    (directory / "out.tmp").touch()
    journal = directory / "journal"
    stack = project(program, dir=str(directory), colour="red")
    stack.preview().ok()
    assert not journal.exists(), "a preview has run a command"
    stack.up().ok()
    assert stack.outputs() == {
        "stdout": "from stdin",
        "assets": ["journal"],
        "python": "42",
        "function": "42",
    }
    stack.write(program, dir=str(directory), colour="blue")
    stack.up().ok()
    stack.destroy().ok()
    assert journal.read_text().splitlines() == [
        "create red",
        "update blue after from stdin",
        "delete blue changed",
    ]


def test_a_failing_command_shows_its_output(project: Projects) -> None:
    program = """
local.Command("it", create="echo why it fails; exit 4")
local.Command("elsewhere", create="true", dir="/does/not/exist")
"""
    result = project(program).up("--continue-on-error").failed().output
    assert "exit status 4" in result
    assert "why it fails" in result
    assert "in directory /does/not/exist: No such file or directory" in result
