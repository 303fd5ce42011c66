"""Fifty machines in one SSH server: a stack of many bought nodes that adds or removes one.

The stack gets the state of a successful build (tests.engine.deployed). Later updates are a real
`pulumi up`; the server accepts its scripts and reports success. There is no cluster, so none of its
objects may be touched.
"""

import asyncio
import copy
import json
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import asyncssh
import yaml

from cli.restore.steps import UPLOAD
from components import encryption_keys, handover
from components.preflight import measure
from components.remote import copies, node_command
from components.remote.node_command import FOLDER
from config import catalogue
from config.preflight import CHECKS
from lab import paths, toolchain
from lab.stack import remove_empty_attributes
from tests.engine.deployed import Deployed, credentials
from tests.support.program import copy_program
from tests.support.ssh_way import Listener, original_destination, redirected

CONTROL_PLANE = "node-0"
STACK = "fleet"
_LOCK = "fleet.lock.json"
_FILES = Path(measure.__file__).parent

Step = tuple[str, str, str]
"""A step of the engine: its operation, and the type and the name of its resource."""


def address(number: int, network: str) -> str:
    """Return the address of a node in a /24."""
    return str(ip_network(network)[number + 1])


@dataclass
class Server:
    """SSH server of all nodes in a network, each with its own host key.

    opened: connections, by node. ran: scripts that changed something, as node and file. failing:
    scripts that fail. dead: nodes that do not answer. members: nodes that are in a cluster already.
    names: names of nodes that do not have the default name. seconds: the time that a script takes.
    together: the nodes on which scripts ran at the same time. meeting: nodes whose scripts wait for
    each other, for a minute at most. said: what a script prints that is sent whole, by node and
    file; a script without it is refused. made: what kubeadm-init.sh prints; by default that of the
    deployed state.
    """

    network: str
    keys: list[asyncssh.SSHKey]
    client_key: asyncssh.SSHKey
    opened: list[str] = field(default_factory=list)
    ran: list[tuple[str, str]] = field(default_factory=list)
    failing: set[tuple[str, str]] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)
    seconds: float = 0.0
    running: set[str] = field(default_factory=set)
    together: set[frozenset[str]] = field(default_factory=set)
    meeting: frozenset[str] = frozenset()
    names: dict[int, str] = field(default_factory=dict)
    said: dict[tuple[str, str], str] = field(default_factory=dict)
    made: Mapping[str, str] = field(default_factory=lambda: credentials(age=0))

    def host_key(self, number: int) -> str:
        """Return the host key of a node in the format of a stack file."""
        return " ".join(self.keys[number].export_public_key().decode().split()[:2])

    def forget(self) -> None:
        """Clear the records."""
        self.opened.clear()
        self.ran.clear()
        self.together.clear()

    async def answer(self, client: socket.socket) -> None:
        """Serve a connection as the node that it was opened to."""
        host, _ = original_destination(client)
        number = int(host.rpartition(".")[2]) - 1
        node = self.names.get(number, f"node-{number}")
        self.opened.append(node)
        if node in self.dead:
            client.close()
            return

        async def handle(process: asyncssh.SSHServerProcess[str]) -> None:
            process.exit(await self._run(node, process))

        authorized = asyncssh.import_authorized_keys(self.client_key.export_public_key().decode())
        connection = await asyncssh.run_server(
            client,
            config=None,
            server_host_keys=[self.keys[number]],
            authorized_client_keys=authorized,
            process_factory=handle,
            errors="replace",  # of a file that is uploaded
        )
        await connection.wait_closed()

    async def _run(self, node: str, process: "asyncssh.SSHServerProcess[str]") -> int:
        command = process.command or ""
        file = node_command.file(command)
        if file is not None:
            settings = node_command.settings(command)
            assert settings.get("HYPERVISOR", settings["NODE_NAME"]) == node
            await process.stdin.read()
            self.ran.append((node, file))
            self.running.add(node)
            self.together.add(frozenset(self.running))
            await asyncio.sleep(self.seconds)
            if node in self.meeting:
                await self._meet()
            self.running.discard(node)
            if file == "kubeadm-init.sh":
                process.stdout.write(f"{json.dumps(self.made)}\n")
            return int((node, file) in self.failing)
        words = shlex.split(command)
        if command.endswith(copies.LIST):
            return 0
        if FOLDER in words[-1]:
            await process.stdin.read()
            return 0
        if words[-1] in (handover.PIPE, encryption_keys.PIPE):
            # No script of a fleet asks for a line; the connection waits until its script has ended.
            await process.stdin.read()
            return 1
        if words[-2:] == ["bash", "-s"]:
            return await self._run_sent(node, process)
        if UPLOAD in words[-1]:
            await process.stdin.read()
            self.ran.append((node, UPLOAD))
            return 0
        # Measurements of the preflight.
        if words[-2:] == ["date", "+%s.%N"]:
            process.stdout.write(f"{time.time():.9f}\n")
        elif "listen" in words:
            process.stdout.write("ready\n")
            await process.stdin.read()
        elif "connect" in words:
            process.stdout.write("end\n")
        elif words[-1].endswith((_FILES / "measure.sh").read_text()):
            member = "member\tyes\n" if node in self.members else ""
            process.stdout.write(f"architecture\tx86_64\n{member}end\tyes\n")
        else:
            process.stderr.write(f"unexpected: {command}\n")
            return 127
        return 0

    async def _run_sent(self, node: str, process: "asyncssh.SSHServerProcess[str]") -> int:
        text = await process.stdin.read()
        for said, output in self.said.items():
            if said[0] == node and text.endswith(node_command.text_alone(said[1])):
                self.ran.append(said)
                process.stdout.write(output)
                return int(said in self.failing)
        process.stderr.write("unexpected script\n")
        return 127

    async def _meet(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(60):
                while not any(self.meeting <= nodes for nodes in self.together):
                    await asyncio.sleep(0.02)


@contextmanager
def serving(count: int, network: str) -> Iterator[Server]:
    """Serve this number of nodes in a thread.

    network: a /24 for documentation that no other test file uses, because files run in parallel.
    """
    server = Server(
        network=network,
        keys=[asyncssh.generate_private_key("ssh-ed25519") for _ in range(count)],
        client_key=asyncssh.generate_private_key("ssh-ed25519"),
    )
    with Listener(server.answer) as listener, redirected(network, listener.port):
        yield server


def guests(
    server: Server, nodes: int, hypervisor: int, memory: str = "4Gi"
) -> Callable[[dict[str, Any]], None]:
    """Return an edit that makes the workers guests with this memory.

    nodes: how many nodes the stack has. hypervisor: the number of the address of `hv`.
    """

    def edit(config: dict[str, Any]) -> None:
        machines = config["nordmesh:machines"]
        machines["ssh"] = {"user": "root"}
        machines["kvm"] = {"image": {"path": "/srv/debian.qcow2", "sha256": "0" * 64}}
        machines["hypervisors"] = {
            "hv": {
                "address": address(hypervisor, server.network),
                "hostKey": server.host_key(hypervisor),
                "network": {
                    "type": "bridge",
                    "bridge": "br0",
                    "gateway": address(nodes + 10, server.network),
                    "subnet": server.network,
                },
            }
        }
        for number in range(1, nodes):
            machines["nodes"][f"node-{number}"] = {
                "provider": "kvm",
                "role": "worker",
                "hypervisor": "hv",
                "address": address(number, server.network),
                "cpus": 2,
                "memory": memory,
                "disk": "40Gi",
            }

    return edit


@dataclass(frozen=True, kw_only=True)
class Done:
    """Result of a `pulumi up`.

    touched: each resource that it created, updated or deleted, sorted.
    same: the number of unchanged resources.
    """

    touched: list[Step]
    same: int
    seconds: float


class Fleet:
    """Copy of the program with a stack of bought nodes, which the server simulates.

    project: where the program and the shipped stack are copied from.
    """

    def __init__(self, directory: Path, server: Server, project: Path = paths.PROJECT) -> None:
        self._directory, self._server = directory, server
        copy_program(directory, project)
        keys = [download.key for download in catalogue.all_downloads()]
        (directory / _LOCK).write_text(json.dumps({"binaries": dict.fromkeys(keys, "0" * 64)}))
        (directory / "backend").mkdir()
        (directory / "passphrase").write_text("only for this test")
        self._environment = {
            **os.environ,
            **toolchain.environment(),
            "PULUMI_BACKEND_URL": (directory / "backend").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE_FILE": str(directory / "passphrase"),
            "PULUMI_DEBUG_COMMANDS": "true",  # for --event-log
            # Connections to this address are refused, so no cluster on this machine is contacted.
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "",
        }
        self._file = directory / f"Pulumi.{STACK}.yaml"
        shipped = yaml.safe_load((project / "Pulumi.local.yaml").read_text())["config"]
        self._config: dict[str, Any] = {
            **shipped,
            "nordmesh:artifacts": {**shipped["nordmesh:artifacts"], "lock": _LOCK},
            # The reported measurements of the machines would fail the preflight.
            "nordmesh:preflight": {
                "window": "1s",
                "override": {check: {"reason": "a machine of a test"} for check in CHECKS},
            },
        }
        self._pulumi("stack", "init", STACK)
        key = server.client_key.export_private_key().decode().strip()
        self._pulumi("config", "set", "--secret", "nordmesh:sshPrivateKey", stdin=key)
        written = yaml.safe_load(self._file.read_text())
        self._config["nordmesh:sshPrivateKey"] = written["config"]["nordmesh:sshPrivateKey"]
        self._salt = written["encryptionsalt"]
        self._key = key

    def deploy(
        self,
        nodes: int,
        edit: Callable[[dict[str, Any]], None] | None = None,
        *,
        hypervisors: Mapping[str, int] | None = None,
        made: Mapping[str, str] | None = None,
    ) -> None:
        """Write a stack with this number of nodes and an edit, and import the state of its build.

        hypervisors: those of the edit, with the number of their address. Only the control plane is
        a bought machine then. made: the credentials of a cluster that there is.
        """
        self.write(nodes, edit)
        machines = hypervisors or {}
        bought = 1 if machines else nodes
        preview = json.loads(self._pulumi("preview", "--json"))
        state = Deployed(
            preview,
            addresses={
                **{f"node-{number}": self._address(number) for number in range(nodes)},
                **{name: self._address(number) for name, number in machines.items()},
            },
            endpoint=self._config["nordmesh:kubernetes"]["endpoint"],
            host_keys={f"node-{number}": self._server.host_key(number) for number in range(bought)},
            private_key=self._key,
            hypervisors={name: self._server.host_key(number) for name, number in machines.items()},
            made=made,
        )
        exported = json.loads(self._pulumi("stack", "export"))
        file = self._directory / "state.json"
        file.write_text(state.deployment(exported))
        self._pulumi("stack", "import", "--file", str(file))
        file.unlink()
        # The first update records what a preview omits, for example hooks; later updates are quick.
        # The made-up state does not have the first user-data of guests.
        touched = {name for _, _, name in self.up().touched}
        assert all(machines and name.endswith("-guest") for name in touched), touched

    def write(self, nodes: int, edit: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Write the stack file with this number of nodes and an edit of its config."""
        machines = {
            "allowDataLoss": True,
            "nodes": {f"node-{number}": self._node(number) for number in range(nodes)},
        }
        config = copy.deepcopy({**self._config, "nordmesh:machines": machines})
        if edit is not None:
            edit(config)
        self._file.write_text(yaml.safe_dump({"config": config, "encryptionsalt": self._salt}))

    @property
    def directory(self) -> Path:
        """The directory of the project."""
        return self._directory

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment that pulumi needs."""
        return self._environment

    def reach_cluster(self, *, is_reached: bool = True) -> None:
        """Let pulumi connect to the API server of the first node, or refuse that."""
        self._environment["NO_PROXY"] = self._address(0) if is_reached else ""

    @property
    def cluster(self) -> str:
        """The name of the cluster in the stack file."""
        return str(self._config["nordmesh:kubernetes"]["clusterName"])

    def up(self) -> Done:
        """Run `pulumi up`; the test fails if it fails."""
        started = time.monotonic()
        result, steps = self.steps("up", "--yes", "--skip-preview")
        assert result.returncode == 0, result.stdout + result.stderr
        seconds = time.monotonic() - started
        return Done(
            touched=sorted(
                (step["op"], step["type"], step["urn"].rpartition("::")[2])
                for step in steps
                if step["op"] != "same"
            ),
            same=sum(step["op"] == "same" for step in steps),
            seconds=seconds,
        )

    def previewed(self) -> list[Step]:
        """Return the steps that a preview names, sorted; the test fails if it fails."""
        result = self.run("preview", "--json")
        assert result.returncode == 0, result.stdout + result.stderr
        return sorted(
            (
                step["op"],
                step["urn"].split("::")[2].rpartition("$")[2],
                step["urn"].rpartition("::")[2],
            )
            for step in json.loads(result.stdout)["steps"]
            if step["op"] != "same"
        )

    def _address(self, number: int) -> str:
        return address(number, self._server.network)

    def _node(self, number: int) -> dict[str, str]:
        return {
            "provider": "existing",
            "role": "worker" if number else "control-plane",
            "address": self._address(number),
            "hostKey": self._server.host_key(number),
        }

    def change_state(self, edit: Callable[[list[dict[str, Any]]], None]) -> None:
        """Edit the resources of the state."""
        exported = json.loads(self._pulumi("stack", "export"))
        edit(exported["deployment"]["resources"])
        file = self._directory / "state.json"
        file.write_text(json.dumps(exported))
        self._pulumi("stack", "import", "--file", str(file))
        file.unlink()

    def run(self, *arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run pulumi with these arguments; it may fail."""
        return subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--color=never"],
            cwd=self._directory,
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def steps(
        self, *arguments: str
    ) -> "tuple[subprocess.CompletedProcess[str], list[dict[str, Any]]]":
        """Run pulumi with these arguments; also return the steps that it began."""
        events = self._directory / "events.json"
        events.unlink(missing_ok=True)
        result = self.run(*arguments, "--event-log", str(events))
        steps = [
            event["resourcePreEvent"]["metadata"]
            for line in events.read_text().splitlines()
            if "resourcePreEvent" in (event := json.loads(line))
        ]
        return result, steps

    def started(self, *arguments: str, log: Path = Path(os.devnull)) -> "subprocess.Popen[bytes]":
        """Start pulumi with these arguments in its own process group; append its output to a file.

        log: by default the output is discarded.
        """
        with log.open("ab") as file:
            return subprocess.Popen(
                ["pulumi", *arguments, "--non-interactive", "--color=never"],
                cwd=self._directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def cancel(self) -> None:
        """Remove what a killed run has left: its lock, and incomplete files beside the state."""
        for state in self._directory.glob(f"backend/.pulumi/stacks/*/{STACK}.json"):
            remove_empty_attributes(state)
        self._pulumi("cancel", "--yes")

    def _pulumi(self, *arguments: str, stdin: str = "") -> str:
        result = self.run(*arguments, stdin=stdin)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout
