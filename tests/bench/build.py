"""From booted nodes to a healthy mesh: `pulumi up` compared with the same steps by hand."""

import os
import re
import subprocess
import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from lab.errors import LabError
from tests.bench import by_hand
from tests.bench.bench_lab import BenchLab, Say
from tests.bench.ratios import Ratio

LIMIT = 1.0
PLANES, WORKERS, PLANES_LIMIT = 3, 2, 1.3
_AT_MOST_SECONDS = 1800.0
_REPORT_FROM_SECONDS = 1.0


def measure(lab: BenchLab, *, runs: int, say: Say) -> Ratio:
    """Measure one control plane and one worker; leave the last cluster of `pulumi up` running."""
    name = "booted nodes to healthy mesh"
    return _measure(lab, name, runs=runs, limit=LIMIT, say=say)


def measure_planes(lab: BenchLab, *, runs: int, say: Say) -> Ratio:
    """Measure several control planes and workers, from a lab without machines, as `measure` does.

    Only `pulumi up` works on several nodes at a time. Both join one control plane after another:
    etcd takes one member at a time.
    """
    name = f"{PLANES} control planes and {WORKERS} workers to healthy mesh"
    grown = lab.with_nodes(PLANES, WORKERS)
    return _measure(grown, name, runs=runs, limit=PLANES_LIMIT, say=say)


def _measure(lab: BenchLab, name: str, *, runs: int, limit: float, say: Say) -> Ratio:
    """Measure both alternately."""
    ours, theirs = [], []
    for number in range(1, runs + 1):
        lab.boot()
        say(f"run {number} of {runs}, by hand")
        theirs.append(_hand_seconds(lab, say))
        lab.delete_machines()
        lab.boot()
        say(f"run {number} of {runs}, `pulumi up`")
        ours.append(pulumi_seconds(lab, say))
        if number < runs:
            lab.project.pulumi("destroy", "--yes", "--skip-preview")
    return Ratio(
        name=name,
        beside="by hand",
        ours=ours,
        theirs=theirs,
        limit=limit,
    )


def _hand_seconds(lab: BenchLab, say: Say) -> float:
    with TemporaryDirectory(prefix="nordmesh-hand-") as directory:
        settings = by_hand.write_files(lab, Path(directory))
        started = time.monotonic()
        with closing(_steps(settings, lab.project.log)) as steps:
            for name, seconds in steps:
                say(f"  {seconds:6.1f} s  {name}")
        return _until_healthy(time.monotonic() - started, lab, say)


def _steps(settings: dict[str, str], log: Path) -> Generator[tuple[str, float]]:
    """Run the script; yield each step with its seconds when it is done."""
    output: list[str] = []
    name, started = "", time.monotonic()
    with subprocess.Popen(
        ["timeout", str(_AT_MOST_SECONDS), "bash", str(by_hand.SCRIPT)],
        env={**os.environ, **settings},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            for line in process.stdout or ():
                output.append(line)
                if line.startswith("== "):
                    if name:
                        yield name, time.monotonic() - started
                    name, started = line.removeprefix("== ").strip(), time.monotonic()
        except BaseException:
            process.terminate()  # Ctrl-C does not reach it, because timeout creates a process group
            raise
    with log.open("a") as file:
        file.writelines(output)
    if process.returncode:
        raise LabError(f"by hand, `{name}` failed:\n{''.join(output[-30:])}", code="bench")
    yield name, time.monotonic() - started


def pulumi_seconds(lab: BenchLab, say: Say) -> float:
    """Run `pulumi up` until the mesh is healthy; report each step and return the seconds."""
    started = time.monotonic()
    result = lab.project.up()
    seconds = time.monotonic() - started
    for name, duration in re.findall(r"Command (\S+) created \(([\d.]+)s\)", result.text):
        if float(duration) >= _REPORT_FROM_SECONDS:
            say(f"  {float(duration):6.1f} s  {name}")
    return _until_healthy(seconds, lab, say)


def _until_healthy(seconds: float, lab: BenchLab, say: Say) -> float:
    """Add the seconds until the mesh is healthy to a duration; report both."""
    more = lab.seconds_until_healthy()
    say(f"  {seconds:6.1f} s  in all, healthy {more:.1f} s after")
    return seconds + more
