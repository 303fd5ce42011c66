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
    """Globs of the mutated files, and of their test files in tests/unit."""

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
        tests = _matches(project / "tests" / "unit", self.tests)
        tests.sort(key=lambda test: test.read_text().count(mutated.stem), reverse=True)
        return [str(test.relative_to(project)) for test in tests]


AREAS = {
    "config": Area(
        ("config/**/*",),
        (
            "test_config*.py",
            "test_access.py",
            "test_catalogue.py",
            "test_every_key.py",
            "test_explain.py",
            "test_fields.py",
            "test_host.py",
            "test_keys.py",
            "test_schema.py",
        ),
    ),
    "components": Area(
        ("components/*.py", "components/machines/*", "components/remote/*", "stacks/*"),
        (
            "test_connections.py",
            "test_failures.py",
            "test_immutable.py",
            "test_kvm.py",
            "test_node_command.py",
            "test_platform*.py",
            "test_remote.py",
        ),
    ),
    "manifests": Area(
        ("components/host/*", "components/manifests/*"),
        (
            "test_generated.py",
            "test_host.py",
            "test_kvm.py",
            "test_manifests*.py",
            "test_properties*.py",
        ),
    ),
    "gates": Area(("components/gates/*",), ("test_gates*.py",)),
    "preflight": Area(
        ("components/preflight/*",),
        ("test_preflight*.py", "test_host.py", "test_scripts_measure.py"),
    ),
    "scripts": Area(
        ("components/scripts/*", "components/host/files/**/*.sh"),
        (
            "test_scripts*.py",
            "test_backup.py",
            "test_certificates_timer.py",
            "test_endpoint.py",
            "test_host.py",
            "test_kubelet_start.py",
            "test_remote.py",
        ),
    ),
    "cli": Area(
        ("cli/*.py", "cli/backup/*", "cli/ci/*"),
        (
            "test_backup*.py",
            "test_canary_steps.py",
            "test_certificates.py",
            "test_ci.py",
            "test_dashboard.py",
            "test_explain.py",
            "test_jwt.py",
            "test_mirror.py",
            "test_new_stack.py",
            "test_options.py",
            "test_output.py",
            "test_preflight.py",
            "test_registry.py",
            "test_samples.py",
            "test_status.py",
        ),
    ),
    "cli/review": Area(("cli/review/*",), ("test_review*.py", "test_access.py", "test_kvm.py")),
    "cli/drift": Area(("cli/drift/*",), ("test_drift*.py",)),
    "policy": Area(("policy/**/*",), ("test_policy*.py", "test_kvm.py")),
    "lab": Area(("lab/*.py", "lab/*.sh"), ("test_lab*.py", "test_bootstrap.py")),
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
