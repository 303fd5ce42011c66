"""The areas of the product: which files are mutated, and which unit tests run first."""

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.mutate import python, shell
from tests.mutate.mutant import Mutant

_LANGUAGES = {".py": python, ".sh": shell}


@dataclass(frozen=True)
class Area:
    """Globs of the mutated files, and of their test files."""

    files: tuple[str, ...]
    tests: tuple[str, ...]

    def sources(self, project: Path) -> list[Path]:
        """Return the mutated files, relative to the project."""
        return [
            path.relative_to(project)
            for path in _matches(project, self.files)
            if path.suffix in _LANGUAGES
        ]

    def test_files(self, project: Path, mutated: Path) -> list[str]:
        """Return the test files, relative to the project, first those that mention the file."""
        tests = _matches(project, self.tests)
        tests.sort(key=lambda test: test.read_text().count(mutated.stem), reverse=True)
        return [str(test.relative_to(project)) for test in tests]


def _unit(*globs: str) -> tuple[str, ...]:
    return tuple(f"tests/unit/{glob}" for glob in globs)


AREAS = {
    "config": Area(
        ("config/**/*",),
        _unit("config/test_*.py", "cli/test_explain.py", "components/host/test_files.py"),
    ),
    "components": Area(
        ("components/*.py", "components/machines/*", "components/remote/*", "stacks/*"),
        _unit(
            "components/remote/test_*.py",
            "components/test_immutable.py",
            "components/test_kvm.py",
            "stacks/test_platform*.py",
        ),
    ),
    "manifests": Area(
        ("components/host/*", "components/manifests/*"),
        _unit(
            "components/manifests/test_*.py",
            "components/host/test_files.py",
            "components/test_kvm.py",
            "components/test_people.py",
        ),
    ),
    "gates": Area(("components/gates/*",), _unit("components/gates/test_*.py")),
    "preflight": Area(
        ("components/preflight/*",),
        _unit("components/test_preflight*.py", "components/host/test_files.py"),
    ),
    "scripts": Area(
        ("components/scripts/*", "components/host/files/**/*.sh"),
        _unit(
            "components/scripts/test_*.py",
            "components/host/test_*.py",
            "components/remote/test_script.py",
            "cli/backup/test_snapshots.py",
        ),
    ),
    "cli": Area(
        ("cli/*.py", "cli/backup/*", "cli/ci/*", "cli/cis/*", "cli/restore/*"),
        _unit(
            "cli/backup/test_*.py",
            "cli/test_canary_steps.py",
            "cli/test_certificates.py",
            "cli/test_ci.py",
            "cli/test_cis.py",
            "cli/test_dashboard.py",
            "cli/test_explain.py",
            "cli/test_mirror.py",
            "cli/test_new_stack.py",
            "cli/test_output.py",
            "cli/test_registry.py",
            "cli/test_restore.py",
            "cli/test_status.py",
            "components/manifests/test_jwt.py",
            "components/test_preflight.py",
            "docs/test_samples.py",
            "stacks/test_options.py",
        ),
    ),
    "cli/review": Area(
        ("cli/review/*",),
        _unit("cli/test_review.py", "config/test_access.py", "components/test_kvm.py"),
    ),
    "cli/drift": Area(("cli/drift/*",), _unit("cli/test_drift*.py")),
    "policy": Area(("policy/**/*",), _unit("policy/test_*.py", "components/test_kvm.py")),
    "lab": Area(("lab/*.py", "lab/*.sh"), ("lab/tests/test_*.py",)),
}


def _matches(directory: Path, globs: Iterable[str]) -> list[Path]:
    return sorted({path for glob in globs for path in directory.glob(glob)})


def sample(project: Path, area: Area, count: int, seed: int) -> list[tuple[Path, Mutant]]:
    """Draw up to `count` mutants of an area, the same for the same seed and files.

    Each kind of mutant gets an equal share, so that frequent kinds do not displace the others.
    """
    kinds: dict[tuple[str, str], list[tuple[Path, Mutant]]] = defaultdict(list)
    for path in area.sources(project):
        for mutant in _LANGUAGES[path.suffix].mutants((project / path).read_bytes()):
            kinds[path.suffix, mutant.kind].append((path, mutant))
    chance = random.Random(seed)  # noqa: S311
    drawn = _in_turn(
        [chance.sample(kinds[kind], len(kinds[kind])) for kind in _order(kinds, chance)]
    )
    chosen: list[tuple[Path, Mutant]] = []
    for path, mutant in drawn:
        if len(chosen) == count:
            break
        if _LANGUAGES[path.suffix].is_valid((project / path).read_bytes(), mutant):
            chosen.append((path, mutant))
    return chosen


def _order(kinds: Iterable[tuple[str, str]], chance: random.Random) -> list[tuple[str, str]]:
    order = sorted(kinds)
    chance.shuffle(order)
    return order


def _in_turn(lists: list[list[tuple[Path, Mutant]]]) -> Iterator[tuple[Path, Mutant]]:
    """Yield the first of each list, then the second of each, and so on."""
    for number in range(max(map(len, lists), default=0)):
        for items in lists:
            yield from items[number : number + 1]
