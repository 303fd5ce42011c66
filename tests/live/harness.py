"""A copy of the program with its own lab, and the operations of the live tests on it."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp
from typing import Any

import yaml

from lab import paths, screen, services, toolchain
from lab.stack import Stack
from tests.support.program import copy_program

CHECKOUT = paths.PROJECT


@dataclass(frozen=True, kw_only=True)
class Result:
    """The output and exit code of a command."""

    code: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Project:
    """Copy of the program with one stack; its lab may be running."""

    directory: Path
    stack: str
    bridge: str
    log: Path

    @property
    def stack_file(self) -> Path:
        return self.directory / f"Pulumi.{self.stack}.yaml"

    @contextmanager
    def config(self) -> Iterator[dict[str, Any]]:
        """Edit the configuration of the stack file, which is written when the block ends."""
        document = yaml.safe_load(self.stack_file.read_text())
        yield document["config"]
        self.stack_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def environment(self) -> dict[str, str]:
        return {**os.environ, **toolchain.environment(), "PYTHONPATH": str(CHECKOUT)}

    def lab(self, command: str, *, timeout: float = 1800) -> str:
        """Run `python -m lab <command>`; the test fails if the command fails."""
        result = self._run(
            [sys.executable, "-m", "lab", command, "--stack", self.stack], timeout=timeout
        )
        assert result.code == 0, f"`lab {command}` failed:\n{result.text}"
        return result.text

    def start_services(self) -> None:
        """Start the services of the lab: bridge, mirror, registry and state."""
        lab = services.read_lab(self.directory, self.stack)
        services.start_bridge(lab)
        services.start_services(lab)
        toolchain.make_state()

    def make_stack(self) -> None:
        """Create an empty stack; replace one from an earlier test run."""
        stack = Stack(project=self.directory, name=self.stack)
        stack.free(print)
        stack.remove()
        self.pulumi("stack", "init", "--no-select")

    def pulumi(
        self, *arguments: str, timeout: float = 1800, ok: bool = True, stdin: str = ""
    ) -> Result:
        """Run pulumi on this stack without colours."""
        command = ["pulumi", *arguments, "--stack", self.stack, "--color=never"]
        result = self._run([*command, "--non-interactive"], timeout=timeout, stdin=stdin)
        assert not ok or result.code == 0, f"`pulumi {arguments[0]}` failed:\n{result.text}"
        return result

    def run_python(self, *arguments: str, timeout: float = 300) -> Result:
        """Run a Python module of the project, as `make` does; it may fail."""
        return self._run([sys.executable, *arguments], timeout=timeout)

    def up(self, *arguments: str, ok: bool = True) -> Result:
        return self.pulumi("up", "--yes", "--skip-preview", *arguments, ok=ok)

    def fails(self, *messages: str) -> str:
        """Check that `pulumi up` fails with these messages; return the output."""
        text = self.up(ok=False).text
        plain = " ".join(text.split())
        for message in ("error:", *messages):
            assert message in plain, text
        assert "Traceback" not in text
        return text

    def start_up(self) -> subprocess.Popen[bytes]:
        """Start `pulumi up` in the background, in its own process group."""
        command = ["pulumi", "up", "--yes", "--skip-preview", "--non-interactive"]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*command, "--color=never", "--stack", self.stack],
                cwd=self.directory,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def review(self) -> str:
        """Return the Markdown summary of a preview."""
        command = [sys.executable, "-m", "cli", "review", "--stack", self.stack]
        result = self._run(command, timeout=300)
        assert result.code == 0, result.text
        return result.text

    def set_config(self, path: str, value: object) -> None:
        self.pulumi("config", "set", "--path", f"nordmesh:{path}", str(value))

    @property
    def state_directory(self) -> Path:
        return paths.state().lab(self.bridge)

    def outputs(self) -> dict[str, Any]:
        text = self.pulumi("stack", "output", "--json", "--show-secrets").text
        outputs: dict[str, Any] = json.loads(text)
        return outputs

    @contextmanager
    def cluster(self) -> Iterator[screen.Cluster]:
        """Connect kubectl and istioctl to the cluster of the stack."""
        with NamedTemporaryFile("w") as file:  # created with mode 0600
            file.write(self.outputs()["kubeconfig"])
            file.flush()
            yield screen.Cluster(Path(file.name))

    def ssh(self, address: str, command: str) -> str:
        """Run a command on a node with the key of the lab and the pinned host key."""
        lab = self.state_directory
        (host_key,) = (
            settings.with_name("host_key.pub").read_text()
            for settings in (lab / "machines").glob("*/settings")
            if f" {address}/" in settings.read_text()
        )
        with NamedTemporaryFile("w") as known_hosts:
            known_hosts.write(f"{address} {host_key}")
            known_hosts.flush()
            result = subprocess.run(
                [
                    "ssh", "-F", "none", "-i", str(lab / "id_ed25519"),
                    "-o", "IdentitiesOnly=yes", "-o", "StrictHostKeyChecking=yes",
                    "-o", f"UserKnownHostsFile={known_hosts.name}", f"root@{address}", command,
                ],
                capture_output=True, text=True, timeout=300, check=False,
            )  # fmt: skip
        assert result.returncode == 0, f"{command} on {address}: {result.stderr}"
        return result.stdout

    def machine_addresses(self) -> dict[str, str]:
        config = yaml.safe_load(self.stack_file.read_text())["config"]
        nodes: Mapping[str, Any] = config["nordmesh:machines"]["nodes"]
        return {name: str(node["address"]) for name, node in nodes.items()}

    def run(self, *command: str, timeout: float = 1800) -> Result:
        """Run a command in the project, with the toolchain on PATH."""
        return self._run([*command], timeout=timeout)

    def _run(self, command: list[str], *, timeout: float, stdin: str = "") -> Result:
        result = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment(),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
            start_new_session=True,  # Ctrl-C must not interrupt `lab down`
        )
        with self.log.open("a") as log:
            log.write(f"$ {' '.join(command)}\n{result.stdout}\n")
        return Result(code=result.returncode, text=result.stdout)


def make_project(stack: str, *, bridge: str, network: str) -> Project:
    """Copy the program, with the stack `local` under another name, bridge and network.

    network: the first three octets of the /24 of the lab, for example 10.67.0. Everything may be
    lost, by the switch of earlier releases: tests add and remove nodes and namespaces.
    """
    directory = Path(mkdtemp(prefix=f"nordmesh-{stack}-"))
    copy_program(directory)
    shutil.copytree(CHECKOUT / ".lab", directory / ".lab")
    text = (CHECKOUT / "Pulumi.local.yaml").read_text()
    text = re.sub(r"^encryptionsalt:.*\n", "", text, flags=re.M)
    text = re.sub(r"(?<= allowDataLoss:)\n(?: {6}.*\n)+", " true\n", text)
    text = text.replace("10.66.0.", f"{network}.").replace("nordmesh0", bridge)
    text = text.replace("clusterName: local", f"clusterName: {stack}")
    (directory / f"Pulumi.{stack}.yaml").write_text(text)
    return Project(directory=directory, stack=stack, bridge=bridge, log=directory / "test.log")


@contextmanager
def lab_project(stack: str, *, bridge: str, network: str) -> Iterator[Project]:
    """Create a project whose lab is always deleted at the end.

    And at the start, because an interrupted test run may have left a lab.
    """
    project = make_project(stack, bridge=bridge, network=network)
    project.lab("down")
    try:
        yield project
    finally:
        project.lab("down")
        assert_nothing_left(project)
        shutil.rmtree(project.directory)


def assert_nothing_left(project: Project) -> None:
    """Check that no interface, process, mount, firewall rule, cgroup or file of the lab remains."""
    name, directory = project.bridge, str(project.state_directory)

    def processes() -> list[str]:
        ours = (directory, str(project.directory))
        return [line for line in command_lines() if any(path in line for path in ours)]

    def remaining() -> dict[str, list[str]]:
        listed = subprocess.run(
            ["iptables", "-w", "-S"], capture_output=True, text=True, check=True
        )
        mounts = Path("/proc/mounts").read_text()
        found = {
            "interfaces": [path.name for path in Path("/sys/class/net").glob(f"{name}*")],
            "processes": processes(),
            "mounts": [line for line in mounts.split("\n") if directory in line],
            "firewall rules": [rule for rule in listed.stdout.split("\n") if name in rule],
            "cgroups": [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/nordmesh.{name}.*")],
            "state": [directory] if Path(directory).exists() else [],
        }
        return {kind: things for kind, things in found.items() if things}

    # The engine does not wait for its last plugin to exit, nor the kernel for what it held.
    deadline = time.monotonic() + 60
    while remaining() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert remaining() == {}


def command_lines(*, on: str = "") -> Iterator[str]:
    """Return the arguments of every process on this machine, including its containers.

    on: a bridge, to restrict the result to the containers on it.
    """
    for process in Path("/proc").glob("[0-9]*"):
        entry = process / "cmdline"
        # A process may exit in the meantime.
        with suppress(OSError):
            if on and f"nordmesh.{on}." not in entry.with_name("cgroup").read_text():
                continue
            yield entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")


class CommandLines:
    """Collect the command lines of all processes until closed."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CommandLines":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.seen.update(command_lines())


@dataclass(frozen=True, kw_only=True)
class Built:
    """The shared cluster, and what was observed during its build."""

    project: Project
    screen: str
    command_lines: set[str]
