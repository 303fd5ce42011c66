"""A real engine for tests: the pulumi CLI with a file backend, and an OpenSSH server to run on.

Fixtures:
`project` makes a Pulumi project with a stack in a temporary directory;
`sshd` is an OpenSSH server on 127.0.0.1 with its own host key and client key.

The CLI and pulumi-language-python-exec are the lab's, or those on PATH. Without them the tests
fail; they are never skipped. The language host and the command plugin are the official ones where
the lab has those, otherwise stand-ins.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lab import paths
from lab import toolchain as lab_toolchain
from lab.ports import reserved_port
from lab.standins import install_command_provider, install_language_host
from tests.engine.stored import etcd, places, plane, s3  # noqa: F401 (fixtures)
from tests.support.fleet import Fleet, Server, serving

PROJECT_NAME = "engine"
STACK = "dev"
_SSHD = Path("/usr/sbin/sshd")
_TIMEOUT = 600
# The first two lines are those of the program: see stacks/process.py.
_PRELUDE = """\
import signal
signal.signal(signal.SIGINT, signal.SIG_DFL)
import json
import pathlib

import pulumi
from pulumi_command import local, remote

settings = json.loads(pathlib.Path("settings.json").read_text())
connection = settings.get("connection")
"""


@dataclass(frozen=True)
class Result:
    """Exit status and output of a command."""

    status: int
    output: str
    """Standard output and standard error, as a user sees them."""

    def ok(self) -> Result:
        """Return the result after checking that the command succeeded."""
        assert self.status == 0, self.output
        return self

    def failed(self) -> Result:
        """Return the result after checking that the command failed."""
        assert self.status != 0, self.output
        return self


@dataclass(frozen=True)
class Project:
    """A Pulumi project with one stack, in its own directory."""

    directory: Path
    environment: dict[str, str]

    def write(self, program: str, **settings: Any) -> None:
        """Set the program; it finds `settings`, `connection`, `local` and `remote` defined."""
        (self.directory / "__main__.py").write_text(_PRELUDE + program)
        (self.directory / "settings.json").write_text(json.dumps(settings))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start pulumi with these arguments and do not wait for it."""
        return subprocess.Popen(
            [self.environment["PULUMI"], *arguments, "--non-interactive"],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pulumi(self, *arguments: str) -> Result:
        """Run pulumi with these arguments and wait for it."""
        with self.start(*arguments) as process:
            try:
                output, _ = process.communicate(timeout=_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Result(process.returncode, output)

    def up(self, *arguments: str) -> Result:
        """Run `pulumi up` without a preview."""
        return self.pulumi("up", "--yes", "--skip-preview", *arguments)

    def preview(self, *arguments: str) -> Result:
        """Run `pulumi preview`."""
        return self.pulumi("preview", *arguments)

    def destroy(self) -> Result:
        """Run `pulumi destroy` without a preview."""
        return self.pulumi("destroy", "--yes", "--skip-preview")

    def state(self) -> str:
        """Return the output of `pulumi stack export`, with encrypted secrets."""
        return self.pulumi("stack", "export").ok().output

    def processes(self) -> list[str]:
        """List the command lines of all processes that an engine of this project has started."""
        mark = f"PULUMI_BACKEND_URL={self.environment['PULUMI_BACKEND_URL']}\0".encode()
        commands = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    commands.append((process / "cmdline").read_text())
            except OSError:
                continue  # it has exited, or belongs to another user
        return commands

    def outputs(self) -> dict[str, Any]:
        """Return the outputs of the stack, with secrets in plain text."""
        result = self.pulumi("stack", "output", "--json", "--show-secrets").ok()
        outputs: dict[str, Any] = json.loads(result.output)
        return outputs


@dataclass(frozen=True)
class Toolchain:
    """The CLI with its language host and plugins, and an empty stack to copy."""

    bin: Path
    home: Path
    backend: Path
    stack_file: Path
    environment: dict[str, str] = field(repr=False)


def _find(name: str) -> Path:
    path = shutil.which(name, path=lab_toolchain.environment()["PATH"])
    if path is None:
        pytest.fail(f"{name} is missing; run `make test` or `make up` to build it", pytrace=False)
    return Path(path).resolve()


def _link_or_copy(source: Path, target: Path) -> None:
    """Link or copy a file, but not as a symbolic link, which the engine would resolve."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="session")
def toolchain(tmp_path_factory: pytest.TempPathFactory) -> Toolchain:
    """Set up the CLI, the language host, the command plugin and a stack without resources."""
    root = tmp_path_factory.mktemp("toolchain")
    bin_dir, home, backend, project = (
        root / name for name in ("bin", "home", "backend", "project")
    )
    for directory in (bin_dir, backend, project):
        directory.mkdir()
    for name in ("pulumi", "pulumi-language-python-exec"):
        _link_or_copy(_find(name), bin_dir / name)
    python = Path(sys.executable)
    if lab_toolchain.is_official(lab_toolchain.CLI):
        _link_or_copy(_find(lab_toolchain.LANGUAGE_HOST), bin_dir / lab_toolchain.LANGUAGE_HOST)
    else:
        install_language_host(bin_dir, python)
    if lab_toolchain.is_official(lab_toolchain.COMMAND):
        plugin = lab_toolchain.COMMAND.folder(paths.cache())
        shutil.copytree(plugin, home / "plugins" / plugin.name)
    else:
        install_command_provider(home, python)
    environment = {
        "HOME": str(root),
        "LANG": "C.UTF-8",
        "PATH": os.pathsep.join((str(bin_dir), os.environ.get("PATH", os.defpath))),
        "PULUMI": str(bin_dir / "pulumi"),
        "PULUMI_BACKEND_URL": backend.as_uri(),
        "PULUMI_CONFIG_PASSPHRASE": "only for tests",
        "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
        "PULUMI_HOME": str(home),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
    }
    (project / "Pulumi.yaml").write_text(_project_file())
    Project(project, environment).pulumi("stack", "init", STACK).ok()
    return Toolchain(bin_dir, home, backend, project / f"Pulumi.{STACK}.yaml", environment)


def _project_file(**options: str) -> str:
    """Render Pulumi.yaml (as JSON, which is YAML). options: runtime options to override."""
    runtime = {"name": "python", "options": {"virtualenv": sys.prefix, **options}}
    return json.dumps({"name": PROJECT_NAME, "runtime": runtime})


REMOTE_SCRIPTS = """
import sys
sys.path.insert(0, settings["checkout"])
from components.remote import node_command

node_command._SCRIPTS = pathlib.Path(settings["scripts"])
node_command.FOLDER = settings["copies"]
from components.remote.script import Connection, PrivateKey, RemoteScript

def ssh_to(login):
    return Connection(
        host=login["host"], user=login["user"], port=login["port"], host_key=login["host_key"],
        private_key=PrivateKey(text=login["private_key"]),
    )
"""
"""The start of a program that runs a test's scripts over SSH, from its own directory."""


@pytest.fixture
def project(toolchain: Toolchain, tmp_path: Path) -> Callable[..., Project]:
    """Make a project with an empty stack: `project(program, connection=..., **settings)`.

    The keyword `options` replaces runtime options of Pulumi.yaml.
    """

    def make(program: str, options: dict[str, str] | None = None, **settings: Any) -> Project:
        directory, backend = tmp_path / "project", tmp_path / "backend"
        directory.mkdir()
        # Copying a stack is faster than `pulumi stack init`.
        shutil.copytree(toolchain.backend, backend)
        shutil.copy(toolchain.stack_file, directory)
        (directory / "Pulumi.yaml").write_text(_project_file(**(options or {})))
        environment = {**toolchain.environment, "PULUMI_BACKEND_URL": backend.as_uri()}
        environment["PULUMI_STACK"] = STACK
        created = Project(directory, environment)
        created.write(program, **settings)
        return created

    return make


@dataclass(frozen=True)
class Sshd:
    """An OpenSSH server on this machine."""

    port: int
    host_key: str
    private_key: str = field(repr=False)
    log: Path

    def connection(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of a remote.Connection to the server; None removes an argument."""
        arguments = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": getpass.getuser(),
            "host_key": self.host_key,
            "private_key": self.private_key,
            **changes,
        }
        return {name: value for name, value in arguments.items() if value is not None}

    def connections(self) -> int:
        """Count the connections to the server so far."""
        return self.log.read_text().count("Connection from ")


# A separate home directory, so that the user's shell settings do not slow down the tests.
_SSHD_CONFIG = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {root}/host_key
AuthorizedKeysFile {root}/client_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AcceptEnv PULUMI_COMMAND_* NORDMESH_*
SetEnv HOME={root}
Subsystem sftp internal-sftp
LogLevel VERBOSE
"""


def make_key(path: Path) -> str:
    """Create an ed25519 key pair and return the public key."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)]
    subprocess.run(command, check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


@pytest.fixture
def wait() -> Callable[[Callable[[], bool], str], None]:
    """Wait for a condition: `wait(condition, description)`."""
    return wait_until


def wait_until(condition: Callable[[], bool], description: str) -> None:
    """Wait at most three minutes for a condition."""
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {description}"
        time.sleep(0.02)


def _is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="session")
def start_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Sshd]]:
    """Start an OpenSSH server with extra lines of sshd_config. within: a command that wraps it."""
    if not _SSHD.exists():
        pytest.fail(f"{_SSHD} is missing: install Debian's openssh-server", pytrace=False)
    if os.geteuid() == 0:
        # sshd requires this directory, which only a running ssh.service creates.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    servers: list[subprocess.Popen[bytes]] = []

    def start(*lines: str, within: Sequence[str] = ()) -> Sshd:
        root = tmp_path_factory.mktemp("sshd")
        host_key = make_key(root / "host_key")
        make_key(root / "client_key")
        config, log = root / "sshd_config", root / "log"
        with reserved_port() as port, log.open("wb") as stream:
            config.write_text("\n".join([*lines, _SSHD_CONFIG.format(port=port, root=root)]))
            command = [*within, str(_SSHD), "-D", "-e", "-f", str(config)]
            servers.append(subprocess.Popen(command, stderr=stream))
            wait_until(lambda: _is_open(port), "sshd listens")
        wait_until(
            lambda: "Connection from " in log.read_text(), "the connection attempt is logged"
        )
        private_key = (root / "client_key").read_text()
        return Sshd(port, host_key.removesuffix(" test"), private_key, log)

    yield start
    for server in servers:
        server.terminate()
        server.wait()


@pytest.fixture(scope="session")
def sshd(start_sshd: Callable[..., Sshd]) -> Sshd:
    """An OpenSSH server with default settings."""
    return start_sshd()


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Simulated nodes at the first ADDRESSES of the module's NETWORK, which no other module has."""
    with serving(request.module.ADDRESSES, request.module.NETWORK) as server:
        yield server


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, server: Server, tmp_path_factory: pytest.TempPathFactory
) -> Fleet:
    """A stack that is deployed to the module's NODES."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"), server)
    fleet.deploy(request.module.NODES)
    return fleet
