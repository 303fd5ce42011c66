"""Control planes that join, are replaced and leave; `pulumi up` is killed at each script of it."""

import json
from collections.abc import Iterator

import pytest

from tests.live.counted import wait_for
from tests.live.harness import Project, lab_project
from tests.live.moments import kill_sessions, remove_incomplete_files
from tests.live.test_replaced_planes import (
    NETWORK,
    PLANES,
    WORKERS,
    build,
    load,
    members,
    nodes,
    set_nodes,
)
from tests.soak import LEFTOVERS
from tests.support.killed_runs import Moment, kill_at_each_moment, kill_with_descendants, moments

pytestmark = pytest.mark.long

# In order; the first of a cluster with cp-1, cp-2 and cp-3. A control plane that stays, and all.
EDITS = {
    "one is replaced": ("cp-3", ("cp-2", "cp-3", "cp-4")),
    "two leave": ("cp-3", ("cp-3",)),
    "two join": ("cp-3", ("cp-1", "cp-3", "cp-5")),
}


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with lab_project("killedplanes", bridge="nordmesh-kpl", network=NETWORK) as project:
        build(project)
        yield project


def writes(project: Project) -> int:
    """The writes that the API server has accepted."""
    return int(project.ssh(WORKERS["worker-1"], "cat /run/written 2>/dev/null | wc -l"))


@pytest.mark.parametrize("edit", EDITS)
def test_a_run_killed_at_each_script_is_continued(project: Project, edit: str) -> None:
    stays, planes = EDITS[edit]
    set_nodes(project, *planes)
    preview = json.loads(project.pulumi("preview", "--json").text)
    expected = moments(preview["steps"])
    assert expected

    def after(moment: Moment) -> None:
        kill_sessions(project)
        remove_incomplete_files(project)
        # As documented: the killed run holds the lock of the stack until it is cancelled.
        project.pulumi("cancel", "--yes")
        before = writes(project)
        wait_for(f"a write: {moment}", lambda: writes(project) > before, seconds=60)

    with load(project, stays):
        killed = kill_at_each_moment(
            project.start_up, project.log, kill=kill_with_descendants, after=after
        )
    known = killed.reached & set(expected)
    print(f"{edit}: {len(killed.at)} kills at {len(known)} of {len(expected)} moments converged")
    assert not set(expected) - killed.reached
    # Otherwise the engine would warn about the interrupted steps in every later run.
    project.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates")
    assert "pending operations" not in project.up("--expect-no-changes").text
    for plane in planes:
        assert members(project, plane) == set(planes)
        assert project.ssh(PLANES[plane], LEFTOVERS).split() == []
    assert nodes(project) == {*planes, "worker-1", "worker-2"}
