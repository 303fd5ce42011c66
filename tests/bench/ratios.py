"""Measured times as ratios: two alternatives, run alternately on the same machine."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

Timed = Callable[[], float]
"""Does something and gives the seconds that it took."""


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Seconds of two alternatives, measured in pairs.

    limit: the maximum of the ratio; None if the ratio is only reported.
    """

    name: str
    beside: str
    ours: Sequence[float]
    theirs: Sequence[float]
    limit: float | None = None

    @property
    def pairs(self) -> list[float]:
        """Ratio of each pair, smallest first."""
        return sorted(mine / other for mine, other in zip(self.ours, self.theirs, strict=True))

    @property
    def value(self) -> float:
        """Median of the ratios; a slow machine affects both of a pair."""
        return median(self.pairs)

    @property
    def verdict(self) -> str:
        """Whether the ratio is within the limit, in words."""
        if self.limit is None:
            return "for information"
        return "over the limit" if self.value > self.limit else "within the limit"


def timed(action: Callable[[], object]) -> float:
    """Return the seconds that an action takes."""
    started = time.monotonic()
    action()
    return time.monotonic() - started


def in_turn(
    actions: Sequence[Timed], *, rounds: int, say: Callable[[str], None]
) -> list[list[float]]:
    """Return the seconds of each action in every round; the rounds rotate the order.

    The first round is a warm-up, which fills caches.
    """
    seconds: list[list[float]] = [[] for _ in actions]
    for action in actions:
        action()
    for number in range(rounds):
        for offset in range(len(actions)):
            index = (number + offset) % len(actions)
            seconds[index].append(actions[index]())
        last = ", ".join(_seconds(values[-1]) for values in seconds)
        say(f"{number + 1}/{rounds}: {last}")
    return seconds


def table(ratios: Sequence[Ratio]) -> str:
    """Format the ratios as a table, one per line, with their limits."""
    rows = [("", "nordmesh", "other", "ratio", "limit", "pairs", "")]
    for ratio in ratios:
        rows.append(
            (
                f"{ratio.name} / {ratio.beside}",
                _seconds(median(ratio.ours)),
                _seconds(median(ratio.theirs)),
                f"{ratio.value:.2f}",
                "-" if ratio.limit is None else f"{ratio.limit:.2f}",
                f"{len(ratio.pairs)} ({ratio.pairs[0]:.2f} to {ratio.pairs[-1]:.2f})",
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
