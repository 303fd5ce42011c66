"""A machine with real scripts, SSH server and files, and a fake Kubernetes.

It is this machine in a separate mount namespace, with separate directories /etc, /run,
/usr/local/bin, /usr/local/lib, /var/lib and /var/log. Its programs are those of programs.sh.
"""

import asyncio
import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh

from components import encryption_keys
from components.handover import PIPE, Handover
from components.host.templates import render
from components.join_token import tokens
from components.manifests import kubeadm
from components.membership import answers
from components.node import binaries_setting
from components.peers import Asked
from components.remote.copies import Copies
from components.remote.failures import is_missing_script
from components.remote.node_command import Script
from components.remote.nodes_ssh import Login
from config import Artifacts
from config.catalogue import Binary
from lab.standins._plugin import StepFailedError, failure
from lab.standins._ssh import Connection, Pool
from tests.engine.conftest import Sshd, wait_until
from tests.support.ssh_way import Cut, Way
from tests.unit.node import INIT_SETTINGS

PROGRAMS = Path(__file__).with_name("programs.sh")
ENDPOINT = "api.internal"
NAMES = ("kubeadm", "kubectl", "systemctl")
# Files with secrets, and incomplete files.
TEMPORARY = ("*.new", "*.part", "install.*", "join.*")
SECRETS = ("client-key-in-the-clear", "issued.0123456789abcdef", "c0ffee" * 10)
_BINDS = {
    "etc": "/etc",
    "run": "/run",
    "bin": "/usr/local/bin",
    "local-lib": "/usr/local/lib",
    "lib": "/var/lib",
    "log": "/var/log",
}
# Files that may contain secrets after kubeadm: the administrator's kubeconfig.
_MAY_HOLD_SECRETS = ("etc/kubernetes/admin.conf",)


class Machine:
    """Machine for scripts. mirror: the directory that istioctl is served from."""

    def __init__(self, root: Path, start: Callable[..., Sshd]) -> None:
        self._root, self.mirror = root, root / "mirror"
        self.mirror.mkdir(parents=True)
        (self.mirror / "istioctl").write_bytes(PROGRAMS.read_bytes())
        for name in _BINDS:
            (root / name).mkdir()
        shutil.copytree("/etc", root / "etc", symlinks=True, dirs_exist_ok=True)
        for name in NAMES:
            shutil.copy2(PROGRAMS, root / "bin" / name)
            (root / "bin" / name).chmod(0o755)
        (root / "run" / "sshd").mkdir()
        # What node-prepare.sh would have written.
        (root / "etc" / "nordmesh").mkdir()
        program = root / "local-lib" / "nordmesh" / "endpoint.sh"
        program.parent.mkdir()
        program.write_text(render("usr/local/lib/nordmesh/endpoint.sh"))
        binds = "; ".join(f"mount --bind {root / name} {at}" for name, at in _BINDS.items())
        self.sshd = start(within=["unshare", "--mount", "bash", "-ec", f'{binds}; exec "$@"', "-"])

    def reset(self) -> None:
        """Wait for running scripts, then reset the machine."""
        self.wait()
        for path in (*self._root.glob("lib/*"), self._path("etc/kubernetes")):
            shutil.rmtree(path, ignore_errors=True)
        for path in (*self._root.glob("run/*"), self._path("bin/istioctl")):
            if path.is_file():
                path.unlink()

    def wait(self) -> None:
        """Wait until no script runs."""
        lock = self._path("run/nordmesh/lock")
        if lock.exists():
            subprocess.run(["flock", "--wait", "300", str(lock), "true"], check=True)

    def write(self, name: str, text: str) -> None:
        """Write a file, for example etc/hosts."""
        self._path(name).parent.mkdir(parents=True, exist_ok=True)
        self._path(name).write_text(text)

    @property
    def join_pipe(self) -> Path:
        """The pipe through which a token comes."""
        return self._path(PIPE.lstrip("/"))

    def runs(self, *expected: str) -> bool:
        """Return whether a program with these arguments runs."""
        home = f"HOME={self.sshd.log.parent}\0".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has exited
                arguments = (process / "cmdline").read_text(errors="replace").split("\0")
                if set(expected) <= set(arguments) and home in (process / "environ").read_bytes():
                    return True
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock that scripts hold."""
        self._path("run/nordmesh").mkdir(exist_ok=True)
        with self._path("run/nordmesh/lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def waiting(self) -> int:
        """Count the scripts that wait for the lock."""
        name = str(self._path("run/nordmesh/lock").stat().st_ino)
        lines = Path("/proc/locks").read_text().splitlines()
        return sum("->" in line and f":{name} " in line for line in lines)

    def documents(self) -> list[str]:
        """Return the files that scripts pass to programs."""
        return [path.read_text() for path in self._path("run/nordmesh").glob("*.yaml")]

    def start_without_input(self, way: Way, script: Script, how: Cut) -> None:
        """Start a script and cut the connection while it waits for input."""
        run = f"RUN={script.settings['RUN']}\0".encode()

        async def start() -> None:
            pool = Pool()
            inputs = _inputs(self._connection(way.port), script.command("root"))
            assert await Copies().ensure(inputs) is None
            async with (
                pool.machine(self._connection(way.port)).session() as link,
                link.connection.create_process(script.command("root")),
            ):
                await asyncio.to_thread(wait_until, lambda: _has_child(run), "it reads")
                way.cut(how)

        with suppress(OSError, asyncssh.Error):  # caused by the cut
            asyncio.run(start())

    def files(self) -> dict[str, str]:
        """Return the files that scripts create and change."""
        return {
            path.relative_to(self._root).as_posix(): path.read_text()
            for folder in ("etc/kubernetes", "lib", "bin")
            for path in sorted(self._path(folder).rglob("*"))
            if path.is_file()
        }

    def mode(self, name: str) -> int:
        """The permissions of a file."""
        return self._path(name).stat().st_mode & 0o777

    def leftovers(self) -> list[str]:
        """List files that every script must delete."""
        return [
            path.name
            for folder in ("etc/kubernetes", "lib", "run/nordmesh", "bin")
            for pattern in TEMPORARY
            for path in self._path(folder).rglob(pattern)
        ]

    def files_with_secrets(self) -> list[str]:
        """List files that contain a secret but should not."""
        folders = ("etc/kubernetes", "lib", "log/nordmesh", "run")
        paths = (path for folder in folders for path in self._path(folder).rglob("*"))
        return [
            name
            for path in paths
            if path.is_file()
            and (name := path.relative_to(self._root).as_posix()) not in _MAY_HOLD_SECRETS
            and any(secret in path.read_text() for secret in SECRETS)
        ]

    def journal(self) -> list[tuple[str, str, str]]:
        """Return the programs that ran, in order: begin or end, the run, the program."""
        file = self._path("run/journal")
        lines = file.read_text().splitlines() if file.exists() else []
        return [(kind, run, work) for kind, run, work in (line.split(" ", 2) for line in lines)]

    def scripts(self, mirror: str, run: str, **more: str) -> dict[str, Script]:
        """Return the scripts that `pulumi up` runs, in order, by file."""
        sha256 = hashlib.sha256((self.mirror / "istioctl").read_bytes()).hexdigest()
        istioctl = Binary(name="istioctl", url="https://istioctl", sha256=sha256)
        settings: dict[str, Mapping[str, str]] = {
            "kubeadm-init.sh": INIT_SETTINGS,
            "istio-install.sh": {
                "ALLOW_UNSUPPORTED": "false",
                "BINARIES": binaries_setting([istioctl], Artifacts(mirror=mirror)),
                "CONTROL_PLANE": "kind: IstioOperator",
                "GATEWAYS": "kind: IstioOperator",
                "READINESS_TIMEOUT": "1m",
                "REVISION": "1-16-5",
            },
            "kubeadm-join.sh": {"ENDPOINT": ENDPOINT, "JOIN_CONFIG": "token: @TOKEN@"},
        }
        return {
            file: Script(file=file, node="cp-1", settings={**values, "RUN": run, **more})
            for file, values in settings.items()
        }

    def up(
        self,
        scripts: Mapping[str, Script],
        port: int,
        *,
        done: Mapping[str, str] | None = None,
        others: Mapping[str, Asked] | None = None,
    ) -> "Up":
        """Prepare a run of the scripts that are not done yet, like `pulumi up`, through a port.

        others: the other control planes of the stack file.
        """
        return Up(self._connection(port), scripts, dict(done or {}), others or {})

    def _connection(self, port: int) -> Connection:
        return Connection(
            host="127.0.0.1",
            port=port,
            user="root",
            host_key=self.sshd.host_key,
            private_key=self.sshd.private_key,
            dial_error_limit=2,
            per_dial_timeout=5,
        )

    def _path(self, name: str) -> Path:
        return self._root / name


class Up:
    """One run. done: output of the scripts that succeeded. failure: why the next script failed."""

    def __init__(
        self,
        connection: Connection,
        scripts: Mapping[str, Script],
        done: dict[str, str],
        others: Mapping[str, Asked],
    ) -> None:
        self.done = done
        self._others = others
        self.failure: str | None = None
        self._connection, self._scripts = connection, scripts
        self._copies = Copies()

    def run(self) -> "Up":
        """Run all scripts until one fails."""
        asyncio.run(self._run())
        return self

    async def _run(self) -> None:
        pool = Pool()
        try:
            for file, script in self._scripts.items():
                if file not in self.done:
                    self.done[file] = await self._run_script(pool, file, script)
        except StepFailedError as error:
            self.failure = str(error)
        finally:
            pool.abort()

    async def _run_script(self, pool: Pool, file: str, script: Script) -> str:
        stdout, both = bytearray(), bytearray()

        def sink(is_stdout: bool, data: bytes) -> None:
            both.extend(data)
            if is_stdout:
                stdout.extend(data)

        stdin, handovers = "", []
        login = Login.of(_inputs(self._connection, "")["connection"])
        if file == "kubeadm-init.sh":
            line = answers(self._others, endpoint=ENDPOINT)
            keys = encryption_keys.answers(self._others, endpoint=ENDPOINT)
            handovers = [
                Handover(login, line, 300),
                Handover(login, keys, 300, encryption_keys.PIPE),
            ]
        elif file == "kubeadm-join.sh":
            credentials = json.loads(self.done["kubeadm-init.sh"])
            stdin = kubeadm.discovery_kubeconfig(credentials, endpoint=ENDPOINT)
            handovers = [Handover(login, tokens({"cp-1": login}), 300)]
        for handover in handovers:
            handover.start()
        try:
            await self._run_command(pool, script.command("root"), stdin, sink, both)
        finally:
            # It ends with the script, or with the program that runs Pulumi.
            for handover in handovers:
                await asyncio.to_thread(handover.end)
        return stdout.decode()

    async def _run_command(
        self, pool: Pool, command: str, stdin: str, sink: Callable[[bool, bytes], None],
        both: bytearray,
    ) -> None:  # fmt: skip
        await self._copies.ensure(_inputs(self._connection, command))
        for is_retry in (False, True):
            why = await pool.run(self._connection, command, environment={}, stdin=stdin, sink=sink)
            if why is None:
                return
            error = failure(why, command, bytes(both))
            if is_retry or not is_missing_script(error):
                raise StepFailedError(error)
            problem = await self._copies.ensure(_inputs(self._connection, command), again=True)
            if problem is not None:
                raise StepFailedError(problem)


def _inputs(login: Connection, command: str) -> dict[str, Any]:
    """Return the inputs of a command that a hook receives."""
    connection = {
        "host": login.host,
        "port": login.port,
        "user": login.user,
        "hostKey": login.host_key,
        "privateKey": login.private_key,
    }
    return {"connection": connection, "create": command}


def _has_child(mark: bytes) -> bool:
    """Return whether a program with this variable in its environment runs."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes():
                return True
    return False
