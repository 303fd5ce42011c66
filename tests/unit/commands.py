"""Runs nordmesh in a project, in this process."""

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

from cli.app import main


def nordmesh(project: Path, *arguments: str, ask: Callable[[str], str] | None = None) -> int:
    """Run a command in a project and return its exit status. ask: answers its questions."""
    with chdir(project), patch("builtins.input", ask):
        return main(arguments)
