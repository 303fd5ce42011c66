"""Fail one call of a command that a script asks, and check what the script makes of it.

Each call of the commands that answer a script fails once, in each manner. A script may repeat the
call or fail; it must neither report success with work undone nor read the failure as an answer.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.unit.kills import Case, Files, copy, differences, files_and_states
from tests.unit.machine import FAULT, Machine

COMMANDS = (
    "apt-mark",
    "ctr",
    "dpkg-query",
    "istioctl",
    "kubeadm",
    "kubectl",
    "nft",
    "qemu-img",
    "systemctl",
    "virsh",
)
_TIMED_OUT = "net/http: request canceled (Client.Timeout exceeded while awaiting headers)"
# A status of 1 from dpkg-query is the answer that a package is not installed.
_STATUSES = {"dpkg-query": 2}
_MANNERS = f"""
    error) echo "the connection was refused" >&2; exit "$status" ;;
    silent) exit "$status" ;;
    lost)
        exec {{error}}>&2 >/dev/null 2>&1
        trap 'echo "{_TIMED_OUT}" >&"$error"; exit "$status"' EXIT
        ;;
"""


class Manner(StrEnum):
    """How a call fails.

    ERROR: it does nothing, and prints an error. SILENT: it does nothing, and prints nothing. LOST:
    it does its work, but its answer does not arrive in time.
    """

    ERROR = "error"
    SILENT = "silent"
    LOST = "lost"


@dataclass(frozen=True)
class Fault:
    """The n-th call of a command fails."""

    command: str
    call: int
    manner: Manner


@dataclass(frozen=True, kw_only=True)
class Faults:
    """A complete run of a case: how often it calls each command, and its result."""

    case: Case
    before: Machine
    status: int
    old: Files
    new: Files
    calls: dict[str, int]

    @classmethod
    def of(cls, case: Case, directory: Path) -> "Faults":
        """Run a case without a fault."""
        before = Machine.make(directory / "before")
        case.prepare(before)
        before.skip_waits()
        before.path("/calls").unlink(missing_ok=True)
        ended = copy(before, directory / "ended")
        result = case.run(ended)
        assert (result.status == 0) != case.is_refused, result.stderr
        old, new = files_and_states(before), files_and_states(ended)
        assert case.changes_nothing == (new == old)
        calls = {command: len(ended.calls(command)) for command in COMMANDS}
        return cls(case=case, before=before, status=result.status, old=old, new=new, calls=calls)

    def all(self) -> list[Fault]:
        """Each call in each manner."""
        return [
            Fault(command, call, manner)
            for command, count in self.calls.items()
            for call in range(1, count + 1)
            for manner in Manner
        ]

    def sample(self, size: int) -> list[Fault]:
        """Every k-th fault; always the same."""
        faults = self.all()
        # An odd step, so that the manners alternate.
        step = max(len(faults) // size, 1) | 1
        return faults[step // 2 :: step][:size]

    def problems(self, fault: Fault, root: Path) -> Iterator[str]:
        """Report what is wrong after a run with a fault, and after the run that follows it."""
        machine = copy(self.before, root)
        machine.write(FAULT, _fault(fault))
        faulty = self.case.run(machine)
        machine.path(FAULT).unlink()
        states = files_and_states(machine)
        if faulty.status == 0:
            yield from differences(self.new, states)
        elif "\n    fix   " not in faulty.stderr:
            yield f"the error has no fix: {faulty.stderr}"
        for path in self.case.keeps:
            if states.get(path) != self.old[path]:
                yield f"{path} is lost"
        if self.case.changes_nothing:
            yield from differences(self.old, states)
        if self.case.is_refused and faulty.status == 0:
            yield "the run succeeds"
        again = self.case.run(machine)
        if again.status != self.status:
            yield f"the next run exits with {again.status}: {again.stderr}"
            return
        yield from differences(self.new, files_and_states(machine))


def interrupted(faults: Faults, fault: Fault, directory: Path) -> list[str]:
    """Run a case with one fault; return what is wrong."""
    root = directory / f"{fault.command}-{fault.call}-{fault.manner}"
    where = f"{fault.manner} at call {fault.call} of {fault.command}"
    problems = [f"{where}: {problem}" for problem in faults.problems(fault, root)]
    shutil.rmtree(root)
    return problems


def _fault(fault: Fault) -> str:
    """The text that every fake runs first."""
    return f"""
if [ "${{0##*/}}" = {fault.command} ] && echo >>/fault-calls &&
    [ "$(wc -l </fault-calls)" = {fault.call} ]; then
    status={_STATUSES.get(fault.command, 1)}
    case {fault.manner} in
    {_MANNERS}
    esac
fi
"""
