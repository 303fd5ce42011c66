"""This program beside an earlier revision of it: a run without changes, and a weight edit.

Each of them has a stack of simulated nodes. There is no cluster, so the edit is only previewed.
"""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lab import paths
from lab.errors import LabError
from tests.bench.bench_lab import Say
from tests.bench.ratios import Ratio, Timed, in_turn, timed
from tests.support.fleet import Fleet, Server, serving
from tests.support.program import PARTS

NODES, NETWORK = 5, "198.18.40.0/24"
LIMIT = 1.1


def measure(revision: str, *, pairs: int, say: Say) -> list[Ratio]:
    """Compare with a Git revision of the program whose stack file has the keys of today."""
    with (
        serving(NODES, NETWORK) as server,
        _revision(revision) as project,
        _fleet(server, paths.PROJECT) as ours,
        _fleet(server, project) as theirs,
    ):
        fleets = (ours, theirs)
        say("up without changes")
        unchanged = in_turn([_unchanged(fleet) for fleet in fleets], rounds=pairs, say=say)
        say("the preview of a weight edit")
        edited = in_turn([_edited(fleet) for fleet in fleets], rounds=pairs, say=say)
    return [
        Ratio(name=name, beside=revision, ours=seconds[0], theirs=seconds[1], limit=LIMIT)
        for name, seconds in (
            ("up without changes", unchanged),
            ("preview of a weight edit", edited),
        )
    ]


@contextmanager
def _revision(revision: str) -> Iterator[Path]:
    """Unpack the files of a revision."""
    with TemporaryDirectory(prefix="nordmesh-before-") as text:
        archive = Path(text) / "archive.tar"
        commands = (
            ("git", "archive", "--output", str(archive), revision),
            ("tar", "--extract", "--file", str(archive), "--directory", text),
        )
        for command in commands:
            ended = subprocess.run(
                command, cwd=paths.PROJECT, capture_output=True, text=True, check=False
            )
            if ended.returncode:
                raise LabError(f"{revision}: {ended.stderr.strip()}", code="bench")
        project = Path(text)
        if missing := [name for name in PARTS if not (project / name).exists()]:
            raise LabError(
                f"{revision} has no {', '.join(missing)}",
                code="bench",
                why="its state is made by the tests of this checkout, which know no other layout",
                fix="compare with a later revision",
            )
        yield project


@contextmanager
def _fleet(server: Server, project: Path) -> Iterator[Fleet]:
    """A deployed stack of a program."""
    with TemporaryDirectory(prefix="nordmesh-fleet-") as text:
        fleet = Fleet(Path(text), server, project)
        fleet.deploy(NODES)
        yield fleet


def _unchanged(fleet: Fleet) -> Timed:
    def up() -> None:
        if touched := fleet.up().touched:
            raise LabError(f"a run without changes touched {touched}", code="bench")

    return lambda: timed(up)


def _edited(fleet: Fleet) -> Timed:
    """Return an action that writes another weight; only the preview is timed."""
    weights = itertools.cycle((20, 25))

    def edit() -> float:
        weight = next(weights)

        def write(config: dict[str, Any]) -> None:
            config["nordmesh:mesh"]["services"]["checkout"]["canary"]["weight"] = weight

        fleet.write(NODES, write)
        return timed(preview)

    def preview() -> None:
        result, steps = fleet.steps("preview")
        changed = [step["urn"] for step in steps if step["op"] != "same"]
        if result.returncode or len(changed) != 1:
            raise LabError(f"{changed} would change: {result.stdout}", code="bench")

    return edit
