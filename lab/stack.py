"""The Pulumi stack of a lab: its environment, its lock, and the pulumi commands on it."""

from __future__ import annotations

import json
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree, which
from typing import Any

import yaml

from cli.programs import captured
from lab import paths, programs, toolchain
from lab.errors import LabError

Say = Callable[[str], None]

# The groups whose programs are on a shell's PATH.
_TOOLS = ("kubernetes", *(release.group for release in programs.ISTIO))

# `pulumi stack` adds this to the stack file.
_SALT = re.compile(r"^encryptionsalt:.*\n?", re.M)
_SECURE = re.compile(r"^\s*-?\s*[^#\n]*\bsecure:", re.M)


def write_env(target: Path) -> None:
    """Write the file that a shell sources (`. .lab/env`) to use pulumi, kubectl and istioctl."""
    toolchain.write_env_file(target)
    folders = [str(paths.cache().bin / group) for group in _TOOLS]
    with target.open("a") as file:
        file.write(f'export PATH={shlex.quote(":".join(folders))}:"$PATH"\n')


def remove_empty_attributes(state_file: Path) -> list[Path]:
    """Remove a stack's files `*.attrs` that a killed engine left empty; return them.

    The engine writes one beside each file of the state, and not atomically. With an empty one, each
    command ends with "failed to load checkpoint: EOF"; without one, it reads the state as it is.
    Files of other stacks stay: their engines may be writing them.
    """
    beside = state_file.parent.glob(f"{state_file.name}*.attrs")
    found = [path for path in beside if path.stat().st_size == 0]
    for path in found:
        path.unlink()
    return found


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The file backend's lock on a stack, with the process that holds it."""

    pid: int
    host: str
    since: str

    def holder_is_alive(self) -> bool:
        """Whether the pulumi that took the lock still runs; true if it is on another host."""
        if self.host != socket.gethostname():
            return True
        try:
            # proc(5): "pid (comm) state ..."; one that was killed may remain as a zombie.
            name, _, rest = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")
        except OSError:
            return False
        return name.partition("(")[2].startswith("pulumi") and rest.split()[0] != "Z"


@dataclass(frozen=True, kw_only=True)
class Stack:
    """One stack of the project in a directory."""

    project: Path
    name: str

    # --- running pulumi ---

    def output(self, *arguments: str) -> str:
        """Return the output of a quiet pulumi command; raises LabError with its error text."""
        environment = toolchain.environment()
        result = captured(
            [_pulumi(environment), *arguments, "--non-interactive", "--color=never"],
            cwd=self.project,
            environment=environment,
        )
        if result.returncode:
            raise LabError(
                f"pulumi {' '.join(arguments)} failed",
                code="lab-pulumi",
                details=result.stderr.strip(),
            )
        return result.stdout

    def show(self, *arguments: str) -> None:
        """Run a pulumi command with its output on the screen; raises LabError when it fails.

        Ctrl-C reaches pulumi too, which then finishes its current operations; a second one
        makes it stop at once. Both times this waits until pulumi has ended.
        """
        display = [] if sys.stdout.isatty() else ["--suppress-progress", "--color=never"]
        environment = toolchain.environment()
        command = [_pulumi(environment), *arguments, "--stack", self.name, *display]
        sys.stdout.flush()
        with subprocess.Popen(command, cwd=self.project, env=environment) as process:
            code, was_interrupted = _wait(process)
        if was_interrupted:
            raise KeyboardInterrupt
        if code < 0:
            ended = signal.Signals(-code).name
            raise LabError(
                f"`pulumi {arguments[0]}` was ended by {ended}",
                code="lab-pulumi",
                fix="run this again",
            )
        if code:
            raise LabError(
                f"`pulumi {arguments[0]}` failed",
                code="lab-pulumi",
                fix="fix the errors above, then run this again",
            )

    # --- lifecycle ---

    def select(self) -> None:
        """Create the stack if it is missing, and select it for `pulumi` by hand."""
        self.output("stack", "select", "--create", self.name)

    def state_file(self) -> Path:
        """The stack's state in the file backend."""
        stacks = paths.state().pulumi / ".pulumi" / "stacks"
        return stacks / self._project_name() / f"{self.name}.json"

    def exists(self) -> bool:
        """Whether the backend has the stack."""
        return self.state_file().is_file()

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs with decrypted secrets: never print or log them."""
        text = self.output("stack", "output", "--json", "--show-secrets", "--stack", self.name)
        outputs: dict[str, Any] = json.loads(text)
        return outputs

    def up(self) -> None:
        """`pulumi up`, without the preview's second run of the program."""
        self.show("up", "--yes", "--skip-preview", "--suppress-outputs")

    def destroy(self) -> None:
        """`pulumi destroy`."""
        self.show("destroy", "--yes", "--skip-preview", "--suppress-outputs")

    def remove(self) -> None:
        """Remove the stack with all resources that it still lists; the stack file stays."""
        if self.exists():
            try:
                self.output("stack", "rm", "--yes", "--force", "--preserve-config", self.name)
            except LabError:  # a broken state, or no pulumi any more
                self._remove_files()
        strip_salt(self.project / f"Pulumi.{self.name}.yaml")

    def _remove_files(self) -> None:
        """Remove the backend's files of this stack: <kind>/<project>/<stack>."""
        root, project = paths.state().pulumi / ".pulumi", self._project_name()
        for kind in ("stacks", "history", "backups"):
            for path in (root / kind / project).glob(f"{self.name}*"):
                if path.is_dir() and path.name == self.name:
                    rmtree(path)
                elif path.name.startswith(f"{self.name}.json"):
                    path.unlink()

    # --- cleanup after a killed run ---

    def locks(self) -> list[Lock]:
        """The locks on the stack, oldest first."""
        contents = [json.loads(path.read_text()) for path in self._lock_directory().glob("*.json")]
        return [
            Lock(pid=int(c["pid"]), host=str(c["hostname"]), since=str(c["timestamp"]))
            for c in sorted(contents, key=lambda c: str(c["timestamp"]))
        ]

    def free(self, say: Say) -> None:
        """Remove what a killed run left: its lock, empty attributes and pending operations.

        Raises LabError while the run that holds the lock is alive, ValueError if the state is
        unreadable.
        """
        locks = self.locks()
        for lock in locks:
            if lock.holder_is_alive():
                raise LabError(
                    f"the stack {self.name} is in use by pulumi, process {lock.pid} on {lock.host} "
                    f"since {lock.since}",
                    code="lab-stack-locked",
                    fix=f"wait for it, or end it with `kill {lock.pid}` and run this again",
                )
        if locks:
            # `pulumi cancel` does the same, but not before the stack is made.
            say(f"removed the lock that a killed run (process {locks[0].pid}) left")
            rmtree(self._lock_directory())
        remove_empty_attributes(self.state_file())
        if self.exists():
            self._forget_pending(say)

    def _forget_pending(self, say: Say) -> None:
        """Drop the operations that a killed run had started.

        The engine would warn about them in every later run. All our steps can be repeated, so
        nothing is lost.
        """
        document = json.loads(self.state_file().read_text())
        pending = document.get("checkpoint", {}).get("latest", {}).get("pending_operations")
        if not pending:
            return
        say(f"a killed run was interrupted in {len(pending)} operations, which will be done again")
        exported = json.loads(self.output("stack", "export", "--stack", self.name))
        exported["deployment"].pop("pending_operations", None)
        path = paths.state().root / f".import.{self.name}.json"
        path.touch(mode=0o600)
        try:
            path.write_text(json.dumps(exported))
            self.output("stack", "import", "--stack", self.name, "--file", str(path))
        finally:
            path.unlink()

    def _lock_directory(self) -> Path:
        locks = paths.state().pulumi / ".pulumi" / "locks" / "organization"
        return locks / self._project_name() / self.name

    def _project_name(self) -> str:
        try:
            document: Mapping[str, Any] = yaml.safe_load((self.project / "Pulumi.yaml").read_text())
        except FileNotFoundError:
            raise LabError(
                f"there is no Pulumi.yaml in {self.project}",
                code="lab-no-project",
                fix="run this from the checkout",
            ) from None
        return str(document["name"])


def _pulumi(environment: Mapping[str, str]) -> str:
    """The path of the lab's pulumi; raises LabError if it is missing."""
    pulumi = which("pulumi", path=environment["PATH"])
    if pulumi is None:
        raise LabError("there is no pulumi in the cache", code="lab-tool", fix="run `make up`")
    return pulumi


def _wait(process: subprocess.Popen[bytes]) -> tuple[int, bool]:
    """Wait for a process that gets Ctrl-C too; return its status, and whether Ctrl-C came."""
    was_interrupted = False
    while True:
        try:
            return process.wait(), was_interrupted
        except KeyboardInterrupt:
            was_interrupted = True
            print("\nwaiting for pulumi to end; press Ctrl-C again to stop it at once", flush=True)


def strip_salt(stack_file: Path) -> None:
    """Remove the encryption salt from a stack file, which restores the committed text.

    The salt stays if the file has secrets: without it nothing can decrypt them.
    """
    if not stack_file.is_file():
        return
    text = stack_file.read_text()
    if _SALT.search(text) and not _SECURE.search(text):
        stack_file.write_text(_SALT.sub("", text))


def remove_backend_if_empty(stack_files: Sequence[Path]) -> bool:
    """Remove the backend and the passphrase if no lab needs them; return whether it did.

    A lab needs them from its start, even before it has a stack.
    """
    state = paths.state()
    stacks = state.pulumi / ".pulumi" / "stacks"
    if (
        any(stacks.glob("*/*.json"))
        or any(state.labs.glob("*"))
        or any(_has_secrets(path) for path in stack_files)
    ):
        return False
    if state.pulumi.exists():
        rmtree(state.pulumi)
    state.passphrase.unlink(missing_ok=True)
    return True


def _has_secrets(stack_file: Path) -> bool:
    text = stack_file.read_text()
    return bool(_SALT.search(text) and _SECURE.search(text))
