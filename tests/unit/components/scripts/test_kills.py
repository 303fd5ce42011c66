"""Scripts that are killed, cut, rebooted, or whose disk fills up, before any of their commands."""

from pathlib import Path

import pytest

from tests.unit import kills
from tests.unit.kill_cases import CASES

# How many stops a sample has; `make soak` makes all of them.
SAMPLES = {"prepare-and-undo": 1, "prepare-and-switch-off": 0}


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_leaves_complete_files_and_the_next_run_finishes(
    tmp_path: Path, name: str
) -> None:
    kills.check(CASES[name], tmp_path, size=SAMPLES.get(name, 2))
