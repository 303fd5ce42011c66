"""Scripts of which one call of kubectl, virsh or another command fails: a sample of the calls."""

from pathlib import Path

import pytest

from tests.unit.faults import Faults, interrupted
from tests.unit.kill_cases import CASES, GUARDS

# These differ from other runs of their scripts by the files that they write; `make soak` fails each
# call of each run.
OMITTED = {
    "prepare-again",
    "prepare-and-switch-off",
    "prepare-and-undo",
    "kvm-change-then-delete",
    "switch-off",
}
CHOSEN = [name for name in CASES | GUARDS if name not in OMITTED]


@pytest.mark.parametrize("name", CHOSEN)
def test_a_failed_call_is_no_answer(tmp_path: Path, name: str) -> None:
    faults = Faults.of((CASES | GUARDS)[name], tmp_path)
    problems = [
        problem for fault in faults.sample(2) for problem in interrupted(faults, fault, tmp_path)
    ]
    assert not problems, "\n".join(problems)
