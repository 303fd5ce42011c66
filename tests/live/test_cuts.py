"""SSH is cut at three moments of a build on one machine; each run continues the previous one.

`make soak` does the same at random moments, tests/engine/test_cuts.py on a node without a cluster.
"""

import time
from collections.abc import Iterator

import pytest

from tests.live.harness import Project, lab_project
from tests.live.moments import wait_for_program
from tests.soak import LEFTOVERS
from tests.support.ssh_way import Cut, Way, redirected

BRIDGE = "nordmesh-cuts"
NETWORK, ADDRESS = "10.79.0", "10.79.0.11"
# The process that runs on the node at that moment (as in the process table of this machine), the
# seconds until the middle of it, and how the connections end.
MOMENTS = {
    "node preparation": ("--output /var/lib/nordmesh/", 0.2, Cut(is_reset=True, stays=True)),
    "kubeadm init": ("kubeadm init --config", 5.0, Cut(is_reset=False, stays=False)),
    "istioctl install": ("istioctl install --skip", 5.0, Cut(is_reset=True, stays=False)),
}
SECONDS = 200

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def project() -> Iterator[Project]:
    with lab_project("cuts", bridge=BRIDGE, network=NETWORK) as project:
        with project.config() as config:
            del config["nordmesh:machines"]["nodes"]["worker-1"]
            config["nordmesh:demo"] = {"enabled": False}
        project.start_services()
        project.make_stack()
        yield project


def test_the_run_after_each_cut_run_continues(project: Project) -> None:
    with Way() as way, redirected(f"{NETWORK}.0/24", way.port):
        for moment, (arguments, seconds, how) in MOMENTS.items():
            logged = project.log.stat().st_size
            process = project.start_up()
            wait_for_program(process, arguments, on=BRIDGE, seconds=SECONDS)
            time.sleep(seconds)
            assert way.cut(how), "there was no connection to cut"
            assert process.wait(timeout=SECONDS) != 0
            way.restore()
            output = project.log.read_bytes()[logged:].decode()
            plain = " ".join(output.split())
            assert "node cp-1: The SSH connection was cut while a script ran there" in plain, output
            assert "Traceback" not in output
            print(f"cut in the middle of {moment}")
        project.up()
        # No run was killed, so there is no lock to break and no pending operation to clear.
        assert "pending operations" not in project.up("--expect-no-changes").text
        assert project.ssh(ADDRESS, LEFTOVERS).split() == []
    assert "The lab is up." in project.lab("up")
