"""Scripts are copied to a machine before they run, over real SSH, by hooks in a real engine."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lab import paths
from tests.engine.conftest import REMOTE_SCRIPTS, Project, Sshd

Projects = Callable[..., Project]

# The machine is this one; its scripts are stored in a directory of the test.
PROGRAM = (
    REMOTE_SCRIPTS
    + """
login = settings["login"]
for name in settings["names"]:
    RemoteScript(
        name,
        ssh_to(login),
        node_command.Script(file="make.sh", node=name, settings={"SIZE": settings["size"]}),
        delete=node_command.Script(file="unmake.sh", node=name, settings={}),
        opts=pulumi.ResourceOptions(),
    )
"""
)


class Deployed:
    """A stack whose scripts record that they ran, and the directory of their copies."""

    def __init__(self, project: Projects, sshd: Sshd, directory: Path) -> None:
        self.sources, self.copies = directory / "scripts", directory / "copies"
        self._log = directory / "log"
        self.sources.mkdir()
        (self.sources / "lib.sh").write_text("set -euo pipefail\n")
        self.write("make")
        self.write("unmake")
        self._settings = {
            "checkout": str(paths.PROJECT),
            "scripts": str(self.sources),
            "copies": str(self.copies),
            "login": sshd.connection(),
            "size": "1",
        }
        self.sshd = sshd
        self.project = project(PROGRAM, names=["a", "b"], **self._settings)

    def write(self, name: str, more: str = "") -> None:
        text = f"echo {name} $NODE_NAME ${{SIZE:-}} {more} >>{self._log}\n"
        (self.sources / f"{name}.sh").write_text(text)

    def settings(self, *names: str, **changes: str) -> None:
        self.project.write(PROGRAM, names=list(names), **{**self._settings, **changes})

    def files(self) -> list[Path]:
        return sorted(self.copies.iterdir())

    def ran(self) -> list[str]:
        """Return the scripts that ran since the last call."""
        lines = sorted(" ".join(line.split()) for line in self._log.read_text().splitlines())
        self._log.write_text("")
        return lines


@pytest.fixture
def deployed(project: Projects, sshd: Sshd, tmp_path: Path) -> Deployed:
    stack = Deployed(project, sshd, tmp_path)
    output = stack.project.up().ok().output
    assert "retrying" not in output
    assert stack.ran() == ["make a 1", "make b 1"]
    assert [path.name.rpartition("-")[0] for path in stack.files()] == ["make", "unmake"]
    return stack


def test_a_run_without_changes_opens_no_connection(deployed: Deployed) -> None:
    before = deployed.sshd.connections()
    deployed.project.up().ok()
    assert deployed.sshd.connections() == before


def test_a_changed_script_is_copied_beside_the_old_version(deployed: Deployed) -> None:
    old = deployed.files()
    deployed.write("make", "again")
    deployed.project.up().ok()
    assert deployed.ran() == ["make a 1 again", "make b 1 again"]
    assert len(deployed.files()) == 3
    assert set(old) < set(deployed.files())


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_the_next_update_restores_lost_and_changed_copies(deployed: Deployed, how: str) -> None:
    for path in deployed.files():
        path.unlink() if how == "removed" else path.write_text("echo altered\n")
    deployed.settings("a", "b", size="2")
    output = deployed.project.up().ok().output
    assert "altered" not in output
    assert deployed.ran() == ["make a 2", "make b 2"]


def test_a_deletion_restores_the_copy_of_its_script(deployed: Deployed) -> None:
    for path in deployed.files():
        path.unlink()
    deployed.settings("a")
    deployed.project.up().ok()
    assert deployed.ran() == ["unmake b"]


def test_destroy_without_the_program_does_not_run_a_changed_copy(deployed: Deployed) -> None:
    for path in deployed.files():
        path.write_text("echo altered\n")
    output = deployed.project.destroy().failed().output
    assert "altered" not in output
    assert "is missing or was changed" in output
    assert "pulumi destroy --run-program" in output
    deployed.project.pulumi("destroy", "--yes", "--skip-preview", "--run-program").ok()
    assert deployed.ran() == ["unmake a", "unmake b"]


def test_destroy_works_without_the_program(deployed: Deployed) -> None:
    deployed.project.destroy().ok()
    assert deployed.ran() == ["unmake a", "unmake b"]


def test_a_missing_old_version_of_a_script_is_reported(deployed: Deployed) -> None:
    for path in deployed.files():
        path.unlink()
    deployed.write("unmake", "again")
    deployed.settings("a")
    output = deployed.project.up().failed().output
    assert "node b: " in output
    assert "the checkout of the last `pulumi up`" in output
