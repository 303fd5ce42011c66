"""Interrupt a node's script in the middle, and check the files that it leaves.

A run stops before one of its commands: either all of its processes are killed, or the disk is full
from then on. Bash counts the commands in its DEBUG trap: 7 is the script's seventh command, and 7.1
the first command of the subshell that it starts.
"""

import random
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path

from components.node_command import FOLDER
from tests.unit.machine import STARTUP, Machine, Result

_STOP_AT, _COMMANDS = "/stop-at", "/commands-run"
# The bash that runs the script is the child of `timeout`, which is PID 1 of the machine. A limit of
# the file size simulates a full disk.
_STOP = """
sleep() { SECONDS=$((SECONDS + 25 + ${1%%.*})); }
if [ "$PPID" = 1 ] && [ -e /stop-at ]; then
    read -r stop_at stop_how </stop-at
    stop_shell=$BASHPID stop_prefix= stop_count=0
    stop_here() {
        if [ "$BASHPID" != "$stop_shell" ]; then
            stop_shell=$BASHPID stop_prefix=$stop_prefix$stop_count. stop_count=0
        fi
        stop_count=$((stop_count + 1))
        if [ "$stop_how" = trace ]; then
            printf '%s\\t%s\\n' "$stop_prefix$stop_count" "${1//$'\\n'/ }" >>/commands-run
        elif [ "$stop_prefix$stop_count" = "$stop_at" ]; then
            trap - DEBUG
            case $stop_how in
            kill) kill -KILL -1; kill -KILL "$BASHPID" ;;
            full) trap '' XFSZ; ulimit -S -f 0 ;;
            esac
        fi
    }
    set -T
    trap 'stop_here "$BASH_COMMAND"' DEBUG
fi
"""
# Commands that can change a file. For any other command, a kill after it equals a kill before it.
_CHANGING = re.compile(
    r"(?:apt-mark|chmod|cp|find|install|kubeadm|mkdir|mv|nft|rm|rmdir|systemctl|systemd-run|tar|touch"
    r"|as_admin|request|\"\$@\"|DEBIAN_FRONTEND=)[ ]?"
)
_WRITING = re.compile(r"(?<![<2&])>>? (?!&|/dev/null)")
_WATCHED = ("/etc", "/var/lib", "/usr/local/bin/", "/usr/local/lib", "/opt")
_SERVICES = "/services"
# Notes for the next run: scripts append lines to them.
_NOTES = ("host-changed", "held", "containerd.restart", "kubelet.restart")
_LEFT_OVER = re.compile(r"\.new(/|$)|\.part$|/install\.")

# Markers that vouch for other files: a script removes them before it changes those files.
_REMOVED_FIRST = re.compile(r"\.sha256$|^/etc/kubernetes/nordmesh-")
_KUBEADMS = re.compile(r"/etc/kubernetes/(?!nordmesh)|/var/lib/kubelet/")

Files = dict[str, tuple[int, bytes]]
"""Mode and content by path."""


class How(StrEnum):
    """How a run is interrupted."""

    KILL = "kill"
    FULL = "full"


@dataclass(frozen=True)
class Stop:
    """Interrupt a run before the command with this number."""

    number: str
    how: How


@dataclass(frozen=True, kw_only=True)
class Case:
    """A script to interrupt, on a machine that an earlier run may have prepared.

    prepare: prepares the machine. run: runs the script. secrets: values that no file may contain.
    then: the next run, if it is not the same script again.
    always: prefixes of commands; each sample interrupts the last run of each of them.
    """

    prepare: Callable[[Machine], None]
    run: Callable[[Machine], Result]
    secrets: tuple[bytes, ...] = ()
    then: Callable[[Machine], Result] | None = None
    always: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rehearsal:
    """A complete run of a case: its commands, and the files before and after it.

    next: the files after the next run, if this run completes.
    """

    case: Case
    before: Machine
    old: Files
    new: Files
    next: Files
    commands: Mapping[str, str]

    @classmethod
    def of(cls, case: Case, directory: Path) -> "Rehearsal":
        """Run a case without a stop. Fail if the script writes to an existing file in place."""
        before = Machine.make(directory / "before")
        before.write(STARTUP, _STOP)
        case.prepare(before)
        old = files(before)
        ended = _copy(before, directory / "ended")
        links = _links(ended, directory / "links")
        ended.write(_STOP_AT, "0 trace\n")
        result = case.run(ended)
        assert result.status == 0, result.stderr
        overwritten = [path for path, link in links.items() if link.read_bytes() != old[path][1]]
        assert not [path for path in overwritten if not _is_exempt(path)], overwritten
        new = files(ended)
        assert new != old
        _check_left_overs(new)
        lines = ended.read(_COMMANDS).splitlines()
        commands = dict(line.split("\t", 1) for line in lines if "\t" in line)
        if case.then:
            ended = _copy(before, directory / "then")
            result = case.then(ended)
            assert result.status == 0, result.stderr
        return cls(case, before, old, new, _files_and_loaded(ended), commands)

    def stops(self) -> list[Stop]:
        """List the stops that can leave different files from the stop before them."""
        numbers = list(self.commands)
        changing = [n for n, text in self.commands.items() if _CHANGING.match(text)]
        writing = [n for n, text in self.commands.items() if _WRITING.search(text)]
        after = dict(pairwise(numbers))
        killed = {*changing, *writing, *(after.get(n, n) for n in (*changing, *writing))}
        return [
            *(Stop(number, How.KILL) for number in numbers if number in killed),
            *(Stop(number, How.FULL) for number in writing),
        ]

    def sample(self, size: int, *, seed: int = 1) -> list[Stop]:
        """Sample the stops evenly over the run. The same seed gives the same sample."""
        chance = random.Random(seed)  # noqa: S311
        stops = self.stops()
        slots = [len(stops) * slot // max(size, 1) for slot in range(size + 1)]
        chosen = [stops[chance.randrange(start, end)] for start, end in pairwise(slots)]
        return [*map(self._last, self.case.always), *chosen]

    def _last(self, beginning: str) -> Stop:
        numbers = [n for n, text in self.commands.items() if text.startswith(beginning)]
        return Stop(numbers[-1], How.KILL)

    def problems(self, stop: Stop, directory: Path) -> Iterator[str]:
        """Report what is wrong after an interrupted run, and after the run that follows it."""
        machine = _copy(self.before, directory)
        machine.write(_STOP_AT, f"{stop.number} {stop.how}\n")
        stopped = self.case.run(machine)
        if stopped.status == 0:
            # The script exited with 0 anyway, so it must have written every file.
            yield from _differences(self.new, files(machine))
        yield from self._torn(files(machine))
        yield from self._leaked_secrets(machine)
        machine.path(_STOP_AT).unlink()
        again = (self.case.then or self.case.run)(machine)
        if again.status:
            yield f"the next run fails: {again.stderr}"
            return
        yield from _differences(self.next, _files_and_loaded(machine))

    def _torn(self, current: Files) -> Iterator[str]:
        for path, file in current.items():
            if _is_exempt(path) or _LEFT_OVER.search(path):
                continue
            if file not in (self.old.get(path), self.new.get(path)):
                yield f"{path} is neither old nor new: {file}"
        for path in self.old.keys() & self.new.keys() - current.keys():
            if not _REMOVED_FIRST.search(path):
                yield f"{path} is gone"

    def _leaked_secrets(self, machine: Machine) -> Iterator[str]:
        for path, (_, content) in _files_below(machine, "/").items():
            if not path.startswith("/commands/") and any(
                map(content.__contains__, self.case.secrets)
            ):
                yield f"{path} has a secret"


def check(case: Case, directory: Path, *, size: int | None) -> None:
    """Interrupt a case at `size` of its stops, or at each if None, and run it again."""
    rehearsal = Rehearsal.of(case, directory)
    problems = []
    for stop in rehearsal.stops() if size is None else rehearsal.sample(size):
        machine_directory = directory / f"{stop.how}-{stop.number}"
        errors = list(rehearsal.problems(stop, machine_directory))
        command = rehearsal.commands[stop.number]
        problems += [f"{stop.how} before {stop.number} ({command}): {error}" for error in errors]
        _remove(machine_directory)
    assert not problems, "\n".join(problems)


def files(machine: Machine) -> Files:
    """The files in the directories that a script may write to."""
    result: Files = {}
    for folder in _WATCHED:
        result |= _files_below(machine, folder)
    return result


def _is_exempt(path: str) -> bool:
    """Whether a script may append to the file, or kubeadm owns it."""
    return path.endswith(_NOTES) or bool(_KUBEADMS.match(path))


def _files_and_loaded(machine: Machine) -> Files:
    """The files, and the copies that services loaded."""
    return files(machine) | _files_below(machine, _SERVICES)


def _files_below(machine: Machine, folder: str) -> Files:
    top = machine.path(folder)
    return {
        f"{folder.rstrip('/')}/{path.relative_to(top)}": (
            path.stat().st_mode & 0o7777,
            path.read_bytes(),
        )
        for path in sorted(top.rglob("*"))
        if path.is_file() and not path.is_symlink() and machine.path(FOLDER) not in path.parents
    }


def _links(machine: Machine, directory: Path) -> Mapping[str, Path]:
    """Hard-link every file: a write to a file in place also changes its link."""
    directory.mkdir()
    links = {}
    for number, path in enumerate(files(machine)):
        links[path] = directory / str(number)
        links[path].hardlink_to(machine.path(path))
    return links


def _differences(expected: Files, actual: Files) -> Iterator[str]:
    for path in sorted(expected.keys() | actual.keys()):
        if _as_set(path, expected.get(path)) != _as_set(path, actual.get(path)):
            yield f"{path} is {actual.get(path)}, not {expected.get(path)}"


def _as_set(path: str, file: tuple[int, bytes] | None) -> object:
    return set(file[1].splitlines()) if file and path.endswith(_NOTES) else file


def _check_left_overs(paths: Files) -> None:
    assert not [path for path in paths if _LEFT_OVER.search(path)]


def _copy(machine: Machine, root: Path) -> Machine:
    subprocess.run(["cp", "-a", str(machine.root), str(root)], check=True)
    return Machine(root)


def _remove(root: Path) -> None:
    subprocess.run(["rm", "-rf", str(root)], check=True)
