"""The command `python -m tests.mutate`: how many mutants do the tests kill?"""

import hashlib
import json
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from tests.mutate.areas import AREAS, sample
from tests.mutate.mutant import Mutant
from tests.mutate.tree import Ended, Tree, copied
from tests.support.paths import PROJECT

_INTERRUPTED = 130  # 128 + SIGINT, as shells do
# The limit before the first measurement: the slowest area, or mypy without a cache, when busy.
_BASELINE_SECONDS = 1800.0
# A mutant may take this many times as long as the unchanged code, plus one minute.
_PATIENCE = 5.0
_LEAST_SECONDS = 60.0
# Only these can have a type error, since no test is mutated.
_TYPED = ("config", "components", "stacks", "cli", "policy")

Outcome = Literal["killed", "timeout", "survived"]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of one mutant. tree: the hash of the files that it was tested on."""

    id: str
    tree: str
    area: str
    path: str
    line: int
    kind: str
    what: str
    outcome: Outcome
    by: str
    seconds: float
    diff: str

    def __str__(self) -> str:
        by = f" by {self.by}" if self.by else ""
        return f"{self.path}:{self.line} {self.kind}: {self.what}: {self.outcome}{by}"


class Run:
    """Tests mutants in a copy of the project: the cheapest tests first, until one fails."""

    def __init__(self, tree: Tree, *, quick: bool, engine: bool) -> None:
        self._tree = tree
        self._quick = quick
        self._engine = engine
        self._limits: dict[frozenset[str], float] = {}
        self._version = tree.version

    @property
    def version(self) -> str:
        """Hash of the files that the mutants are derived from."""
        return self._version

    def identify(self, path: Path, mutant: Mutant) -> str:
        """Return the identifier of an attempt: a hash of the mutant and the tests.

        A mutant that survives the quick tests may not survive the others.
        """
        attempt = (path, mutant.start, mutant.end, mutant.replacement, self._quick, self._engine)
        return hashlib.sha256(repr(attempt).encode()).hexdigest()[:16]

    def attempt(self, area: str, path: Path, mutant: Mutant) -> Result:
        """Run the tests on a mutant."""
        outcome: Outcome = "survived"
        by, seconds = "", 0.0
        diff: str
        line = mutant.line((self._tree.root / path).read_bytes())
        for name, command in self._steps(area, path):
            limit = self._limit(command)
            with self._tree.mutated(path, mutant) as diff:
                ended = self._run(command, limit)
            seconds += ended.seconds
            if ended.status != 0:
                outcome = "timeout" if ended.status is None else "killed"
                by = ended.failed_test or name
                break
        return Result(
            id=self.identify(path, mutant),
            tree=self._version,
            area=area,
            path=str(path),
            line=line,
            kind=mutant.kind,
            what=mutant.what,
            outcome=outcome,
            by=by,
            seconds=round(seconds, 1),
            diff=diff,
        )

    def _steps(self, area: str, path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Yield the checks for a mutant, the fastest first."""
        tests = AREAS[area].test_files(self._tree.root, path)
        programs = Path(sys.executable).parent
        yield "the area's tests", ("pytest", *tests)
        if path.suffix == ".sh":
            yield "shellcheck", (str(programs / "shellcheck"), "--external-sources", str(path))
        else:
            yield "ruff", (str(programs / "ruff"), "check", "--no-cache", str(path))
            cache = self._tree.scratch / "mypy"
            yield "mypy", (str(programs / "mypy"), f"--cache-dir={cache}", *_TYPED)
        if not self._quick:
            done = [*tests, "tests/unit/tests/test_mutate.py"]
            others = [f"--ignore={test}" for test in done]
            yield "the other unit tests", ("pytest", "tests/unit", "lab/tests", *others)
        if self._engine:
            yield "the engine tests", ("pytest", "tests/engine")

    def _run(self, command: tuple[str, ...], limit: float) -> Ended:
        if command[0] == "pytest":
            return self._tree.test(command[1:], timeout=limit)
        return self._tree.run(*command, timeout=limit)

    def _limit(self, command: tuple[str, ...]) -> float:
        """Return how long a command may take, after running it once without a mutant."""
        tests = frozenset(command)  # in any order
        if tests not in self._limits:
            ended = self._run(command, _BASELINE_SECONDS)
            if ended.status != 0:
                end = "\n".join(ended.output.splitlines()[-25:])
                why = "takes too long" if ended.status is None else "fails"
                raise click.ClickException(
                    f"`{' '.join(command[:3])} ...` {why} without a mutant, so a score would mean "
                    f"nothing: make it pass first.\n{end}"
                )
            self._limits[tests] = _PATIENCE * ended.seconds + _LEAST_SECONDS
        return self._limits[tests]


def read_results(file: Path, tree: str) -> dict[str, Result]:
    """Return the results of earlier runs on the same files, by mutant id."""
    if not file.exists():
        return {}
    # The last line may be truncated.
    lines = [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]
    results = [Result(**json.loads(line)) for line in lines]
    return {result.id: result for result in results if result.tree == tree}


def score(results: list[Result]) -> list[str]:
    """Return the table of outcomes by area. A mutant that times out counts as caught."""
    rows = ["area         mutants  killed  timeout  survived  caught"]
    areas = [area for area in AREAS if any(result.area == area for result in results)]
    for name in [*areas, "total"]:
        count = Counter(result.outcome for result in results if name in (result.area, "total"))
        total = count.total()
        caught = (total - count["survived"]) / total if total else 0.0
        rows.append(
            f"{name:<11} {total:>8}{count['killed']:>8}{count['timeout']:>9}"
            f"{count['survived']:>10}{caught:>8.0%}"
        )
    return rows


@click.command()
@click.option("--area", "areas", multiple=True, type=click.Choice([*AREAS]), help="[default: all]")
@click.option("--count", default=20, show_default=True, help="Mutants of each area.")
@click.option("--seed", default=1, show_default=True, help="Another seed draws other mutants.")
@click.option("--quick", is_flag=True, help="Run only an area's own tests, and the type check.")
@click.option("--engine", is_flag=True, help="Run tests/engine, too, on what is left then.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep results here, and continue those of an earlier run on the same files.",
)
def mutate(
    areas: tuple[str, ...], count: int, seed: int, quick: bool, engine: bool, results: Path | None
) -> None:
    """Make realistic changes in a copy of the project, and print how many `make check` catches.

    Changes that nothing catches are shown as diffs; each needs a test. A mutant takes seconds if a
    test of its area catches it, and as long as `make check` if nothing does.
    """
    file = results / "mutants.jsonl" if results else None
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
    done: list[Result] = []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with copied(PROJECT) as tree:
            run = Run(tree, quick=quick, engine=engine)
            known = read_results(file, run.version) if file else {}
            chosen = [
                (area, path, mutant)
                for area in areas or AREAS
                for path, mutant in sample(tree.root, AREAS[area], count, seed)
            ]
            for number, (area, path, mutant) in enumerate(chosen, 1):
                result = known.get(run.identify(path, mutant))
                if result is None:
                    result = run.attempt(area, path, mutant)
                    if file:
                        with file.open("a") as log:
                            log.write(json.dumps(asdict(result)) + "\n")
                done.append(result)
                click.echo(f"[{number}/{len(chosen)}] {result} ({result.seconds:.0f} s)")
    except KeyboardInterrupt:
        click.echo("interrupted; the score so far:")
        _show(done)
        sys.exit(_INTERRUPTED)
    _show(done)


def _show(results: list[Result]) -> None:
    for result in results:
        if result.outcome == "survived":
            click.echo(f"\nsurvived: {result}\n{result.diff}", nl=False)
    click.echo("\n" + "\n".join(score(results)))


if __name__ == "__main__":
    mutate()
