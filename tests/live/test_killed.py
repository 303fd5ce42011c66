"""`pulumi up` killed at three moments of a build; the next one converges."""

from collections.abc import Iterator

import pytest

from tests.live.harness import Project, lab_project
from tests.live.moments import kill_in_the_middle

# The process that runs on a node at that moment (as in the process table of this machine), and the
# seconds until the middle of it.
MOMENTS = {
    "node preparation": ("--output /var/lib/nordmesh/", 0.2),
    "kubeadm init": ("kubeadm init --config", 5.0),
    "istioctl install": ("istioctl install --skip-confirmation", 8.0),
}

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with lab_project("killed", bridge="nordmesh-kill", network="10.68.0") as project:
        project.start_services()
        project.make_stack()
        yield project


def test_the_run_after_each_killed_run_converges(project: Project) -> None:
    for moment, (arguments, seconds) in MOMENTS.items():
        process = project.start_up()
        kill_in_the_middle(project, process, arguments, seconds)
        print(f"killed in the middle of {moment}")
        # As documented: the killed run holds the lock of the stack until it is cancelled.
        project.pulumi("cancel", "--yes")
    project.up()
    # Otherwise the engine would warn about the interrupted steps in every later run.
    project.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates")
    assert "pending operations" not in project.up("--expect-no-changes").text
    assert "The lab is up." in project.lab("up")
