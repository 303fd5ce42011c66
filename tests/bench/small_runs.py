"""A run without changes, and one that changes a weight, beside bare Pulumi programs."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from statistics import median
from tempfile import mkdtemp

from lab.errors import LabError
from tests.bench.bench_lab import BenchLab, Say
from tests.bench.ratios import Ratio, Timed, in_turn, timed
from tests.live.harness import Project

LIMIT = 1.3
_PROGRAMS = Path(__file__).with_name("bare")
_WEIGHT = "mesh.services.checkout.canary.weight"
_IMPORT_ROUNDS = 5


def measure_unchanged(lab: BenchLab, *, pairs: int, say: Say) -> list[Ratio]:
    """`pulumi up` without changes, beside programs with as many resources in the same cluster."""
    resources = _count(lab.project)
    # A bare stack has itself and the cluster's provider beside the ConfigMaps.
    settings = {"count": str(resources - 2)}
    say(f"{resources} resources each")
    with (
        bare_project(lab, "config_maps", settings) as typed,
        bare_project(lab, "config_maps_untyped", settings) as untyped,
    ):
        projects = (lab.project, typed, untyped)
        for project in projects:
            project.up()
            if _count(project) != resources:
                raise LabError(f"{_count(project)} resources instead of {resources}", code="bench")
        ours, *others = in_turn([_unchanged(one) for one in projects], rounds=pairs, say=say)
    beside = (
        (f"bare, {resources} resources", LIMIT),
        ("bare, without typed classes", None),
    )
    name = "up without changes"
    return [
        Ratio(name=name, beside=what, ours=ours, theirs=theirs, limit=limit)
        for (what, limit), theirs in zip(beside, others, strict=True)
    ]


def measure_weight_edit(lab: BenchLab, *, pairs: int, say: Say) -> Ratio:
    """A new weight, beside a program with one VirtualService in the same cluster."""
    with bare_project(lab, "virtual_service", {"weight": "10"}) as bare:
        bare.up()
        ways = [_edited(lab.project, f"nordmesh:{_WEIGHT}"), _edited(bare, "weight")]
        ours, theirs = in_turn(ways, rounds=pairs, say=say)
    return Ratio(
        name="up after a weight edit",
        beside="bare, one VirtualService",
        ours=ours,
        theirs=theirs,
        limit=LIMIT,
    )


def import_seconds(project: Project) -> float:
    """Seconds that Python takes to import the program, its own start left out."""
    python = str(project.directory / ".venv" / "bin" / "python")

    def start(code: str) -> float:
        command = [python, "-c", code]
        return timed(lambda: subprocess.run(command, cwd=project.directory, check=True))

    pairs = [
        start("import config.load, stacks.platform") - start("pass") for _ in range(_IMPORT_ROUNDS)
    ]
    return median(pairs)


@contextmanager
def bare_project(lab: BenchLab, program: str, settings: Mapping[str, str]) -> Iterator[Project]:
    """A program of bare/ with a stack in the same backend, on the lab's cluster."""
    directory = Path(mkdtemp(prefix="nordmesh-bare-"))  # for its owner alone
    shutil.copytree(_PROGRAMS / program, directory, dirs_exist_ok=True)
    (directory / ".venv").symlink_to(Path(sys.prefix))
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(lab.kubeconfig())
    project = replace(lab.project, directory=directory, log=directory / "bench.log")
    try:
        project.make_stack()
        for key, value in {**settings, "kubeconfig": str(kubeconfig)}.items():
            project.pulumi("config", "set", key, value)
        yield project
    finally:
        # Its objects go with the cluster.
        project.pulumi("stack", "rm", "--yes", "--force", ok=False)
        shutil.rmtree(directory)


def _count(project: Project) -> int:
    """How many resources the stack has, itself and providers included."""
    exported = json.loads(project.pulumi("stack", "export").text)
    return len(exported["deployment"]["resources"])


def _unchanged(project: Project) -> Timed:
    return lambda: timed(lambda: project.up("--expect-no-changes"))


def _edited(project: Project, key: str) -> Timed:
    """Edits of a weight, each to another; only `pulumi up` is timed."""
    weights = cycle((25, 10))

    def up() -> None:
        text = project.up().text
        if "~ 1 updated" not in text:
            raise LabError(f"one updated resource was expected:\n{text}", code="bench")

    def edit() -> float:
        project.pulumi("config", "set", "--path", key, str(next(weights)))
        return timed(up)

    return edit
