"""Running programs with a log each, and telling the user how far the work is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from lab.errors import LabError

_TAIL_LINES = 20

# How often a long step says that it is under way: where output is kept, and on a terminal.
REPORT_SECONDS = 30.0
_REFRESH_SECONDS = 1.0


def duration(seconds: float) -> str:
    """Seconds as `43s` or `2m43s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Runner:
    """Runs programs, each with a log file, and can stop all of them at once."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def check(self) -> None:
        """Raise when the work was stopped because another step failed."""
        if self._stopped:
            raise LabError("stopped because another step failed", code="lab-stopped")

    def stop(self) -> None:
        """Terminate everything that runs; later commands raise."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)

    def run(
        self,
        label: str,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command to its end and return its standard output.

        Both of its streams go to `<logs>/<label>.log`. Raises LabError with the
        end of that log when the command fails.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{label}.log"
        output = self._logs / f".{label}.out"
        with log.open("w") as errors, output.open("w") as stdout:
            process = self._start(command, cwd, environment, stdout.fileno(), errors.fileno())
            code = process.wait()
        with self._lock:
            self._running.discard(process)
        text = output.read_text(errors="replace")
        output.unlink()
        if code == 0:
            return text
        with log.open("a") as errors:
            errors.write(text)
        self.check()
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise LabError(
            f"{label} failed (exit code {code})",
            code="lab-step-failed",
            fix=f"read the end of {log} below, then run this again",
            output=tail,
        )

    def _start(
        self,
        command: Sequence[str],
        cwd: Path | None,
        environment: Mapping[str, str] | None,
        stdout: int,
        stderr: int,
    ) -> subprocess.Popen[str]:
        # setpriv: when this process is killed the command must not live on
        # beside the next run.
        guarded = ["setpriv", "--pdeathsig", "TERM", "--", *command]
        with self._lock:
            self.check()
            process = subprocess.Popen(
                guarded,
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                text=True,
                start_new_session=True,
            )
            self._running.add(process)
        return process

    def output(self, command: Sequence[str]) -> str:
        """Standard output of a short command that needs no log."""
        try:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise LabError(f"{' '.join(command)} failed: {error}", code="lab-command") from error


class Progress:
    """Counts finished steps, and says which are under way.

    `[ 3/18] kubelet ... 2m43s` for each that is done. In between, while `watch` runs, what is being
    made, for how long, and how many are left: a line every half minute, or on a terminal one line
    that is kept up to date.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        total: int,
        clock: Callable[[], float] = time.monotonic,
        terminal: TextIO | None = None,
    ) -> None:
        """`terminal` defaults to standard output where that is a terminal."""
        self._say = say
        self._total = total
        self._clock = clock
        self._terminal = terminal or (sys.stdout if sys.stdout.isatty() else None)
        self._done = 0
        self._running: dict[object, tuple[str, float]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step and say so when it is done."""
        step, started = object(), self._clock()
        with self._lock:
            self._running[step] = (name, started)
        try:
            yield
        finally:
            with self._lock:
                del self._running[step]
        with self._lock:
            self._done += 1
            width = len(str(self._total))
            took = duration(self._clock() - started)
            self._clear()
            self._say(f"[{self._done:{width}}/{self._total}] {name} ... {took}")

    @contextmanager
    def watch(self, wait: Callable[[float], bool] | None = None) -> Iterator[None]:
        """Say what is under way until the block ends; `wait` takes seconds, true ends it."""
        ended = threading.Event()
        thread = threading.Thread(target=self._report, args=(wait or ended.wait,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            self._clear()

    def _report(self, wait: Callable[[float], bool]) -> None:
        while not wait(_REFRESH_SECONDS if self._terminal else REPORT_SECONDS):
            with self._lock:
                if not self._running:
                    continue
                if self._terminal is None:
                    self._say(self._under_way())
                    continue
                width = shutil.get_terminal_size().columns - 1
                self._clear()
                self._terminal.write(f"      {self._under_way()}"[:width])
                self._terminal.flush()

    def _under_way(self) -> str:
        now = self._clock()
        steps = ", ".join(f"{name} for {duration(now - at)}" for name, at in self._running.values())
        return f"in progress: {steps}; {self._total - self._done} of {self._total} left"

    def _clear(self) -> None:
        """Take the line that is kept up to date off the terminal."""
        if self._terminal is not None:
            self._terminal.write("\r\x1b[K")
            self._terminal.flush()
