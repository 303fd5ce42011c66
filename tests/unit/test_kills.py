"""The harness of interruptions finds scripts that do not converge, in each way."""

from pathlib import Path

import pytest

from tests.unit.boundaries import How
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
