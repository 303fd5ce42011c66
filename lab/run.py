"""Run programs, each with its own log file."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lab.errors import LabError

_TAIL_LINES = 20


class Runner:
    """Runs programs, each with a log file, and can stop all of them at once."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._stopped = False

    def check(self) -> None:
        """Raise LabError if the work was stopped because another step failed."""
        if self._stopped:
            raise LabError("stopped because another step failed", code="lab-stopped")

    def stop(self) -> None:
        """Terminate all running programs; later commands raise."""
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
            details=tail,
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
        """Return the output of a short command without a log."""
        try:
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout
        except (OSError, subprocess.CalledProcessError) as error:
            raise LabError(f"{' '.join(command)} failed: {error}", code="lab-command") from error
