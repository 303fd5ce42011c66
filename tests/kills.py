"""The command `python -m tests.kills`: interrupt every script at each of its commands.

A survey finds the boundaries at which the machine differs; the run is interrupted at each of them
in each way, on a copy of the machine. Then each call of kubectl and of other commands that answer a
script fails once, in each manner. The next run must converge.
"""

import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import click

from tests.unit import faults, kills
from tests.unit.faults import Faults
from tests.unit.kill_cases import CASES, GUARDS
from tests.unit.kills import Rehearsal

T = TypeVar("T")
Shard = tuple[int, int]
"""The first of the chosen, from 1, and how many shards there are."""


def _shard(_context: click.Context, _parameter: click.Parameter, value: str) -> Shard:
    first, _, count = value.partition("/")
    return int(first), int(count)


@click.command()
@click.option("--case", "names", multiple=True, type=click.Choice(list(CASES | GUARDS)))
@click.option(
    "--shard", default="1/1", show_default=True, callback=_shard, help="K/N of each list."
)
@click.option("--jobs", default=os.cpu_count() or 1, show_default=True, help="Runs at a time.")
@click.option("--kills/--no-kills", "with_kills", default=True, show_default=True)
@click.option("--faults/--no-faults", "with_faults", default=True, show_default=True)
def main(
    names: Sequence[str], shard: Shard, jobs: int, *, with_kills: bool, with_faults: bool
) -> None:
    """Print how many of how many interruptions converge, by script and by way."""
    problems: list[str] = []
    with ThreadPoolExecutor(jobs) as pool:
        for name in names or CASES | GUARDS:
            if with_kills and name in CASES:
                problems += _run_kills(name, shard, pool)
            if with_faults:
                problems += _run_faults(name, shard, pool)
    for problem in problems:
        click.secho(problem, fg="red")
    sys.exit(1 if problems else 0)


def _run_kills(name: str, shard: Shard, pool: Executor) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        rehearsal = Rehearsal.of(CASES[name], Path(folder), is_survey=True)
        title = f"{name}: {len(rehearsal.boundaries)} boundaries"
        return _run(
            title,
            _chosen(rehearsal.all_stops(), shard),
            lambda stop: stop.how,
            lambda stop: kills.interrupted(rehearsal, stop, Path(folder)),
            pool,
        )


def _run_faults(name: str, shard: Shard, pool: Executor) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        complete = Faults.of((CASES | GUARDS)[name], Path(folder))
        return _run(
            f"{name}: {sum(complete.calls.values())} calls",
            _chosen(complete.all(), shard),
            lambda fault: f"{fault.command} {fault.manner}",
            lambda fault: faults.interrupted(complete, fault, Path(folder)),
            pool,
        )


def _chosen(items: Sequence[T], shard: Shard) -> Sequence[T]:
    first, count = shard
    return items[first - 1 :: count]


def _run(
    title: str,
    items: Sequence[T],
    way: Callable[[T], str],
    run: Callable[[T], list[str]],
    pool: Executor,
) -> list[str]:
    """Run each; print how many converged, by way; return the problems."""
    tried, converged, problems = Counter[str](), Counter[str](), list[str]()
    for item, found in zip(items, pool.map(run, items), strict=True):
        tried[way(item)] += 1
        converged[way(item)] += not found
        problems += [f"{title}: {problem}" for problem in found]
    ways = ", ".join(f"{name} {converged[name]} of {count}" for name, count in tried.items())
    total = f"{converged.total()} of {tried.total()}"
    click.echo(f"{title}: {total} converged ({ways})")
    return problems


if __name__ == "__main__":
    main()
