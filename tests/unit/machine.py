"""A fake machine: the checked-in scripts run in bash, chrooted into a temporary directory.

The host's /usr and /etc/alternatives are mounted read-only. Mounts, processes, network and host
name have their own namespaces, so a script can neither change nor signal anything outside. Commands
such as kubectl are fakes that the test writes.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, wraps
from pathlib import Path

from components.remote.node_command import Script, digest, path_of, text_of

# One mount(8) for all: a test runs many scripts, and each would start eight of them.
_MOUNTS = """\
{root} {root} none bind
/usr {root}/usr none bind,ro
{root}/local {root}/usr/local none bind
{root}/commands {root}/usr/local/bin none bind
/etc/alternatives {root}/etc/alternatives none bind,ro
/dev {root}/dev none rbind
proc {root}/proc proc defaults
"""
_ENTER = """
set -euo pipefail
root=$1
mount --all --fstab "$root/fstab"
[ ! -e "$root/mounts" ] || . "$root/mounts"
exec chroot "$root" /bin/bash -c "$2"
"""
_NAMESPACES = ("--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc")
_LINKS = ("bin", "sbin", "lib", "lib64")
_FOLDERS = (
    "commands",
    "dev",
    "etc/alternatives",
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
    "group",
    "ld.so.cache",
    "ld.so.conf",
    "nsswitch.conf",
    "os-release",
    "passwd",
)
# Directories mounted over parts of /usr.
_MOUNTED = {"/usr/local/bin/": "commands", "/usr/local/": "local"}
# Every bash on the machine sources this file first (BASH_ENV).
STARTUP = "/etc/bash.startup"
# Every fake command sources this file, if it exists, before it does its work.
FAULT = "/fault"
# A directory's own sync writes its list of names, and none of its files.
_SYNC = """
mkdir -p /after-power-loss
whole=$1
[ "$whole" != --file-system ] || shift
for path; do
    [ -d "$path" ] && [ "$whole" != --file-system ] || cp -r "$path" /after-power-loss/
done
"""
_SKIP_WAITS = """
sleep() { SECONDS=$((SECONDS + 25 + ${1%%.*})); }
"""


@dataclass(frozen=True)
class Result:
    """The exit status and output of a script."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Machine:
    """A root directory: a test prepares it, runs scripts in it and inspects it afterwards.

    Paths are absolute paths on the machine. timeout: seconds until a run counts as hanging.
    """

    root: Path
    name: str = "worker-1"
    timeout: float = 300

    @classmethod
    def make(cls, root: Path) -> "Machine":
        """Create an empty machine in a directory that does not exist yet."""
        for folder in _FOLDERS:
            (root / folder).mkdir(parents=True)
        (root / "tmp").chmod(0o1777)
        for link in _LINKS:
            if Path("/", link).exists():
                (root / link).symlink_to(f"usr/{link}")
        for name in _ETC:
            source = Path("/etc", name)
            if source.exists():
                shutil.copy(source, root / "etc" / name)
        return cls(root)

    def path(self, path: str) -> Path:
        """Map a path on the machine to its path on the host."""
        for mounted, folder in _MOUNTED.items():
            if path.startswith(mounted):
                return self.root / folder / path.removeprefix(mounted)
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file on the machine, and create its parent directories."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def read(self, path: str) -> str:
        """Read a file on the machine."""
        return self.path(path).read_text()

    def exists(self, path: str) -> bool:
        """Whether the path exists on the machine."""
        return self.path(path).exists()

    def fake(self, command: str, body: str = "exit 0") -> None:
        """Put a fake command first on the PATH. `body` is bash; every call is recorded."""
        record = f'printf "%s\\n" "{command} $*" >>/calls'
        text = f"#!/bin/bash\n{record}\n[ ! -e {FAULT} ] || . {FAULT}\n{body}\n"
        self.write(f"/commands/{command}", text, mode=0o755)

    def calls(self, command: str = "") -> list[str]:
        """The recorded calls of one fake command or of all, in order, with their arguments."""
        log = self.path("/calls")
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(f"{command} " if command else "")]

    def lose_power(self) -> None:
        """Leave in /after-power-loss what `sync` has written to the disk, by its file name."""
        self.fake("sync", _SYNC)

    def mount(self, text: str) -> None:
        """Set the bash that runs before each script, outside the chroot, to mount below $root."""
        self.write("/mounts", text)

    def skip_waits(self) -> None:
        """Advance bash's clock by 25 s or more at each sleep, without waiting."""
        self.write(STARTUP, _SKIP_WAITS)

    def run(
        self, file: str, settings: Mapping[str, str], *, stdin: str = "", node: str | None = None
    ) -> Result:
        """Run a script from components/scripts as root."""
        script = Script(file=file, node=node or self.name, settings=settings)
        return self.shell(self.command(script), stdin=stdin)

    def command(self, script: Script) -> str:
        """Copy a script to the machine, and return the command that runs it."""
        command = script.command("root")
        path = path_of(script.file, str(digest(command)))
        if not self.exists(path):
            self.write(path, text_of(script.file))
        return command

    def shell(self, text: str, *, stdin: str = "", has_network: bool = False) -> Result:
        """Run a line of bash on the machine. has_network: share the host's network."""
        namespaces = _NAMESPACES if has_network else (*_NAMESPACES, "--net")
        self.write("/fstab", _MOUNTS.format(root=self.root))
        ended = subprocess.run(
            ["unshare", *namespaces, "bash", "-c", _ENTER, "enter", str(self.root), text],
            env={**os.environ, "BASH_ENV": STARTUP},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=self.timeout,
            check=False,
        )
        return Result(ended.returncode, ended.stdout, ended.stderr)


def prepared_once(prepare: Callable[[Machine], None]) -> Callable[[Machine], None]:
    """Run a preparation once in a process; every other machine gets a copy of its files."""

    @cache
    def template() -> tempfile.TemporaryDirectory[str]:
        directory = tempfile.TemporaryDirectory(prefix="nordmesh-machine-")
        prepare(Machine.make(Path(directory.name, "root")))
        return directory

    @wraps(prepare)
    def copied(machine: Machine) -> None:
        source = f"{template().name}/root/."
        subprocess.run(["cp", "-a", source, str(machine.root)], check=True)

    return copied
