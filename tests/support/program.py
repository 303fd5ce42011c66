"""A copy of the program for tests to change and run."""

import shutil
import sys
from pathlib import Path

from lab import paths

PARTS = ("Pulumi.yaml", "__main__.py", "cli", "components", "config", "policy", "stacks")


def copy_program(directory: Path, project: Path = paths.PROJECT) -> None:
    """Copy the program into an existing directory, with this environment as its `.venv`."""
    for name in PARTS:
        source = project / name
        if source.is_dir():
            shutil.copytree(source, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, directory / name)
    (directory / ".venv").symlink_to(Path(sys.prefix))
