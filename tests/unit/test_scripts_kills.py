"""Scripts on nodes that are killed, or whose disk fills up, before any of their commands."""

from pathlib import Path

import pytest

from tests.support.joining import TOKEN
from tests.unit import kills, node

CASES = {
    "prepare": kills.Case(prepare=node.make, run=node.first),
    "prepare-again": kills.Case(
        prepare=node.prepared,
        run=node.changed,
        always=('step "start containerd"', "logged kubelet-restart"),
    ),
    "prepare-and-undo": kills.Case(
        prepare=node.prepared, run=node.changed, then=node.first, always=('rm -rf "$work" "$file"',)
    ),
    "prepare-and-switch-off": kills.Case(
        prepare=node.make, run=node.first, then=node.plain, always=('write_file "$HOST_FILES"',)
    ),
    "switch-off": kills.Case(prepare=node.prepared, run=node.plain),
    "join": kills.Case(prepare=node.make, run=node.join, secrets=(TOKEN.encode(),)),
    "join-again": kills.Case(prepare=node.forgotten, run=node.join, secrets=(TOKEN.encode(),)),
    "init": kills.Case(prepare=node.make, run=node.init),
}
# Additional stops in each sample.
SAMPLES = {"prepare-again": 2, "prepare-and-undo": 1, "prepare-and-switch-off": 0, "switch-off": 2}


@pytest.mark.parametrize("name", CASES)
def test_a_stopped_run_leaves_complete_files_and_the_next_run_finishes(
    tmp_path: Path, name: str
) -> None:
    kills.check(CASES[name], tmp_path, size=SAMPLES.get(name, 3))
