"""Interrupt a script in the middle, and check the files that it leaves and that the next run ends.

tests.unit.boundaries has the moments and the ways; kill_cases has the scripts.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from components.remote.node_command import FOLDER
from tests.unit import boundaries
from tests.unit.boundaries import Boundary, How, Stop
from tests.unit.machine import STARTUP, Machine, Result

_WATCHED = ("/etc", "/var/lib", "/usr/local/bin/", "/usr/local/lib", "/opt")
# What services loaded, and the states of servers: the cluster and libvirt.
_SERVERS = ("/services", "/enabled", "/cluster", "/domains", "/networks", "/autostart")
# Notes for the next run: scripts append lines to them.
_NOTES = ("host-changed", "held", "containerd.restart", "kubelet.restart")
_LEFT_OVER = re.compile(r"\.new(/|$)|\.part(ial)?$|/install\.|\.gone\.|/nordmesh-before/")

# Markers that vouch for other files: a script removes them before it changes those files.
_REMOVED_FIRST = re.compile(r"\.sha256$|^/etc/kubernetes/nordmesh-")
_KUBEADMS = re.compile(r"/etc/kubernetes/(?!nordmesh)|/var/lib/kubelet/")

Files = dict[str, tuple[int, bytes]]
"""Mode and content by path."""


def _nothing(machine: Machine) -> None:
    """Boot a machine on which nothing starts by itself."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A script to interrupt, on a machine that an earlier run may have prepared.

    prepare: prepares the machine. run: runs the script. secrets: values that no file may contain.
    erased: values that no file may contain after the next run.
    then: the next run, if it is not the same script again. boot: starts what starts at boot.
    stopped: reports what is wrong on a machine whose run was interrupted.
    rewrites: the paths that servers write, which may have any content meanwhile.
    always: prefixes of commands; each sample interrupts the last run of each of them.
    changes_nothing: whether the script only reads. is_refused: whether it fails, as it must.
    keeps: files that the script must never remove or change.
    """

    prepare: Callable[[Machine], None]
    run: Callable[[Machine], Result]
    secrets: tuple[bytes, ...] = ()
    erased: tuple[bytes, ...] = ()
    then: Callable[[Machine], Result] | None = None
    boot: Callable[[Machine], None] = _nothing
    stopped: Callable[[Machine, How], Iterator[str]] | None = None
    rewrites: str = "$^"
    always: tuple[str, ...] = ()
    changes_nothing: bool = False
    is_refused: bool = False
    keeps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rehearsal:
    """A complete run of a case: its boundaries, and the files before and after it.

    next: the files after the next run, if this run completes.
    """

    case: Case
    before: Machine
    old: Files
    new: Files
    next: Files
    boundaries: Sequence[Boundary]

    @classmethod
    def of(cls, case: Case, directory: Path, *, is_survey: bool) -> "Rehearsal":
        """Run a case without a stop. Fail if the script writes to an existing file in place."""
        before = Machine.make(directory / "before")
        case.prepare(before)
        before.write(STARTUP, boundaries.STARTUP_TEXT)
        old = files(before)
        # A survey looks at all files at each command.
        ended = replace(copy(before, directory / "ended"), timeout=600)
        links = _links(ended, directory / "links")
        boundaries.record(ended, is_survey=is_survey)
        result = case.run(ended)
        assert result.status == 0, boundaries.output(ended)
        overwritten = [path for path, link in links.items() if link.read_bytes() != old[path][1]]
        assert not [path for path in overwritten if not _is_exempt(case, path)], overwritten
        new = files(ended)
        assert case.changes_nothing or files_and_states(ended) != files_and_states(before)
        _check_left_overs(new)
        traced = boundaries.recorded(ended)
        if case.then:
            ended = copy(before, directory / "then")
            result = case.then(ended)
            assert result.status == 0, result.stderr
        return cls(case, before, old, new, files_and_states(ended), traced)

    def commands(self) -> Mapping[str, str]:
        """The text of each command by its number."""
        return {boundary.number: boundary.command for boundary in self.boundaries}

    def all_stops(self) -> list[Stop]:
        """The stops of a survey."""
        return boundaries.all_stops(self.boundaries)

    def sample(self, size: int) -> list[Stop]:
        """Every k-th of the likely stops; always the same."""
        stops = boundaries.likely_stops(self.boundaries)
        # An odd step, so that the ways to interrupt the run alternate.
        step = max(len(stops) // max(size, 1), 1) | 1
        chosen = stops[step // 2 :: step][:size]
        return [*map(self._last, self.case.always), *chosen]

    def _last(self, beginning: str) -> Stop:
        numbers = [b.number for b in self.boundaries if b.command.startswith(beginning)]
        return Stop(numbers[-1], How.KILL)

    def problems(self, stop: Stop, directory: Path) -> Iterator[str]:
        """Report what is wrong after an interrupted run, and after the run that follows it."""
        machine = copy(self.before, directory)
        boundaries.arm(machine, stop)
        stopped = self.case.run(machine)
        boundaries.disarm(machine)
        if stopped.status == 0:
            # The script exited with 0 anyway, so it must have written every file.
            yield from differences(self.new, files(machine))
        yield from self._torn(files(machine))
        yield from _leaked(machine, self.case.secrets)
        if self.case.stopped:
            yield from self.case.stopped(machine, stop.how)
        if stop.how is How.REBOOT:
            _reboot(machine, self.case)
        again = (self.case.then or self.case.run)(machine)
        if again.status:
            yield f"the next run fails: {again.stderr}"
            return
        yield from differences(self.next, files_and_states(machine))
        yield from _leaked(machine, self.case.erased)

    def _torn(self, current: Files) -> Iterator[str]:
        for path, file in current.items():
            if _is_exempt(self.case, path) or _LEFT_OVER.search(path):
                continue
            if file not in (self.old.get(path), self.new.get(path)):
                yield f"{path} is neither old nor new: {file}"
        for path in self.old.keys() & self.new.keys() - current.keys():
            if not _REMOVED_FIRST.search(path) and not _KUBEADMS.match(path):
                yield f"{path} is gone"


def check(case: Case, directory: Path, *, size: int) -> None:
    """Interrupt a case at a sample of its stops, and run it again."""
    rehearsal = Rehearsal.of(case, directory, is_survey=False)
    problems = [
        problem
        for stop in rehearsal.sample(size)
        for problem in interrupted(rehearsal, stop, directory)
    ]
    assert not problems, "\n".join(problems)


def interrupted(rehearsal: Rehearsal, stop: Stop, directory: Path) -> list[str]:
    """Interrupt a case at one stop; return what is wrong."""
    root = directory / f"{stop.how}-{stop.number}"
    command = rehearsal.commands()[stop.number]
    problems = [
        f"{stop.how} before {stop.number} ({command}): {problem}"
        for problem in rehearsal.problems(stop, root)
    ]
    shutil.rmtree(root)
    return problems


def files(machine: Machine) -> Files:
    """The files in the directories that a script may write to."""
    return _files_in(machine, _WATCHED)


def _files_in(machine: Machine, folders: Sequence[str]) -> Files:
    result: Files = {}
    for folder in folders:
        result |= _files_below(machine, folder)
    return result


def _reboot(machine: Machine, case: Case) -> None:
    """Empty what is only in memory, and start what starts at boot."""
    for folder in ("/run", "/tmp"):
        subprocess.run(["find", str(machine.path(folder)), "-mindepth", "1", "-delete"], check=True)
    case.boot(machine)


def _leaked(machine: Machine, secrets: tuple[bytes, ...]) -> Iterator[str]:
    if not secrets:
        return
    for path, (_, content) in _files_below(machine, "/").items():
        if not path.startswith("/commands/") and any(map(content.__contains__, secrets)):
            yield f"{path} has a secret"


def _is_exempt(case: Case, path: str) -> bool:
    """Whether a script may append to the file, or it belongs to kubeadm or a server."""
    exempt = (_KUBEADMS.match(path), re.match(case.rewrites, path))
    return path.endswith(_NOTES) or any(exempt)


def files_and_states(machine: Machine) -> Files:
    """The files, the copies that services loaded, and the states of servers."""
    return _files_in(machine, (*_WATCHED, *_SERVERS))


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


def differences(expected: Files, actual: Files) -> Iterator[str]:
    """Report the files that differ."""
    for path in sorted(expected.keys() | actual.keys()):
        if _as_set(path, expected.get(path)) != _as_set(path, actual.get(path)):
            yield f"{path} is {actual.get(path)}, not {expected.get(path)}"


def _as_set(path: str, file: tuple[int, bytes] | None) -> object:
    return set(file[1].splitlines()) if file and path.endswith(_NOTES) else file


def _check_left_overs(paths: Files) -> None:
    assert not [path for path in paths if _LEFT_OVER.search(path)]


def copy(machine: Machine, root: Path) -> Machine:
    """Copy a machine to a directory that does not exist yet."""
    subprocess.run(["cp", "-a", str(machine.root), str(root)], check=True)
    return Machine(root)
