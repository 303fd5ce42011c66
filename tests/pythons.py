"""The command `python -m tests.pythons 3.13`: the program with another version of Python.

It makes an environment from requirements.lock, runs the unit tests of what users run with their own
Python (stack file, components, gates, commands), and deletes the environment. It leaves out the
files and scripts of nodes, which do not depend on it.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from tests.support.paths import PROJECT

_PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", "install")
_FOLDERS = ("cli", "components", "config", "policy", "stacks")
_LEFT_OUT = ("components/host", "components/scripts")


def find(version: str) -> Path | None:
    """Find an interpreter of a version, for example 3.13, on PATH or among those of pyenv."""
    return next((path for path in _candidates(version) if _is_version(path, version)), None)


def _candidates(version: str) -> Iterator[Path]:
    name = f"python{version}"
    if on_path := shutil.which(name):
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}.*/bin/{name}"))


def _is_version(path: Path, version: str) -> bool:
    """Whether a program is this Python; pyenv has one on PATH also for versions not selected."""
    question = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([path, "-c", question], capture_output=True, text=True, check=False)
    return answer.returncode == 0 and answer.stdout.strip() == version


def _commands(interpreter: Path, directory: Path) -> Iterator[tuple[str, ...]]:
    """Make the environment, with the command nordmesh as lab/bootstrap.sh does; run the tests."""
    yield str(interpreter), "-m", "venv", str(directory)
    python = str(directory / "bin" / "python")
    yield python, *_PIP, "--require-hashes", "--requirement", "requirements.lock"
    yield python, *_PIP, "--no-index", "--no-deps", "--no-build-isolation", "--editable", "."
    folders = [f"tests/unit/{folder}" for folder in _FOLDERS]
    left_out = [f"--ignore=tests/unit/{folder}" for folder in _LEFT_OUT]
    yield python, "-m", "pytest", "-q", "-n", "auto", *folders, *left_out


@click.command()
@click.argument("version")
def main(version: str) -> None:
    """Run the unit tests of the program with Python VERSION; fail if it is not installed."""
    if (interpreter := find(version)) is None:
        raise click.ClickException(
            f"there is no Python {version} with its venv module on PATH or in pyenv; install it"
        )
    with TemporaryDirectory(prefix="nordmesh-python-") as directory:
        for command in _commands(interpreter, Path(directory)):
            code = subprocess.run(command, cwd=PROJECT, check=False).returncode
            if code != 0:
                sys.exit(code)


if __name__ == "__main__":
    main(prog_name="python -m tests.pythons")
