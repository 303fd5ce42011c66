"""The command `python -m tests.lanes`: the engine tests and the live tests, side by side.

Tests that are marked `long` are not in a lane: `python -m tests.lanes long` runs them alone.

Each lane is its own pytest process. Live tests wait for nodes much of the time, so two lanes
of them and the engine tests fill two cores. Ctrl-C reaches every lane, and each takes its labs down
before it ends.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from lab.build import available_memory
from lab.progress import duration
from tests.support.paths import PROJECT

_TESTS = PROJECT / "tests"

# The files that build their own labs, in two lanes of about the same time. The others share one.
OWN_LABS = (
    ("test_istio_life.py", "test_control_planes.py", "test_kvm.py"),
    (
        "test_bought.py",
        "test_preflight.py",
        "test_restore.py",
        "test_two_addresses.py",
        "test_cuts.py",
        "test_killed.py",
        "test_killed_planes.py",
        "test_replaced_planes.py",
    ),
)
# The engine test files that take longest; a worker that begins one last would be waited for.
_SLOW_ENGINE_FILES = ("test_backends.py", "test_review.py", "test_ci.py", "test_preflight.py")
_LONG = "long"  # the marker of pyproject.toml
# The last lane starts when another ends: two cores do not run four at once any faster.
_AT_ONCE = 3
# Two labs of up to three nodes, and two workers of engine tests (measured: 9 GiB).
_ROOMY_BYTES = 12 * 2**30
_COLUMNS = "320"  # room for a reason beside a test's name in pytest's summary
_FAILURES = ("FAILED ", "ERROR ")


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A command that runs beside others. nice: how far it stands back for them (nice(1))."""

    name: str
    command: tuple[str, ...]
    nice: int = 0


@dataclass(frozen=True, kw_only=True)
class _Result:
    """How a lane ended. failures: what pytest's summary says of each test that did not pass."""

    code: int
    seconds: float
    failures: tuple[str, ...] = ()


def _pytest(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-u", "-m", "pytest", "-v", "--durations=10", *arguments)


def _without_long(*arguments: str) -> tuple[str, ...]:
    return _pytest("-m", f"not {_LONG}", *arguments)


def _files(folder: str, *, first: tuple[str, ...] = ()) -> tuple[str, ...]:
    names = {path.name for path in (_TESTS / folder).glob("test_*.py")} - {*first}
    return tuple(f"tests/{folder}/{name}" for name in (*first, *sorted(names)))


def _engine_files() -> tuple[str, ...]:
    return _files("engine", first=_SLOW_ENGINE_FILES)


def _own_labs(names: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"tests/live/{name}" for name in names)


def _shared_lab() -> tuple[str, ...]:
    own = {name for names in OWN_LABS for name in names}
    return tuple(path for path in _files("live") if Path(path).name not in own)


def lanes() -> tuple[Lane, ...]:
    """All engine and live tests, in the order in which they start."""
    first, second = map(_own_labs, OWN_LABS)
    engine = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", *_engine_files())
    return (
        Lane(name="own labs 1", command=_without_long(*first)),
        Lane(name="shared lab", command=_without_long(*_shared_lab())),
        # Live tests measure times and shares; engine tests take the time that is left.
        Lane(name="engine", command=_without_long(*engine), nice=10),
        Lane(name="own labs 2", command=_without_long(*second)),
    )


def long_lane() -> Lane:
    """The tests that are marked `long`."""
    return Lane(name=_LONG, command=_pytest("-m", _LONG, "tests/engine", "tests/live"))


class Runner:
    """Runs lanes and prints their output line by line, each line with its lane's name."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._is_stopped = False

    def stop(self) -> None:
        """Interrupt all lanes, as Ctrl-C does, and start no more; each cleans up and ends."""
        with self._lock:
            self._is_stopped = True
            for process in self._running:
                process.send_signal(signal.SIGINT)

    def run(self, chosen: Sequence[Lane], *, at_once: int) -> bool:
        """Run all lanes to their end; whether all of them passed."""
        with ThreadPoolExecutor(at_once) as pool:
            results = list(pool.map(self._run, chosen))
        for lane, result in zip(chosen, results, strict=True):
            outcome = "passed" if result.code == 0 else f"failed (exit code {result.code})"
            self._say(f"{lane.name}: {outcome} in {duration(result.seconds)}")
        # Last, so that the end of a log says which tests failed.
        for lane, result in zip(chosen, results, strict=True):
            for failure in result.failures:
                self._say(f"[{lane.name}] {failure}")
        return all(result.code == 0 for result in results)

    def _run(self, lane: Lane) -> _Result:
        started = time.monotonic()
        with self._lock:
            if self._is_stopped:
                return _Result(code=-signal.SIGINT, seconds=0.0)
            process = subprocess.Popen(
                ["nice", "-n", str(lane.nice), *lane.command],
                cwd=PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env={**os.environ, "COLUMNS": _COLUMNS},
                # Signals come from `stop` alone: twice would cut the cleaning up short.
                start_new_session=True,
            )
            self._running.add(process)
        failures: list[str] = []
        assert process.stdout
        for line in process.stdout:
            self._say(f"[{lane.name}] {line.rstrip()}")
            if line.startswith(_FAILURES):
                failures.append(line.rstrip())
        code = process.wait()
        with self._lock:
            self._running.discard(process)
        seconds = time.monotonic() - started
        return _Result(code=code, seconds=seconds, failures=tuple(failures))


@click.command()
@click.argument("which", required=False, type=click.Choice([_LONG]))
def main(which: str | None) -> None:
    """Run the lanes, or the long tests alone; the exit status is 0 if all pass."""
    chosen = (long_lane(),) if which else lanes()
    runner = Runner(lambda line: print(line, flush=True))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: runner.stop())
    at_once = _AT_ONCE if available_memory() >= _ROOMY_BYTES else 1
    sys.exit(0 if runner.run(chosen, at_once=at_once) else 1)


if __name__ == "__main__":
    main(prog_name="python -m tests.lanes")
