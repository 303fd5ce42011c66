"""The lab of the benchmark: a copy of the program with a separate lab and its nodes."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml

from components.manifests import container, kubeadm
from components.remote.node_command import local_text
from config import StackConfig
from config.load import load
from lab import paths, screen, services
from lab.errors import LabError
from lab.screen import Cluster
from lab.services import Lab
from tests.live.harness import Project, lab_project

Say = Callable[[str], None]

STACK, BRIDGE, NETWORK = "bench", "nordmesh-bench", "10.70.0"

_HEALTH_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class BenchLab:
    """The stack `bench`: its project, and its lab with bridge, mirror and registry running."""

    project: Project
    lab: Lab

    @property
    def config(self) -> StackConfig:
        """Configuration of the stack, as the program loads it."""
        directory = self.project.directory
        return load(services.read_stack(directory, STACK), project_dir=directory)

    def with_nodes(self, planes: int, workers: int) -> "BenchLab":
        """Write as many nodes into the stack file. The lab must have no machines."""
        kinds = (("cp", "control-plane", 1, planes), ("worker", "worker", 2, workers))
        with self.project.config() as config:
            config["nordmesh:machines"]["nodes"] = {
                f"{prefix}-{number}": {
                    "provider": "container",
                    "role": role,
                    "address": f"{NETWORK}.{tens}{number}",
                }
                for prefix, role, tens, count in kinds
                for number in range(1, count + 1)
            }
        return replace(self, lab=services.read_lab(self.project.directory, STACK))

    def boot(self) -> None:
        """Create nodes without Kubernetes and wait until they accept SSH."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._make, self.lab.nodes.items()))

    def delete_machines(self) -> None:
        """Delete the nodes and their data."""
        services.delete_machines(self.lab, lambda _: None)

    def known_hosts(self) -> str:
        """Write the host keys of the nodes in the format of known_hosts."""
        machines = self.lab.directory / "machines"
        return "".join(
            f"{address} {(machines / name / 'host_key.pub').read_text()}"
            for name, address in self.lab.nodes.items()
        )

    def kubeconfig(self) -> str:
        """Fetch the admin kubeconfig from a control plane, even if Pulumi did not create it."""
        _, node = self.config.machines.control_planes[0]
        admin = yaml.safe_load(self.project.ssh(node.address, "cat /etc/kubernetes/admin.conf"))
        user = admin["users"][0]["user"]
        credentials = {
            "ca": admin["clusters"][0]["cluster"]["certificate-authority-data"],
            "clientCertificate": user["client-certificate-data"],
            "clientKey": user["client-key-data"],
        }
        endpoint = self.config.kubernetes.endpoint
        return kubeadm.admin_kubeconfig(credentials, endpoint=endpoint, address=node.address)

    def seconds_until_healthy(self) -> float:
        """Wait until nodes, Istio and its proxies are healthy; return the seconds that it took.

        Nearly zero if everything is healthy already. Raises LabError after a minute.
        """
        started = time.monotonic()
        with NamedTemporaryFile("w") as file:  # created with mode 0600
            file.write(self.kubeconfig())
            file.flush()
            cluster = Cluster(Path(file.name))
            while True:
                waited = time.monotonic() - started
                problems = _problems(cluster)
                if not problems:
                    return waited
                if waited > _HEALTH_SECONDS:
                    raise LabError(f"the mesh is not healthy: {'; '.join(problems)}", code="bench")
                time.sleep(0.5)

    def _make(self, node: tuple[str, str]) -> None:
        name, address = node
        prefix, gateway = self.lab.subnet.prefixlen, self.lab.gateway
        settings = {
            "NAME": name,
            "BRIDGE": BRIDGE,
            **container.settings(address=address, prefix=prefix, gateway=gateway),
        }
        made = subprocess.run(
            ["bash", "-c", local_text("container-create.sh")],
            env={**os.environ, **settings},
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise LabError(f"{name} was not made: {made.stderr.strip()}", code="bench")


@contextmanager
def open_bench_lab() -> Iterator[BenchLab]:
    """Create the lab, with all downloads in the page cache; delete everything at the end."""
    with (
        _only_one(),
        lab_project(STACK, bridge=BRIDGE, network=NETWORK) as project,
        _ignoring_signals_after(),
    ):
        _disable_demo(project.stack_file)
        lab = services.read_lab(project.directory, STACK)
        project.start_services()
        project.make_stack()
        _read_all(paths.cache().registry, paths.cache().mirror)
        yield BenchLab(project=project, lab=lab)


@contextmanager
def _only_one() -> Iterator[None]:
    """Raise LabError while another benchmark runs, because each would delete the other's lab."""
    path = paths.cache().root / "bench.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(
                "another benchmark runs on this machine; wait for its end", code="bench"
            ) from None
        yield


@contextmanager
def _ignoring_signals_after() -> Iterator[None]:
    """Let Ctrl-C end the body, but not interrupt the cleanup that follows."""
    try:
        yield
    finally:
        # Handlers instead of SIG_IGN, which children would inherit.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        print("\ntaking the lab of the benchmark down", flush=True)


def _disable_demo(stack_file: Path) -> None:
    document = yaml.safe_load(stack_file.read_text())
    document["config"]["nordmesh:demo"] = {"enabled": False}
    stack_file.write_text(yaml.safe_dump(document))


def _read_all(*directories: Path) -> None:
    """Read every file once, so that the first build does not have to wait for the disk."""
    for directory in directories:
        for path in directory.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    while file.read(1 << 20):
                        pass


def _problems(cluster: Cluster) -> list[str]:
    try:
        sections = [ask(cluster) for ask in (screen.nodes, screen.istio, screen.proxies)]
    except LabError as error:
        return [str(error)]
    return [problem for section in sections for problem in section.problems]
