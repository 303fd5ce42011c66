"""The command `python -m tests.soak`: builds whose SSH connections are cut at seeded moments.

Each seed creates two nodes, starts `pulumi up` on them and cuts its connections once. The next
`pulumi up` must succeed, and the one after that must have no changes.
"""

import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import click

from lab import screen, services
from lab.errors import LabError
from tests.live import bought
from tests.live.harness import CHECKOUT, Project, lab_project
from tests.support.ssh_way import Cut, Way, redirected

STACK, BRIDGE, NETWORK = "soak", "nordmesh-soak", "10.78.0"
# Duration of a build on an idle machine with two cores.
BUILD_SECONDS = 70.0
# Longer than any timeout of a step after its connection is lost.
END_SECONDS = 400.0
# Files that every script must delete: incomplete files and files with secrets.
LEFTOVERS = (
    "find /etc /var/lib/nordmesh /usr/local/bin /run/nordmesh -xdev -type f "
    "-newer /etc/machine-id \\( -name '*.new' -o -name '*.part' -o -name 'install.*' "
    "-o -name 'join.*' -o -name 'discovery.*' \\) 2>/dev/null || true"
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """When and how the connections of a build are cut."""

    after: float
    how: Cut

    def __str__(self) -> str:
        reset = "get a reset" if self.how.is_reset else "get no reset"
        stays = ", no new connection" if self.how.stays else ""
        return f"cut after {self.after:.1f} s, the nodes {reset}{stays}"


def plan(seed: int) -> Plan:
    """Return the plan for a seed, always the same."""
    chance = random.Random(seed)  # noqa: S311
    return Plan(
        after=chance.uniform(0.0, BUILD_SECONDS),
        how=Cut(is_reset=chance.random() < 0.5, stays=chance.random() < 0.5),
    )


class DidNotConverge(Exception):
    """The next `pulumi up` failed; the message is its output."""


@contextmanager
def machines(project: Project) -> Iterator[None]:
    """Boot new machines and create an empty stack for them."""
    lab = services.read_lab(project.directory, project.stack)
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda node: bought.make_machine(project, *node), lab.nodes.items()))
    project.make_stack()
    try:
        yield
    finally:
        services.delete_machines(lab, lambda _: None)
        project.pulumi("stack", "rm", "--yes", "--force", "--preserve-config", ok=False)


def run_seed(project: Project, seed: int) -> str:
    """Run a build with a cut and the next run; return a summary. Raises DidNotConverge."""
    planned = plan(seed)
    subnet = f"{NETWORK}.0/24"
    with machines(project), Way() as way, redirected(subnet, way.port):
        logged = project.log.stat().st_size if project.log.exists() else 0
        process = project.start_up()
        ended_early = _ends_within(process, planned.after)
        cut = way.cut(planned.how)
        started = time.monotonic()
        if not _ends_within(process, END_SECONDS):
            process.kill()
            raise DidNotConverge(f"the cut run did not end within {END_SECONDS:g} s")
        took = time.monotonic() - started
        text = project.log.read_bytes()[logged:].decode(errors="replace")
        failed = sorted(set(re.findall(r"Command (\S+) \*\*\w+ failed", text)))
        if "Traceback" in text:
            raise DidNotConverge(text)
        way.restore()
        started = time.monotonic()
        next_up = project.up(ok=False)
        if next_up.code:
            raise DidNotConverge(next_up.text)
        again = time.monotonic() - started
        _check(project)
    stopped = f"{', '.join(failed) or 'no step'} failed, the run ended in {took:.0f} s"
    if ended_early:
        stopped = "the run had ended"
    return f"{planned} ({cut} connections): {stopped}; the next `up` took {again:.0f} s"


def _ends_within(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _check(project: Project) -> None:
    """Check that there are no changes and no leftover files, and that the mesh is healthy."""
    quiet = project.up("--expect-no-changes", ok=False)
    if quiet.code or "pending operations" in quiet.text:
        raise DidNotConverge(quiet.text)
    for name, address in project.machine_addresses().items():
        if files := project.ssh(address, LEFTOVERS).split():
            raise DidNotConverge(f"left on {name}: {', '.join(files)}")
    with project.cluster() as cluster:
        problems: list[str] = []
        for _ in range(60):
            sections = [ask(cluster) for ask in (screen.nodes, screen.istio, screen.proxies)]
            problems = [problem for section in sections for problem in section.problems]
            if not problems:
                return
            time.sleep(1)
    raise DidNotConverge("; ".join(problems))


@click.command()
@click.option("--seeds", default=30, show_default=True, help="How many builds are cut.")
@click.option("--first", default=1, show_default=True, help="The first seed.")
def soak(seeds: int, first: int) -> None:
    """Cut builds of a cluster at seeded moments, and check that the next run converges.

    It creates a separate lab from what `make up` has built, and deletes it at the end. A seed takes
    about two minutes; the log of a failed seed is copied to .lab.
    """
    try:
        failed = _failed(range(first, first + seeds))
    except LabError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{seeds - len(failed)} of {seeds} seeds converged")
    if failed:
        sys.exit(1)


def _failed(seeds: range) -> list[int]:
    """Run the seeds and print a line for each; return those that did not converge."""
    failed = []
    with lab_project(STACK, bridge=BRIDGE, network=NETWORK) as project:
        with project.config() as config:
            config["nordmesh:demo"] = {"enabled": False}
        project.start_services()
        for seed in seeds:
            try:
                click.echo(f"seed {seed}: {run_seed(project, seed)}")
            except (DidNotConverge, AssertionError) as error:
                failed.append(seed)
                click.secho(f"seed {seed}: {plan(seed)}: DID NOT CONVERGE\n{error}", fg="red")
                shutil.copy2(project.log, CHECKOUT / ".lab" / f"soak-{seed}.log")
    return failed


if __name__ == "__main__":
    soak()
