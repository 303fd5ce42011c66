"""Measured times as ratios: two ways to do a thing, run in turn on the same machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

Timed = Callable[[], float]
"""Does something and gives the seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Seconds of one way beside seconds of another, run in pairs.

    limit: the highest ratio that is wanted; None where the ratio is only told.
    """

    name: str
    beside: str
    ours: Sequence[float]
    theirs: Sequence[float]
    limit: float | None = None

    @property
    def each(self) -> list[float]:
        """The ratio of each pair, smallest first."""
        return sorted(one / other for one, other in zip(self.ours, self.theirs, strict=True))

    @property
    def value(self) -> float:
        """The median of the pairs' ratios: what slows the machine down slows both of a pair."""
        return median(self.each)

    @property
    def verdict(self) -> str:
        """Whether the limit is kept."""
        if self.limit is None:
            return "for information"
        return "over the limit" if self.value > self.limit else "within the limit"


def timed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


def in_turn(ways: Sequence[Timed], *, rounds: int, say: Callable[[str], None]) -> list[list[float]]:
    """Seconds of each way, a list each; every round runs all of them, each time another first.

    A first round is not counted: it fills caches.
    """
    seconds: list[list[float]] = [[] for _ in ways]
    for way in ways:
        way()
    for number in range(rounds):
        for offset in range(len(ways)):
            index = (number + offset) % len(ways)
            seconds[index].append(ways[index]())
        last = ", ".join(_seconds(values[-1]) for values in seconds)
        say(f"{number + 1}/{rounds}: {last}")
    return seconds


def table(ratios: Sequence[Ratio]) -> str:
    """The ratios as a table, one a line, each beside its limit."""
    rows = [("", "nordmesh", "other", "ratio", "limit", "pairs", "")]
    for ratio in ratios:
        rows.append(
            (
                f"{ratio.name} / {ratio.beside}",
                _seconds(median(ratio.ours)),
                _seconds(median(ratio.theirs)),
                f"{ratio.value:.2f}",
                "-" if ratio.limit is None else f"{ratio.limit:.2f}",
                f"{len(ratio.each)} ({ratio.each[0]:.2f} to {ratio.each[-1]:.2f})",
                ratio.verdict,
            )
        )
    first, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = []
    for name, *cells in rows:
        aligned = [cell.rjust(width) for cell, width in zip(cells[:-1], widths, strict=False)]
        lines.append("  ".join([name.ljust(first), *aligned, cells[-1]]).rstrip())
    return "\n".join(lines)


def _seconds(value: float) -> str:
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
