"""A copy of the working tree in a temporary directory, where tests run on mutants."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.mutate.mutant import Mutant

_GIT = ("git", "-c", "user.name=mutate", "-c", "user.email=mutate@localhost", "-c", "gc.auto=0")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.M)


@dataclass(frozen=True)
class Ended:
    """Exit status and output of a command; the status is None after a timeout."""

    status: int | None
    output: str
    seconds: float

    @property
    def failed_test(self) -> str:
        """First test that pytest reports as failed, or an empty string."""
        match = _FAILED.search(self.output)
        return match[1] if match else ""


@dataclass(frozen=True)
class Tree:
    """The copy: a separate Git repository with the .venv of the project."""

    root: Path
    scratch: Path

    @property
    def version(self) -> str:
        """Hash of the content of all files."""
        return self._git("rev-parse", "HEAD^{tree}").strip()

    @contextmanager
    def mutated(self, path: Path, mutant: Mutant) -> Iterator[str]:
        """Apply a mutant and yield the diff; revert it and delete new files at the end."""
        file = self.root / path
        file.write_bytes(mutant.apply(file.read_bytes()))
        try:
            yield self._git("diff", "--no-prefix", "--unified=2")
        finally:
            self._git("checkout", "--quiet", "--force", ".")
            self._git("clean", "-dfq")

    def test(self, tests: Sequence[str], *, timeout: float) -> Ended:
        """Run tests until the first one fails."""
        options = ("-x", "-q", "-p", "no:cacheprovider", f"--basetemp={self.scratch / 'pytest'}")
        return self.run(sys.executable, "-m", "pytest", *options, *tests, timeout=timeout)

    def run(self, *command: str, timeout: float) -> Ended:
        """Run a command in the copy, and kill all of its processes when it ends."""
        started = time.monotonic()
        with (self.scratch / "output").open("w+") as output:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(self.scratch)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | None = process.wait(timeout)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            output.seek(0)
            return Ended(status, output.read(), time.monotonic() - started)

    def _git(self, *arguments: str) -> str:
        return _output(*_GIT, *arguments, cwd=self.root)


def _output(*command: str, cwd: Path) -> str:
    ended = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    return ended.stdout


@contextmanager
def copied(project: Path) -> Iterator[Tree]:
    """Copy the files of the project that Git tracks or would add; delete the copy at the end."""
    with tempfile.TemporaryDirectory(prefix="nordmesh-mutate-") as directory:
        root, scratch = Path(directory, "tree"), Path(directory, "tmp")
        scratch.mkdir()
        listed = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
        for name in _output("git", *listed, cwd=project).split("\0"):
            source, target = project / name, root / name
            if name and source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        if not (root / ".venv").is_symlink():
            (root / ".venv").symlink_to((project / ".venv").resolve())
        for command in (
            ("init", "--quiet"),
            ("add", "--all"),
            ("commit", "--quiet", "-m", "begin"),
        ):
            _output(*_GIT, *command, cwd=root)
        # Hash-based bytecode, because modification times are too coarse to detect a mutant.
        compile_all = (sys.executable, "-m", "compileall", "-q", "--invalidation-mode=checked-hash")
        _output(*compile_all, str(root), cwd=root)
        yield Tree(root, scratch)
