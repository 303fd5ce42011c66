"""Parallel lanes of tests: no file is missing, failures count, Ctrl-C cleans up."""

import subprocess
import sys
import threading
from pathlib import Path

from tests import lanes
from tests.lanes import Lane, Runner

TESTS = Path(lanes.__file__).parent


def python(name: str, program: str) -> Lane:
    return Lane(name=name, command=(sys.executable, "-u", "-c", program))


def test_the_files_that_build_their_own_labs_are_in_their_lanes() -> None:
    files = {path.name: path.read_text() for path in (TESTS / "live").glob("test_*.py")}
    own = [name for names in lanes.OWN_LABS for name in names]
    assert sorted(own) == sorted(name for name, text in files.items() if "lab_project(" in text)


def test_each_engine_and_live_file_runs_once() -> None:
    words = [word for lane in lanes.lanes() for word in lane.command if word.endswith(".py")]
    files = [path for folder in ("engine", "live") for path in (TESTS / folder).glob("test_*.py")]
    assert sorted(words) == sorted(str(path.relative_to(TESTS.parent)) for path in files)


def selected(lane: Lane) -> str:
    """Return the markers that a lane selects."""
    return lane.command[lane.command.index("-m", lane.command.index("pytest")) + 1]


def collected(*arguments: str) -> set[str]:
    """Return the tests that a pytest command would run."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", *arguments]
    result = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=True)
    return {line for line in result.stdout.splitlines() if "::" in line}


def test_long_tests_run_in_test_long_alone() -> None:
    files = ("tests/live/test_alerts.py", "tests/live/test_mesh.py")
    every, long = collected(*files), collected("-m", "long", *files)
    assert long
    assert long < every
    assert {selected(lane) for lane in lanes.lanes()} == {"not long"}
    assert selected(lanes.long_lane()) == "long"
    recipe = (TESTS.parent / "Makefile").read_text().partition("\ntest-long:")[2]
    assert recipe.partition("\n\n")[0].endswith("$(PYTHON) -m tests.lanes long")


def test_output_has_its_lane_and_one_failure_fails_all() -> None:
    lines: list[str] = []
    good = python("good", "print('fine')")
    assert Runner(lines.append).run([good], at_once=1)
    assert lines[0] == "[good] fine"
    assert lines[1].startswith("good: passed in ")
    assert len(lines) == 2
    bad = python("bad", "import sys; print('broken'); sys.exit(3)")
    for at_once in (1, 2):
        lines.clear()
        assert not Runner(lines.append).run([bad, good], at_once=at_once)
        assert sorted(lines[:2]) == ["[bad] broken", "[good] fine"]
        assert lines[2].startswith("bad: failed (exit code 3)")


def test_the_last_lines_name_the_tests_that_failed(tmp_path: Path) -> None:
    test = tmp_path / "test_broken.py"
    test.write_text("def test_breaks():\n    raise ValueError('the reason')\n")
    bad = Lane(name="bad", command=(sys.executable, "-m", "pytest", str(test)))
    lines: list[str] = []
    assert not Runner(lines.append).run([bad, python("good", "print('fine')")], at_once=2)
    assert lines[-3].startswith("bad: failed (exit code 1)")
    assert lines[-2].startswith("good: passed")
    assert lines[-1].startswith("[bad] FAILED ")
    assert lines[-1].endswith("test_broken.py::test_breaks - ValueError: the reason")


def test_lanes_run_in_parallel(tmp_path: Path) -> None:
    meet = (
        "import pathlib, sys, time\n"
        "mine, other = map(pathlib.Path, {names!r})\n"
        "mine.touch()\n"
        "end = time.monotonic() + 300\n"
        "while not other.exists():\n"
        "    assert time.monotonic() < end\n"
        "    time.sleep(0.01)\n"
    )
    names = [str(tmp_path / "a"), str(tmp_path / "b")]
    pair = [python("a", meet.format(names=names)), python("b", meet.format(names=names[::-1]))]
    assert Runner(lambda _: None).run(pair, at_once=2)


def test_an_interrupt_waits_for_the_clean_up_of_each_lane(tmp_path: Path) -> None:
    program = (
        "import pathlib, time\n"
        "try:\n"
        "    print('started')\n"
        "    time.sleep(600)\n"
        "except KeyboardInterrupt:\n"
        "    time.sleep(0.5)\n"
        "    pathlib.Path({path!r}).touch()\n"
        "    raise\n"
    )
    paths = [tmp_path / name for name in "ab"]
    pair = [python(path.name, program.format(path=str(path))) for path in paths]
    waits = python("waits", "print('must not start')")
    both_run = threading.Barrier(2 + 1, timeout=300)
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        if line.endswith("started"):
            threading.Thread(target=both_run.wait, daemon=True).start()

    runner = Runner(say)
    passed: list[bool] = []
    running = threading.Thread(
        target=lambda: passed.append(runner.run([*pair, waits], at_once=2)), daemon=True
    )
    running.start()
    both_run.wait()
    runner.stop()
    running.join(300)
    assert passed == [False]
    assert [path.exists() for path in paths] == [True, True]
    assert not [line for line in lines if "must not start" in line]


def test_a_nice_lane_runs_at_a_lower_priority() -> None:
    lines: list[str] = []
    nice = Lane(name="nice", command=(sys.executable, "-c", "import os; print(os.nice(0))"), nice=5)
    plain = python("plain", "import os; print(os.nice(0))")
    assert Runner(lines.append).run([plain, nice], at_once=1)
    (before, after) = (int(line.split()[1]) for line in lines[:2])
    assert after == min(before + 5, 19)
