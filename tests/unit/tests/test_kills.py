"""The harness of interruptions has every script, and finds those that do not converge."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from components.remote import node_command
from components.remote.node_command import Script
from tests.unit.boundaries import How
from tests.unit.kill_cases import CASES, NOT_INTERRUPTED
from tests.unit.kills import Case, Rehearsal, interrupted
from tests.unit.machine import Machine, Result

GOOD = """
[ -e /etc/b ] || { echo data >/etc/b.new && mv /etc/b.new /etc/b; } || exit
echo progress
[ -e /etc/c ] || touch /etc/c
"""
BAD = {
    How.KILL: "[ -e /etc/c ] || { touch /etc/c; echo data >/etc/b; }",
    How.TERM: """
        trap 'touch /etc/ended' EXIT
        [ ! -e /etc/ended ] || exit 1
        touch /etc/b
        trap - EXIT""",
    How.CUT: "[ -e /etc/c ] || { touch /etc/c; echo progress; touch /etc/b; }",
    How.FULL: "[ -e /etc/c ] || { echo data >/etc/b; touch /etc/c; }",
    How.REBOOT: "[ -e /etc/c ] || { echo data >/run/b; touch /etc/c; }; cp /run/b /etc/b",
}


def failures(directory: Path, text: str, *ways: How) -> int:
    """Interrupt a script at each of its commands in some ways, and count the failures."""

    def run(machine: Machine) -> Result:
        machine.write("/script", text)
        return machine.shell("timeout 600 bash /script")

    case = Case(prepare=lambda _: None, run=run)
    rehearsal = Rehearsal.of(case, directory, is_survey=True)
    stops = [stop for stop in rehearsal.all_stops() if stop.how in ways]
    assert stops
    return sum(bool(interrupted(rehearsal, stop, directory)) for stop in stops)


@pytest.mark.parametrize("how", How)
def test_a_script_that_does_not_converge_is_found(tmp_path: Path, how: How) -> None:
    assert failures(tmp_path / "machine", BAD[how], how) > 0


def test_a_script_that_converges_passes(tmp_path: Path) -> None:
    assert failures(tmp_path / "machine", GOOD, *How) == 0


class Asked(Exception):
    """Raised in place of a run; its text is the script."""


@dataclass(frozen=True)
class Deaf(Machine):
    """A machine that runs nothing."""

    def command(self, script: Script) -> str:
        raise Asked(script.file)


def script_of(case: Case, machine: Machine) -> str:
    """The first script that a case runs."""
    with pytest.raises(Asked) as asked:
        case.run(machine)
    return str(asked.value)


def test_every_script_is_interrupted(tmp_path: Path) -> None:
    """A new script without a case fails here."""
    machine = Deaf(Machine.make(tmp_path / "machine").root)
    covered = {script_of(case, machine) for case in CASES.values()}
    folder = Path(node_command.__file__).parents[1] / "scripts"
    uses = {path.name: node_command.uses(path.read_text()) for path in folder.glob("*.sh")}
    libraries = {"lib.sh"}.union(*uses.values())
    assert covered | NOT_INTERRUPTED.keys() == uses.keys() - libraries
    assert not covered & NOT_INTERRUPTED.keys()
    print(f"{len(CASES)} cases of {len(covered)} scripts; not interrupted: {NOT_INTERRUPTED}")
