"""lab/bootstrap.sh: when it installs packages. A fake Python records its calls."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lab.paths import PROJECT

PYTHON = """#!/bin/sh
echo "$*" >>"$(dirname "$0")/calls"
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment matches the locks and has this checkout's command."""
    directory = tmp_path / "checkout"
    (directory / "lab").mkdir(parents=True)
    shutil.copy(PROJECT / "lab" / "bootstrap.sh", directory / "lab")
    (directory / "requirements.lock").write_text("lock")
    (directory / "lab" / "requirements.lock").write_text(" of the lab")
    make_environment(directory / ".venv", directory)
    return directory


def make_environment(folder: Path, command_of: Path) -> None:
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "_editable_impl_nordmesh.pth").write_text(f"{command_of}\n{command_of}")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").write_text(PYTHON)
    (folder / "bin" / "python").chmod(0o755)
    digest = subprocess.run(
        ["sha256sum"], input="lock of the lab", capture_output=True, text=True, check=True
    ).stdout
    (folder / ".requirements.sha256").write_text(digest)


def run(checkout: Path) -> str:
    """Run bootstrap.sh; return the calls of the environment's Python."""
    subprocess.run([checkout / "lab" / "bootstrap.sh"], check=True, capture_output=True)
    calls = checkout / ".venv" / "bin" / "calls"
    return calls.read_text() if calls.exists() else ""


def test_an_up_to_date_environment_is_not_reinstalled(checkout: Path) -> None:
    assert run(checkout) == ""


def test_a_moved_checkout_reinstalls_its_command(checkout: Path, tmp_path: Path) -> None:
    moved = checkout.rename(tmp_path / "moved")
    assert "--editable ." in run(moved)


@pytest.mark.parametrize("lock", ["requirements.lock", "lab/requirements.lock"])
def test_a_changed_lock_installs_its_packages(checkout: Path, lock: str) -> None:
    (checkout / lock).write_text("another")
    assert f"--requirement {lock}" in run(checkout)


def test_another_checkouts_environment_keeps_its_command(checkout: Path, tmp_path: Path) -> None:
    shutil.rmtree(checkout / ".venv")
    make_environment(tmp_path / "theirs", tmp_path / "their-checkout")
    (checkout / ".venv").symlink_to(tmp_path / "theirs")
    assert run(checkout) == ""
    (checkout / "requirements.lock").write_text("another")
    assert "--editable" not in run(checkout)
