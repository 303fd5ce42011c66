"""The command `python -m tests.bench`: measure all ratios in one run on one machine."""

import os
import signal
import sys
import time
from statistics import median
from types import FrameType

import click

from lab import build as artifacts
from lab import host
from lab.errors import LabError
from lab.progress import duration
from tests.bench import before, build, large, latency, mesh_cost, propagation, small_runs
from tests.bench.bench_lab import BenchLab, open_bench_lab
from tests.bench.ratios import Ratio, table

PLANES, NODE = ONLY = ("planes", "node")


@click.command()
@click.option("--runs", default=1, show_default=True, help="Builds of a cluster, each way.")
@click.option("--pairs", default=9, show_default=True, help="Pairs of each of the small runs.")
@click.option("--only", type=click.Choice(ONLY), help="Measure nothing else; `node` needs no lab.")
@click.option("--before", "revision", help="Compare only with this Git revision; needs no lab.")
def bench(runs: int, pairs: int, only: str | None, revision: str | None) -> None:
    """Compare `pulumi up` with the same steps by hand, for one control plane and for three, and
    with bare Pulumi programs. Measure how fast a weight reaches the proxies, the overhead of the
    mesh per request, previews of large stacks, the cost of a slow SSH connection, and that of one
    more node.

    It creates a separate lab, and always deletes it at the end.
    """
    started = time.monotonic()
    if revision is not None:
        _title(f"This program beside {revision}")
        ratios, notes = before.measure(revision, pairs=pairs, say=_say), list[str]()
    elif only == NODE:
        ratios, notes = [_measure_node()], []
    else:
        _title("Artifacts: what is missing is made")
        host.install_packages(_say, host.PACKAGES)
        host.prepare_kernel(_say)
        artifacts.make_all(say=_say)
        with open_bench_lab() as lab:
            if only == PLANES:
                ratios, notes = [_measure_planes(lab, runs)], []
            else:
                ratios, notes = _measure(lab, runs, pairs)
    click.echo(f"\n{table(ratios)}\n")
    click.echo("Medians; a ratio is the median of the pairs' own, with its range in brackets.")
    for note in notes:
        click.echo(note)
    click.echo(f"It took {duration(time.monotonic() - started)}.")


def _measure(lab: BenchLab, runs: int, pairs: int) -> tuple[list[Ratio], list[str]]:
    _title("A healthy mesh from booted nodes")
    built = build.measure(lab, runs=runs, say=_say)
    _title("`pulumi up` without changes")
    unchanged = small_runs.measure_unchanged(lab, pairs=pairs, say=_say)
    _title("`pulumi up` after a weight edit")
    edited = small_runs.measure_weight_edit(lab, pairs=pairs, say=_say)
    imports = small_runs.import_seconds(lab.project)
    with lab.project.cluster() as cluster:
        _title("From the API write of a weight to the last proxy")
        spread, notes = propagation.measure(cluster, edits=2 * pairs, say=_say)
        _title("A request with sidecars and without")
        cost = mesh_cost.measure(cluster, rounds=pairs, say=_say)
    _title(f"The preview of {large.NODES} nodes with {large.SERVICES} services")
    previews = large.measure(lab.project, pairs=min(pairs, 3), say=_say)
    _title("The build over a near and over a far SSH connection")
    far = latency.measure_build(lab, say=_say)
    planes, node = _measure_planes(lab, runs), _measure_node()
    share = imports / median(unchanged[0].ours)
    notes.append(f"Python's imports take {imports:.2f} s, {share:.0%} of a run without changes.")
    return [built, planes, *unchanged, edited, spread, *cost, *previews, far, node], notes


def _measure_planes(lab: BenchLab, runs: int) -> Ratio:
    """lab: without machines."""
    _title(f"{build.PLANES} control planes and {build.WORKERS} workers from booted nodes")
    return build.measure_planes(lab, runs=runs, say=_say)


def _measure_node() -> Ratio:
    _title(f"A node more among {latency.FEW} and among {latency.MANY}")
    return latency.measure_node(say=_say)


def _title(text: str) -> None:
    click.secho(text, bold=True)


def _say(line: str) -> None:
    click.echo(f"  {line}")


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM. After a KeyboardInterrupt, subprocess would not wait for the processes
    that it kills, and pulumi would leave the stack locked.
    """


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise _Interrupted


def main() -> int:
    """Run the command; return 0 unless a step failed, even if a ratio is over its limit."""
    # With bytecode disabled, each run would compile the program again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        bench.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except _Interrupted:
        click.echo("stopped", err=True)
        return 128 + signal.SIGINT
    except (LabError, AssertionError, OSError) as error:
        click.echo(f"\nerror: {error}", err=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
