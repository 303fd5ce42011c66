"""Show the progress of a long command: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import progress as bars
from rich.console import Console

# The interval of reports if the output is not a terminal.
REPORT_SECONDS = 30.0


def duration(seconds: float) -> str:
    """Seconds as `43s` or `2m43s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m{rest:02}s" if minutes else f"{rest}s"


class Progress:
    """Counts finished steps and reports those in progress.

    It prints `[ 3/18] kubelet ... 2m43s` for each finished step. While `watch` runs, it reports the
    steps in progress, how long they have taken and how many are left: on a terminal as a progress
    bar, elsewhere as a line every half minute.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        total: int,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        """`console` defaults to standard output."""
        self._say = say
        self._total = total
        self._clock = clock
        self._console = console or Console()
        self._done = 0
        self._running: dict[bars.TaskID, tuple[str, float]] = {}
        self._lock = threading.Lock()
        self._bars = bars.Progress(
            bars.TextColumn("      {task.description}"),
            bars.BarColumn(),
            bars.TextColumn("{task.fields[left]}"),
            bars.TimeElapsedColumn(),
            console=self._console,
            get_time=clock,
            refresh_per_second=2,
            transient=True,
        )
        self._overall = self._bars.add_task("all", total=total, left=self._left())

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and report its end."""
        started = self._clock()
        task = self._bars.add_task(name, total=None, left="")
        with self._lock:
            self._running[task] = (name, started)
        try:
            yield
        finally:
            with self._lock:
                del self._running[task]
            self._bars.remove_task(task)
        with self._lock:
            self._done += 1
            self._bars.update(self._overall, completed=self._done, left=self._left())
            width = len(str(self._total))
            took = duration(self._clock() - started)
            self._say(f"[{self._done:{width}}/{self._total}] {name} ... {took}")

    @contextmanager
    def watch(self, wait: Callable[[float], bool] | None = None) -> Iterator[None]:
        """Report the steps in progress until the block ends.

        wait: sleeps for so many seconds; true ends the reports that are lines.
        """
        if self._console.is_terminal:
            with self._bars:
                yield
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._report, args=(wait or ended.wait,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _report(self, wait: Callable[[float], bool]) -> None:
        while not wait(REPORT_SECONDS):
            with self._lock:
                if self._running:
                    self._say(self._in_progress())

    def _in_progress(self) -> str:
        now = self._clock()
        steps = (
            f"{name} for {duration(now - started)}" for name, started in self._running.values()
        )
        return f"in progress: {', '.join(steps)}; {self._left()}"

    def _left(self) -> str:
        return f"{self._total - self._done} of {self._total} left"
