"""A pretended machine: the checked-in scripts run in bash in a root directory of their own.

The root is a temporary directory with this machine's /usr mounted read-only, in namespaces of its
own for mounts, processes, network and the host's name: a script can neither change nor signal
anything outside. Commands such as kubectl are fakes, written by the test.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.node_command import Script, digest, path_of, text_of

_ENTER = """
set -euo pipefail
root=$1
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind /usr "$root/usr"
mount -o remount,ro,bind "$root/usr"
mount --bind "$root/local" "$root/usr/local"
mount --bind "$root/commands" "$root/usr/local/bin"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
[ ! -e "$root/mounts" ] || . "$root/mounts"
exec chroot "$root" /bin/bash -c "$2"
"""
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc")
_LINKS = ("bin", "sbin", "lib", "lib64")
_FOLDERS = (
    "commands",
    "dev",
    "etc",
    "local/bin",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr",
    "var/lib",
    "var/log",
)
_ETC = (
    "alternatives",
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "nsswitch.conf",
    "os-release",
    "passwd",
)
# What hides parts of /usr.
_MOUNTED = {"/usr/local/bin/": "commands", "/usr/local/": "local"}
_TIMEOUT = 60
# Every bash of the machine reads this first, if it is there.
STARTUP = "/etc/bash.startup"
_SKIP_WAITS = """
sleep() { SECONDS=$((SECONDS + 25 + ${1%%.*})); }
"""


@dataclass(frozen=True)
class Result:
    """How a script ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Machine:
    """A root directory to prepare, run scripts in, and look at afterwards.

    Paths are absolute, as on the machine.
    """

    root: Path
    name: str = "worker-1"
    _fakes: list[str] = field(default_factory=list)

    @classmethod
    def make(cls, root: Path) -> "Machine":
        """Make an empty machine in a directory that does not exist yet."""
        for folder in _FOLDERS:
            (root / folder).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        for link in _LINKS:
            if Path("/", link).exists():
                (root / link).symlink_to(f"usr/{link}")
        for name in _ETC:
            source = Path("/etc", name)
            if source.is_dir():
                shutil.copytree(source, root / "etc" / name, symlinks=True)
            elif source.exists():
                shutil.copy(source, root / "etc" / name)
        return cls(root)

    def path(self, path: str) -> Path:
        """Where a path of the machine lies outside of it."""
        for mounted, folder in _MOUNTED.items():
            if path.startswith(mounted):
                return self.root / folder / path.removeprefix(mounted)
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file of the machine, with the directories that it needs."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def read(self, path: str) -> str:
        """Read a file of the machine."""
        return self.path(path).read_text()

    def exists(self, path: str) -> bool:
        """Whether the machine has a file or a directory there."""
        return self.path(path).exists()

    def fake(self, command: str, body: str = "exit 0") -> None:
        """Put a fake of a command first on the PATH: `body` is bash, and calls are kept."""
        text = f'#!/bin/bash\nprintf "%s\\n" "{command} $*" >>/calls\n{body}\n'
        self.write(f"/commands/{command}", text, mode=0o755)

    def calls(self, command: str = "") -> list[str]:
        """The calls of all fakes, or of one, in order: the command and its arguments."""
        log = self.path("/calls")
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(f"{command} " if command else "")]

    def mount(self, text: str) -> None:
        """Run bash before each run, outside of the root, which is $root: mounts over its files."""
        self.write("/mounts", text)

    def skip_waits(self) -> None:
        """Let half a minute pass at once when a script sleeps, so that deadlines are soon over."""
        self.write(STARTUP, _SKIP_WAITS)

    def run(
        self, file: str, settings: Mapping[str, str], *, stdin: str = "", node: str | None = None
    ) -> Result:
        """Run a script of components/scripts as root, as a node would."""
        script = Script(file=file, node=node or self.name, settings=settings)
        return self.shell(self.command(script), stdin=stdin)

    def command(self, script: Script) -> str:
        """The command of a script, which is copied to the machine."""
        command = script.command("root")
        path = path_of(script.file, str(digest(command)))
        if not self.exists(path):
            self.write(path, text_of(script.file))
        return command

    def shell(self, text: str, *, stdin: str = "", has_network: bool = False) -> Result:
        """Run a line of bash on the machine. has_network: with the network of this machine."""
        namespaces = _NAMESPACES if has_network else (*_NAMESPACES, "--net")
        ended = subprocess.run(
            ["unshare", *namespaces, "bash", "-c", _ENTER, "enter", str(self.root), text],
            env={**os.environ, "BASH_ENV": STARTUP},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)
