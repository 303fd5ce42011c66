"""`pulumi up` killed at three moments of a build; the next one converges."""

from collections.abc import Iterator

import pytest

from tests.live.harness import Project, lab_project
from tests.live.moments import kill_in_the_middle

# What runs on a node at that moment (seen in this machine's process table), and the seconds after
# which the middle of it is reached.
MOMENTS = {
    "node preparation": ("--output /var/lib/nordmesh/", 0.2),
    "kubeadm init": ("kubeadm init --config", 5.0),
    "istioctl install": ("istioctl install --skip-confirmation", 8.0),
}


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with lab_project("killed", bridge="nordmesh-kill", network="10.68.0") as project:
        project.start_services()
        project.make_stack()
        yield project


def test_every_killed_run_is_followed_by_one_that_goes_on(project: Project) -> None:
    for moment, (words, seconds) in MOMENTS.items():
        process = project.start_up()
        kill_in_the_middle(process, words, seconds, on=project.bridge)
        print(f"killed in the middle of {moment}")
        # The documented way: the killed run holds the stack's lock until it is cancelled.
        project.pulumi("cancel", "--yes")
    project.up()
    # The engine would warn of the cut-off steps in every run from now on.
    project.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates")
    assert "pending operations" not in project.up("--expect-no-changes").text
    assert "The lab is up." in project.lab("up")
