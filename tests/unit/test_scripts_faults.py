"""Scripts of which one call of kubectl, virsh or another command fails: a sample of the calls."""

from pathlib import Path

import pytest

from tests.unit.faults import Faults, interrupted
from tests.unit.kill_cases import CASES, GUARDS

# Runs that take longest have the smallest samples; `make soak` fails each call.
SAMPLES = {"prepare-and-undo": 0, "prepare-and-switch-off": 0, "kvm-change-then-delete": 0}


@pytest.mark.parametrize("name", [name for name in CASES | GUARDS if SAMPLES.get(name, 1)])
def test_a_failed_call_is_no_answer(tmp_path: Path, name: str) -> None:
    faults = Faults.of((CASES | GUARDS)[name], tmp_path)
    problems = [
        problem for fault in faults.sample(2) for problem in interrupted(faults, fault, tmp_path)
    ]
    assert not problems, "\n".join(problems)
