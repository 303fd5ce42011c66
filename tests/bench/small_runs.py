"""A run without changes and a weight edit, compared with bare Pulumi programs."""

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
    """Compare `pulumi up` without changes with bare programs of as many resources."""
    resources = _count(lab.project)
    # In addition to the ConfigMaps, a bare stack has itself and the provider of the cluster.
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
        ours, *bare_times = in_turn(
            [_unchanged(project) for project in projects], rounds=pairs, say=say
        )
    beside = (
        (f"bare, {resources} resources", LIMIT),
        ("bare, without typed classes", None),
    )
    name = "up without changes"
    return [
        Ratio(name=name, beside=description, ours=ours, theirs=theirs, limit=limit)
        for (description, limit), theirs in zip(beside, bare_times, strict=True)
    ]


def measure_weight_edit(lab: BenchLab, *, pairs: int, say: Say) -> Ratio:
    """Compare a weight edit with a bare program of one VirtualService in the same cluster."""
    with bare_project(lab, "virtual_service", {"weight": "10"}) as bare:
        bare.up()
        actions = [_edited(lab.project, f"nordmesh:{_WEIGHT}"), _edited(bare, "weight")]
        ours, theirs = in_turn(actions, rounds=pairs, say=say)
    return Ratio(
        name="up after a weight edit",
        beside="bare, one VirtualService",
        ours=ours,
        theirs=theirs,
        limit=LIMIT,
    )


def import_seconds(project: Project) -> float:
    """Measure the seconds that Python takes to import the program, without its startup."""
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
    """Create a stack of a program of bare/ in the same backend, on the cluster of the lab."""
    directory = Path(mkdtemp(prefix="nordmesh-bare-"))  # readable by the owner only
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
        # Its objects are deleted with the cluster.
        project.pulumi("stack", "rm", "--yes", "--force", ok=False)
        shutil.rmtree(directory)


def _count(project: Project) -> int:
    """Count the resources of the stack, including itself and providers."""
    exported = json.loads(project.pulumi("stack", "export").text)
    return len(exported["deployment"]["resources"])


def _unchanged(project: Project) -> Timed:
    return lambda: timed(lambda: project.up("--expect-no-changes"))


def _edited(project: Project, key: str) -> Timed:
    """Return an action that edits a weight to another value; only `pulumi up` is timed."""
    weights = cycle((25, 10))

    def up() -> None:
        text = project.up().text
        if "~ 1 updated" not in text:
            raise LabError(f"one updated resource was expected:\n{text}", code="bench")

    def edit() -> float:
        project.pulumi("config", "set", "--path", key, str(next(weights)))
        return timed(up)

    return edit
