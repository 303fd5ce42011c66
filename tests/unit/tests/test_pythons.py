"""`make check-python`: the interpreter of a version, and an error if it is not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests import pythons

VERSION = "3.99"


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a Python of this version."""
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))


def install(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_a_version_that_is_not_installed_fails() -> None:
    command = [sys.executable, "-m", "tests.pythons", VERSION]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert VERSION in result.stderr


def test_a_version_of_pyenv_that_is_not_selected_is_found(tmp_path: Path) -> None:
    """pyenv puts a program on PATH that fails for a version which is not selected."""
    install(tmp_path / "path" / f"python{VERSION}", "exit 127")
    assert pythons.find(VERSION) is None
    python = tmp_path / "pyenv" / "versions" / f"{VERSION}.1" / "bin" / f"python{VERSION}"
    assert pythons.find(VERSION) is None
    install(python, f"echo {VERSION}")
    assert pythons.find(VERSION) == python


def test_another_version_under_the_name_is_not_taken(tmp_path: Path) -> None:
    python = install(tmp_path / "path" / f"python{VERSION}", "echo 3.98")
    assert pythons.find(VERSION) is None
    python.write_text(f"#!/bin/sh\necho {VERSION}\n")
    assert pythons.find(VERSION) == python
