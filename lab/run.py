"""Running programs with a log each, and telling the user how far the work is."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_TAIL_LINES = 20


class Failed(Exception):
    """A step failed; the message is meant for the user."""


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
            raise Failed("stopped because another step failed")

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

        Both of its streams go to `<logs>/<label>.log`. Raises `Failed` with the
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
        raise Failed(f"{label} failed (exit code {code}). The end of {log}:\n{tail}")

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
            raise Failed(f"{' '.join(command)} failed: {error}") from error


class Progress:
    """Counts finished steps: `[ 3/18] kubelet ... 2m43s`."""

    def __init__(self, say: Callable[[str], None], *, total: int) -> None:
        self._say = say
        self._total = total
        self._done = 0
        self._lock = threading.Lock()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time one step and say so when it is done."""
        started = time.monotonic()
        yield
        with self._lock:
            self._done += 1
            width = len(str(self._total))
            took = duration(time.monotonic() - started)
            self._say(f"[{self._done:{width}}/{self._total}] {name} ... {took}")
