"""`make mutate`: each mutator makes the one change that it names and leaves the tree unchanged."""

import ast
import difflib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.mutate import python, shell
from tests.mutate.__main__ import Outcome, Result, Run, read_results, score
from tests.mutate.areas import AREAS, sample
from tests.mutate.tree import Tree, copied
from tests.support.paths import PROJECT


def python_mutants(source: str, kind: str) -> list[str]:
    """Return the source of the module after each mutation of one kind."""
    code = source.encode()
    return [
        mutant.apply(code).decode()
        for mutant in python.mutants(code)
        if mutant.kind == kind and python.is_valid(code, mutant)
    ]


def shell_mutants(source: str, kind: str) -> list[str]:
    """Return the source of the script after each mutation of one kind."""
    code = source.encode()
    return [
        mutant.apply(code).decode()
        for mutant in shell.mutants(code)
        if mutant.kind == kind and shell.is_valid(code, mutant)
    ]


@pytest.mark.parametrize(
    ("kind", "source", "changed"),
    [
        ("comparison", "a < b", ["a <= b"]),
        ("comparison", "1 <= (a) < b", ["1 < (a) < b", "1 <= (a) <= b"]),
        ("comparison", "a is  not b", ["a is b"]),
        ("comparison", "a not in b", ["a in b"]),
        ("comparison", "(a > # more\n 0)", []),
        ("condition", "a and (b or c)", ["(b or c)", "a", "a and (c)", "a and (b)"]),
        ("condition", "a or b or c", ["b or c", "a or c", "a or b"]),
        ("negation", "x = not (a)", ["x = (a)"]),
        ("constant", "x: int = 5", ["x: int = 6"]),
        ("constant", "f(0o644, True)", ["f(0o645, True)", "f(0o644, False)"]),
        ("constant", "x = 'a 1' + f'{1}'", []),
        ("keyword", "f(a, b=1, c=(2))", ["f(a, c=(2))", "f(a, b=1)"]),
        ("keyword", "f(a=1)", ["f()"]),
        ("keyword", "run(x, check=False)", []),
        ("keyword", "@f(a=1)\nclass A:\n    pass", []),
        ("element", "x = [a, (b), c]", ["x = [(b), c]", "x = [a, c]", "x = [a, (b)]"]),
        ("element", "x = {'a': 1, **b}", ["x = {**b}", "x = {'a': 1}"]),
        ("element", "x = (1, 2)", []),
        ("element", "x: dict[str, int, float]", []),
        ("swap", "f(a, g(b), c)", ["f(g(b), a, c)"]),
        ("swap", "f(*a, b)", []),
        ("swap", "f(a, a)", []),
        (
            "return",
            'def f() -> None:\n    "Docs."\n    a()\n    b()',
            [
                'def f() -> None:\n    "Docs."\n    return\n    a()\n    b()',
                'def f() -> None:\n    "Docs."\n    a()\n    return\n    b()',
            ],
        ),
        ("return", "def f():\n    yield 1", ["def f():\n    return\n    yield 1"]),
        ("return", "def f() -> int:\n    return 1", []),
    ],
)
def test_a_python_mutant_makes_the_change_that_it_names(
    kind: str, source: str, changed: list[str]
) -> None:
    if "#" in source:
        changed = [source.replace(">", ">=")]
    assert python_mutants(source, kind) == changed


def test_a_python_mutant_counts_bytes_of_multibyte_characters() -> None:
    assert python_mutants("x = 'blåbær' if a < b else 'ø'", "comparison") == [
        "x = 'blåbær' if a <= b else 'ø'"
    ]


@pytest.mark.parametrize(
    ("kind", "source", "changed"),
    [
        ("guard", 'mount "$a" || fail "no" "why" \\\n    "fix"', ['mount "$a"']),
        ("guard", '[ -f "$a" ] || fail "no" "why" \\\n    "fix"', [":"]),
        ("guard", "x=$(a b) || return 1", ["x=$(a b)"]),
        ("guard", 'echo "a || fail b"', []),
        ("guard", "# a || fail b", []),
        ("command", "if a; then\n    rm -f x\nfi", ["if a; then\n    :\nfi"]),
        ("command", "sed '\n  p\n' x", [":"]),
        ("command", "a |\n    b", []),
        ("command", "cat <<EOF\nrm x\nEOF", []),
        ("sequence", "a && b", ["a; b"]),
        ("sequence", "awk '$1 && $2'", []),
        ("atomic", "mv -f x.new x", ["cp x.new x"]),
        ("test", '[ -n "$a" ]', ['[ ! -n "$a" ]', '[ -z "$a" ]']),
        ("test", '[ ! -e "$a" ]', ['[ -e "$a" ]']),
        ("test", "if a; then b; fi", ["if ! a; then b; fi"]),
        ("test", "if ! a; then b; fi", ["if a; then b; fi"]),
        ("test", '[ "$a" -ge 3 ]', ['[ ! "$a" -ge 3 ]', '[ "$a" -gt 3 ]']),
        ("option", "get node --ignore-not-found -o name", ["get node -o name"]),
        ("option", "get --timeout 30s --all", ["get --all", "get --timeout 30s"]),
        ("option", "mkdir -p x", ["mkdir x"]),
        ("mode", "install -m 600 a b", ["install -m 644 a b"]),
        ("mode", "umask 077 && a", ["umask 022 && a"]),
        ("mode", "chmod 0600 a", ["chmod 0644 a"]),
        ("mode", "echo 1600", []),
        ("exit", "if a; then\n    exit 1\nfi", ["if a; then\n    :\nfi"]),
        ("exit", "f() { return 3; }", ["f() { :; }"]),
    ],
)
def test_a_shell_mutant_makes_the_change_that_it_names(
    kind: str, source: str, changed: list[str]
) -> None:
    assert shell_mutants(source, kind) == changed


@pytest.mark.parametrize("area", AREAS)
def test_each_area_has_files_and_tests(area: str) -> None:
    for glob in AREAS[area].files:
        assert list(PROJECT.glob(glob)), glob
    for glob in AREAS[area].tests:
        assert list(PROJECT.glob(glob)), glob


def test_tests_that_mention_the_script_run_first() -> None:
    scripts = AREAS["scripts"]
    first, *_ = kvm = scripts.test_files(PROJECT, Path("components/scripts/kvm-create.sh"))
    assert first == "tests/unit/components/scripts/test_kvm.py"
    assert sorted(kvm) == sorted(scripts.test_files(PROJECT, Path("components/scripts/apt.sh")))


@pytest.mark.parametrize("area", AREAS)
def test_each_area_yields_valid_mutants(area: str) -> None:
    drawn = sample(PROJECT, AREAS[area], 10, seed=7)
    assert len(drawn) == 10
    for path, mutant in drawn:
        source = (PROJECT / path).read_bytes()
        changed = mutant.apply(source)
        if path.suffix == ".py":
            assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source))
        else:
            subprocess.run(["bash", "-n"], input=changed, check=True)
        assert_one_change(source, changed, mutant.line(source))


def assert_one_change(source: bytes, changed: bytes, line: int) -> None:
    """Check that the changed lines are adjacent and start at the line of the mutant."""
    old, new = source.splitlines(), changed.splitlines()
    edits = [
        edit
        for edit in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if edit[0] != "equal"
    ]
    assert edits
    first, last = edits[0][1], max(edits[-1][2], edits[-1][1] + 1)
    assert line - 2 <= first
    assert source.count(b"\n") + 2 >= last
    assert old[: line - 1] == new[: line - 1]


def test_the_same_seed_draws_the_same_mutants() -> None:
    first, again, other = (sample(PROJECT, AREAS["policy"], 9, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_preflight_and_drift_are_mutated_in_both_languages() -> None:
    for area in ("preflight", "cli/drift"):
        drawn = sample(PROJECT, AREAS[area], 20, seed=1)
        assert {path.suffix for path, _ in drawn} == {".py", ".sh"}


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    """Copy of a small project with one test, which checks a limit."""
    project = tmp_path / "project"
    project.mkdir()
    (project / ".venv").mkdir()
    (project / ".gitignore").write_text("/.venv/\n__pycache__/\n")
    (project / "limit.py").write_text("def is_small(n):\n    return n < 3\n")
    (project / "test_limit.py").write_text(
        "from limit import is_small\n\n\ndef test_limit():\n    assert not is_small(3)\n"
    )
    subprocess.run(["git", "init", "--quiet"], cwd=project, check=True)
    with copied(project) as tree:
        yield tree


def test_a_mutant_is_killed_in_the_copy_and_then_reverted(tree: Tree, tmp_path: Path) -> None:
    (mutant,) = (
        candidate
        for candidate in python.mutants((tree.root / "limit.py").read_bytes())
        if candidate.kind == "comparison"
    )
    version = tree.version
    with tree.mutated(Path("limit.py"), mutant) as diff:
        ended = tree.test(["test_limit.py"], timeout=600)
        (tree.root / "left").write_text("by a test")
    assert (ended.status, ended.failed_test) == (1, "test_limit.py::test_limit")
    assert "-    return n < 3\n+    return n <= 3\n" in diff
    assert tree.test(["test_limit.py"], timeout=600).status == 0
    assert not (tree.root / "left").exists()
    assert tree.version == version
    assert "n < 3" in (tmp_path / "project" / "limit.py").read_text()


def test_a_timeout_kills_the_command_and_its_children(tree: Tree) -> None:
    script = "sleep 3000 & echo $! >pid.new; mv pid.new pid; wait"
    # A busy machine may start the command only after the first limit.
    for limit in (1, 30, 300):
        ended = tree.run("bash", "-c", script, timeout=limit)
        assert ended.status is None
        if (tree.root / "pid").exists():
            break
    child = int((tree.root / "pid").read_text())
    for _ in range(600):
        if not is_running(child):
            return
        time.sleep(0.1)
    pytest.fail(f"process {child} still runs")


def is_running(process: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_interrupted_run_deletes_its_copy(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.mutate", "--area", "gates", "--count", "1"]
    process = subprocess.Popen(command, cwd=PROJECT, env={**os.environ, "TMPDIR": str(tmp_path)})
    try:
        while not list(tmp_path.glob("nordmesh-mutate-*/tree/.git/HEAD")):
            assert process.poll() is None
            time.sleep(0.1)
        process.terminate()
        assert process.wait(300) != 0
    finally:
        process.kill()
    assert list(tmp_path.iterdir()) == []


def test_survivors_of_a_quick_run_are_retried_by_a_full_run(tree: Tree) -> None:
    mutant, *_ = python.mutants((tree.root / "limit.py").read_bytes())
    path = Path("limit.py")
    quick, again, full = (Run(tree, quick=quick, engine=False) for quick in (True, True, False))
    assert quick.identify(path, mutant) == again.identify(path, mutant)
    assert quick.identify(path, mutant) != full.identify(path, mutant)


def result(number: int, outcome: Outcome, *, area: str = "gates", tree: str = "now") -> Result:
    return Result(
        id=str(number),
        tree=tree,
        area=area,
        path="a.py",
        line=1,
        kind="constant",
        what="`1` to `2`",
        outcome=outcome,
        by="",
        seconds=1.0,
        diff="",
    )


def test_the_score_is_reported_by_area_and_in_total() -> None:
    results = [
        result(1, "killed"),
        result(2, "timeout"),
        result(3, "survived"),
        result(4, "survived", area="policy"),
    ]
    assert [row.split() for row in score(results)[1:]] == [
        ["gates", "3", "1", "1", "1", "67%"],
        ["policy", "1", "0", "0", "1", "0%"],
        ["total", "4", "1", "1", "2", "50%"],
    ]


def test_results_of_another_tree_and_truncated_lines_are_ignored(tmp_path: Path) -> None:
    file = tmp_path / "mutants.jsonl"
    lines = [
        json.dumps(asdict(result(1, "killed"))),
        json.dumps(asdict(result(2, "killed", tree="x"))),
    ]
    file.write_text("\n".join([*lines, '{"id": "3", "tr']))
    assert read_results(file, "now") == {"1": result(1, "killed")}
