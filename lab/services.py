"""The bridge, the mirror and the registry of a lab on this host.

There is one lab for each bridge: labs of several stacks can run at a time. Nodes need no internet
access (the lab is an air-gapped installation), so the lab sets up no NAT and leaves IP forwarding
unchanged.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.manifests import container
from components.remote.node_command import local_text
from config import stack_file
from lab import paths
from lab.errors import LabError

Say = Callable[[str], None]

_START_SECONDS = 60.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Lab:
    """The settings of a stack's lab that prepare the host for it.

    `nodes` are the machines that the lab creates, name to address. `kept`: those whose disks the
    stack file does not allow to be deleted.
    """

    stack: str
    bridge: str
    subnet: ipaddress.IPv4Network
    mirror_port: int
    registry_port: int
    nodes: Mapping[str, str]
    kept: Sequence[str]

    @property
    def gateway(self) -> str:
        """This host's address on the bridge: the first of the subnet."""
        return str(self.subnet.network_address + 1)

    @property
    def directory(self) -> Path:
        """The directory of this lab's state."""
        return paths.state().lab(self.bridge)


def read_stack(project: Path, stack: str) -> dict[str, Any]:
    """Read the settings of a stack without the encrypted ones; raises NordmeshError."""
    return dict(stack_file.read(project, stack).values)


def read_lab(project: Path, stack: str) -> Lab:
    """Read the lab of a stack; raises LabError if the stack file does not describe one.

    Checks only the keys that prepare the host: the program checks the whole file at
    preview.
    """
    config = read_stack(project, stack)
    file = f"Pulumi.{stack}.yaml"
    try:
        machines = config["machines"]
        container = machines["container"]
        subnet = ipaddress.IPv4Network(container["subnet"])
        nodes = {
            str(name): str(node["address"])
            for name, node in machines["nodes"].items()
            if node["provider"] == "container"
        }
        artifacts = config["artifacts"]
        lab = Lab(
            stack=stack,
            bridge=str(container["bridge"]),
            subnet=subnet,
            mirror_port=_port(artifacts["mirror"], subnet),
            registry_port=_port(artifacts["registry"], subnet),
            nodes=nodes,
            kept=_kept(nodes, machines.get("allowDataLoss")),
        )
    except KeyError as error:
        raise LabError(
            f"{file} describes no lab: nordmesh:machines or nordmesh:artifacts lacks {error}",
            code="lab-stack-file",
            fix="compare it with Pulumi.local.yaml",
        ) from error
    except (AttributeError, TypeError, ValueError) as error:
        raise LabError(
            f"{file} cannot be used for a lab: {error}",
            code="lab-stack-file",
            fix="compare it with Pulumi.local.yaml",
        ) from error
    return lab


def _kept(nodes: Iterable[str], allowed: object) -> list[str]:
    """The machines that allowDataLoss does not name; it is a list, or true for everything."""
    if allowed is True:
        return []
    entries = allowed if isinstance(allowed, list) else []
    disks = {entry.get("disk") for entry in entries if isinstance(entry, dict)}
    return sorted(set(nodes) - disks)


def _port(url: str, subnet: ipaddress.IPv4Network) -> int:
    """The port of a URL, which must have this host's address on the bridge."""
    parts = urlsplit(url)
    gateway = str(subnet.network_address + 1)
    if parts.scheme != "http" or parts.hostname != gateway or not parts.port:
        raise ValueError(
            f"the lab serves its artifacts at http://{gateway}:<port>, the first address of "
            f"{subnet}, not at {url}"
        )
    return parts.port


# --- bridge --------------------------------------------------------------------------------------


def start_bridge(lab: Lab) -> None:
    """Create the bridge of the stack file; raises LabError if its subnet is in use."""
    links = _ip_json("address", "show")
    own = [link for link in links if link["ifname"] == lab.bridge]
    _require_free_subnet(lab, [link for link in links if link["ifname"] != lab.bridge])
    if not own:
        _ip("link", "add", lab.bridge, "type", "bridge")
    elif not Path(f"/sys/class/net/{lab.bridge}/bridge").is_dir():
        raise LabError(
            f"{lab.bridge} is an interface but not a bridge",
            code="lab-bridge",
            path=f"Pulumi.{lab.stack}.yaml nordmesh:machines.container.bridge",
            fix="choose another name for the bridge",
        )
    # Without a fixed MAC address, a bridge takes the lowest of its members, and its neighbours
    # lose it for a while whenever a machine comes or goes.
    digest = hashlib.sha256(lab.bridge.encode()).hexdigest()
    mac = ":".join(["02", *(digest[i : i + 2] for i in range(0, 10, 2))])
    _ip("link", "set", lab.bridge, "address", mac)
    wanted = f"{lab.gateway}/{lab.subnet.prefixlen}"
    for link in own:
        for entry in link["addr_info"]:
            address = f"{entry['local']}/{entry['prefixlen']}"
            if entry["family"] == "inet" and address != wanted:
                _ip("address", "delete", address, "dev", lab.bridge)
    _ip("address", "replace", wanted, "dev", lab.bridge)
    _ip("link", "set", lab.bridge, "up")
    _open_firewall(lab)


def stop_bridge(lab: Lab) -> None:
    """Remove the bridge and its firewall rules."""
    _close_firewall(lab)
    if Path(f"/sys/class/net/{lab.bridge}").exists():
        _ip("link", "delete", lab.bridge)


def _require_free_subnet(lab: Lab, others: Sequence[Mapping[str, Any]]) -> None:
    for link in others:
        for entry in link["addr_info"]:
            if entry["family"] != "inet":
                continue
            other = ipaddress.IPv4Network(f"{entry['local']}/{entry['prefixlen']}", strict=False)
            if other.overlaps(lab.subnet):
                raise LabError(
                    f"{lab.subnet} overlaps {other} of the interface {link['ifname']}",
                    code="lab-subnet",
                    path=f"Pulumi.{lab.stack}.yaml nordmesh:machines.container.subnet",
                    fix="choose another subnet",
                )


def _open_firewall(lab: Lab) -> None:
    """Allow the bridge's traffic if this host's firewall might block it."""
    wanted = {"INPUT": ["-i", lab.bridge]}
    call = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    if call.exists() and call.read_text().strip() == "1":
        wanted["FORWARD"] = ["-i", lab.bridge, "-o", lab.bridge]
    existing = _own_rules(lab)
    for chain, match in wanted.items():
        rules = _run("iptables", "-w", "-S", chain).splitlines()
        is_open = rules == [f"-P {chain} ACCEPT"]
        if not is_open and not any(rule[1] == chain for rule in existing):
            comment = ["-m", "comment", "--comment", _mark(lab)]
            _run("iptables", "-w", "-I", chain, *match, *comment, "-j", "ACCEPT")


def _close_firewall(lab: Lab) -> None:
    for _, *rule in _own_rules(lab):
        _run("iptables", "-w", "-D", *rule)


def _own_rules(lab: Lab) -> list[list[str]]:
    """Our rules as words: `-A`, chain, match."""
    rules = (shlex.split(line) for line in _run("iptables", "-w", "-S").splitlines())
    return [rule for rule in rules if rule[0] == "-A" and _mark(lab) in rule]


def _mark(lab: Lab) -> str:
    return f"nordmesh:{lab.bridge}"


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _ip_json(*arguments: str) -> list[dict[str, Any]]:
    # iproute2 prints an empty object for each interface that it filters out.
    return [entry for entry in json.loads(_run("ip", "-json", *arguments)) if entry]


def _run(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(f"{' '.join(command)} failed: {result.stderr.strip()}", code="lab-command")
    return result.stdout


# --- mirror and registry -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Service:
    """A program of the lab that runs in the background, and its configuration.

    Its last argument is the configuration's file, which only this lab has, so a
    running one is found by its arguments: there is no pid file that could go stale.
    """

    name: str
    program: tuple[str, ...]
    config_file: Path
    config: Mapping[str, Any]
    health: str
    log: Path

    @property
    def command(self) -> tuple[str, ...]:
        """Program and arguments."""
        return (*self.program, str(self.config_file))

    def pids(self) -> list[int]:
        """The processes that run exactly this command."""
        return list(_processes(self.command))

    def is_healthy(self) -> bool:
        """Whether the health URL answers."""
        # The proxy in the user's environment cannot reach this host's own address.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with suppress(OSError), direct.open(self.health, timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def start(self) -> None:
        """Start it unless it runs, and wait until it answers; raises LabError with its log."""
        text = json.dumps(self.config, indent=2) + "\n"
        is_current = self.config_file.is_file() and self.config_file.read_text() == text
        if is_current and self.pids() and self.is_healthy():
            return
        self.stop()
        if self.is_healthy():
            raise LabError(
                f"another program answers at {self.health}, which the lab's {self.name} needs",
                code="lab-port-taken",
                fix="stop that program, or change the port in the stack file",
            )
        self.config_file.parent.mkdir(parents=True, exist_ok=True)
        self.config_file.write_text(text)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.command,
                cwd=paths.PROJECT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while not self.is_healthy():
            if process.poll() is not None or time.monotonic() > deadline:
                end = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
                raise LabError(
                    f"the lab's {self.name} does not answer at {self.health}",
                    code="lab-service",
                    fix=f"read the end of {self.log} below; if another program uses the port, "
                    "stop it or change the port in the stack file",
                    details=end,
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, if it runs."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + _STOP_SECONDS
            while self.pids() and time.monotonic() < deadline:
                time.sleep(0.05)


def _processes(command: Sequence[str]) -> Iterator[int]:
    """Processes with these arguments, wherever the program itself is."""
    wanted = list(command[1:])
    return (pid for pid, words in _command_lines() if words[1:] == wanted)


def _command_lines() -> Iterator[tuple[int, list[str]]]:
    """Process ids with their arguments; a zombie has none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if words[:-1]:
                    yield int(entry.name), words[:-1]


def services(lab: Lab) -> tuple[Service, Service]:
    """The lab's mirror and registry; nothing is started."""
    return _mirror(lab), _registry(lab)


def _mirror(lab: Lab) -> Service:
    return Service(
        name="mirror",
        program=(sys.executable, "-m", "lab.mirror"),
        config_file=lab.directory / "mirror.json",
        config={
            "directory": str(paths.cache().mirror),
            "address": lab.gateway,
            "port": lab.mirror_port,
        },
        health=f"http://{lab.gateway}:{lab.mirror_port}/",
        log=lab.directory / "mirror.log",
    )


def _registry(lab: Lab) -> Service:
    address = f"{lab.gateway}:{lab.registry_port}"
    return Service(
        name="registry",
        program=("docker-registry", "serve"),
        config_file=lab.directory / "registry.json",  # JSON is YAML
        config={
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(paths.cache().registry)},
                "maintenance": {"readonly": {"enabled": True}, "uploadpurging": {"enabled": False}},
            },
            "http": {"addr": address},
        },
        health=f"http://{address}/v2/",
        log=lab.directory / "registry.log",
    )


def start_services(lab: Lab) -> None:
    """Start the mirror and the registry, unless they run with these settings."""
    for directory in (paths.cache().mirror, paths.cache().registry):
        if not directory.is_dir():
            raise LabError(
                f"there is nothing to serve at {directory}",
                code="lab-not-built",
                fix="run `make up`",
            )
    for service in services(lab):
        service.start()


def stop_services(lab: Lab) -> None:
    """End mirror and registry."""
    for service in services(lab):
        service.stop()


# --- machines ------------------------------------------------------------------------------------


def existing_machines(lab: Lab) -> list[str]:
    """Names of the machines of this lab, running or not."""
    directory = lab.directory / "machines"
    return sorted(p.name for p in directory.glob("*") if p.is_dir())


def running_machines(lab: Lab) -> list[str]:
    """Names of the running machines."""
    roots = {
        f"--directory={lab.directory / 'machines' / name / 'root'}": name
        for name in existing_machines(lab)
    }
    return sorted(
        roots[word]
        for _, words in _command_lines()
        if Path(words[0]).name == "systemd-nspawn"
        for word in words
        if word in roots
    )


def start_stopped_machines(lab: Lab, say: Say) -> list[str]:
    """Start the machines that exist but do not run, as after a restart of this host."""
    running = running_machines(lab)
    made = [
        name
        for name in existing_machines(lab)
        if (lab.directory / "machines" / name / "root").is_dir()
    ]
    stopped = [name for name in made if name in lab.nodes and name not in running]

    def start(name: str) -> None:
        say(f"starting {name}")
        settings = container.settings(
            address=lab.nodes[name], prefix=lab.subnet.prefixlen, gateway=lab.gateway
        )
        _machine_script("container-create.sh", lab, name, settings)

    _side_by_side(start, stopped)
    return stopped


def delete_machines(lab: Lab, say: Say) -> None:
    """Delete every machine of this lab, with its data."""

    def delete(name: str) -> None:
        say(f"deleting {name}")
        _machine_script("container-delete.sh", lab, name, {"ALLOW_DATA_LOSS": "true"})

    _side_by_side(delete, existing_machines(lab))


def _side_by_side(act: Callable[[str], None], names: Sequence[str]) -> None:
    """Run a step on several machines in parallel; raises the first error after all have ended."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(act, name) for name in names]:
            done.result()


def _machine_script(script: str, lab: Lab, name: str, settings: Mapping[str, str]) -> None:
    environment = {**os.environ, "NAME": name, "BRIDGE": lab.bridge, **settings}
    command = ["bash", "-c", local_text(script)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise LabError(
            f"{script} failed on {name}", code="lab-machine", details=result.stderr.strip()
        )
