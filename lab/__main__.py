"""`python -m lab`: a lab of real nodes on this machine; one command creates it, one removes it."""

from __future__ import annotations

import json
import ssl
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from typing import Any

import click

from config.errors import NordmeshError
from config.load import read_stack
from lab import build, host, paths, programs, screen, selection, services, stack, toolchain
from lab.errors import LabError
from lab.programs import Program
from lab.progress import duration
from lab.selection import Selection
from lab.services import Lab
from lab.stack import Stack

# The time for an API server to start after its machine; most of it is etcd's recovery.
_API_SECONDS = 180.0
_INTERRUPTED = 130  # 128 + SIGINT, as shells say it


class Steps:
    """Numbers the steps of a command and prints the purpose and the duration of each."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._started = time.monotonic()

    @contextmanager
    def step(self, title: str, purpose: str) -> Iterator[Callable[[str], None]]:
        """Run a step; yields a function that prints a line about its progress."""
        self._done += 1
        click.echo(f"[{self._done}/{self._total}] {click.style(title, bold=True)}: {purpose}")
        started = time.monotonic()
        yield _say
        _say(f"done in {_took(started)}")

    def finish(self, sentence: str) -> None:
        """Print the last line."""
        click.echo(f"\n{sentence} ({duration(time.monotonic() - self._started)})")


def _say(line: str) -> None:
    click.echo(f"      {line}")


def _took(started: float) -> str:
    seconds = time.monotonic() - started
    return f"{seconds:.1f}s" if seconds < 10 else duration(seconds)


_stack_option = click.option(
    "--stack", "name", default="local", show_default=True, help="Stack: reads Pulumi.<stack>.yaml."
)


@click.group()
def cli() -> None:
    """A lab: a mirror, a registry and nodes on this machine, and the Pulumi stack on them."""


@cli.command()
@_stack_option
def up(name: str) -> None:
    """Create everything that is missing, run `pulumi up`, and show what runs."""
    project = Path.cwd()
    lab = services.read_lab(project, name)
    # Fail now on what the preview would report, rather than after the artifacts are built.
    read_stack(project, name).usable()
    config = services.read_stack(project, name)
    pulumi_stack = Stack(project=project, name=name)
    steps = Steps(total=7)

    _prepare(steps, lab, selection.of_stack(config, project))
    with steps.step("Network", f"bridge {lab.bridge} {lab.subnet}, mirror and registry on it"):
        services.start_bridge(lab)
        services.start_services(lab)
    with steps.step("Machines", "starts those that are stopped") as say:
        if services.start_stopped_machines(lab, say):
            _wait_for_api(lab, say)
    with steps.step("Stack", f"Pulumi's backend and the stack {name}") as say:
        toolchain.make_state()
        stack.write_env(project / ".lab" / "env")
        pulumi_stack.free(say)
        pulumi_stack.select()
    with steps.step("Platform", f"`pulumi up` of the stack {name}"):
        pulumi_stack.up()
    with steps.step(
        "Measurement", f"queries the cluster; {screen.REQUESTS} requests to each canary"
    ):
        shown = screen.gather(lab, pulumi_stack.outputs(), config)
    _print_screen(shown)
    steps.finish("The lab is up." if shown.is_healthy else "The lab is up, but not healthy.")
    if not shown.is_healthy:
        sys.exit(1)


@cli.command("build")
@_stack_option
def build_(name: str) -> None:
    """Build and install what is missing on this machine, the tests' servers too; start nothing."""
    lab = services.read_lab(Path.cwd(), name)
    steps = Steps(total=2)
    _prepare(steps, lab, selection.EVERYTHING, tests=True)
    steps.finish("Everything is installed.")


@cli.command()
@_stack_option
def status(name: str) -> None:
    """Show what runs, measured now; fails if something is unhealthy."""
    project = Path.cwd()
    lab = services.read_lab(project, name)
    pulumi_stack = Stack(project=project, name=name)
    problem = _what_is_missing(lab, pulumi_stack)
    if problem:
        raise LabError(problem, code="lab-not-up", fix="run `make up`")
    shown = screen.gather(lab, pulumi_stack.outputs(), services.read_stack(project, name))
    _print_screen(shown)
    if not shown.is_healthy:
        sys.exit(1)


@cli.command()
@_stack_option
def down(name: str) -> None:
    """Take the stack down, then its machines, services, bridge and state; keep the cache."""
    project = Path.cwd()
    lab = services.read_lab(project, name)
    pulumi_stack = Stack(project=project, name=name)
    if lab.kept:
        raise LabError(
            f"the stack {name} does not allow the loss of {', '.join(lab.kept)}",
            code="lab-data-loss",
            path=f"Pulumi.{name}.yaml nordmesh:machines.allowDataLoss",
            why="`make down` deletes all nodes with their data",
            fix=f"add an entry {{disk: {lab.kept[0]}, reason: ...}} for each of them, then run this"
            " again",
        )
    steps = Steps(total=3)
    with steps.step("Platform", f"`pulumi destroy` of the stack {name}") as say:
        _destroy(lab, pulumi_stack, say)
    with steps.step("Machines", "deletes those that remain") as say:
        services.delete_machines(lab, say)
    with steps.step("Host", f"mirror, registry, bridge {lab.bridge}, the stack's state") as say:
        services.stop_services(lab)
        services.stop_bridge(lab)
        pulumi_stack.remove()
        _remove_state(lab, project)
        say(f"kept: the artifacts in {paths.cache().root}; to remove them: rm -r that directory")
    steps.finish("The lab is down.")


@cli.command()
def packages() -> None:
    """Install the Debian packages that `make check` needs and this machine lacks."""
    host.install_packages(_say, host.CHECK_PACKAGES)


def _prepare(steps: Steps, lab: Lab, chosen: Selection, *, tests: bool = False) -> None:
    """The first two steps: check this machine, and build the artifacts."""
    more = programs.TESTS if tests else ()
    with steps.step("Host", "checks this machine, installs missing Debian packages") as say:
        say(host.require(_need(lab, (*chosen.programs, *more))))
        host.install_packages(say, (*host.PACKAGES, *(host.TEST_PACKAGES if tests else ())))
        host.prepare_kernel(say)
    with steps.step(
        "Artifacts", "toolchain, Kubernetes, Istio, images; built once, kept in a cache"
    ):
        build.make_all(say=_say, chosen=chosen, more=more, guests=tests)


def _need(lab: Lab, wanted: Iterable[Program]) -> host.Need:
    cache = paths.cache()
    built = (cache.bin / program.group / program.name for program in wanted)
    outputs = (
        *(cache.base_root, cache.mirror, cache.registry, cache.toolchain_bin / "pulumi"),
        *built,
    )
    is_running = set(lab.nodes) <= set(services.running_machines(lab))
    return host.Need.of_run(artifacts=all(p.exists() for p in outputs), machines=is_running)


def _what_is_missing(lab: Lab, pulumi_stack: Stack) -> str | None:
    running = services.running_machines(lab)
    stopped = [name for name in lab.nodes if name not in running]
    if not pulumi_stack.exists():
        return f"the stack {pulumi_stack.name} does not exist"
    if stopped:
        return f"these machines do not run: {', '.join(stopped)}"
    return None


def _what_does_not_answer(lab: Lab) -> str | None:
    """The reason why the cluster cannot delete anything; waiting for it would never end."""
    control_planes = [name for name in lab.nodes if _has_api(lab, name)]
    if not any(_is_ready(lab.nodes[name]) for name in control_planes):
        return "no API server answers"
    return None


def _destroy(lab: Lab, pulumi_stack: Stack, say: Callable[[str], None]) -> None:
    """Run `pulumi destroy` if the cluster answers; removing the machines deletes the rest."""
    try:
        pulumi_stack.free(say)
    except ValueError as error:
        say(f"the stack's state cannot be read ({error}); removing the nodes as they are")
        return
    if not pulumi_stack.exists():
        say("the stack does not exist")
        return
    problem = _what_is_missing(lab, pulumi_stack) or _what_does_not_answer(lab)
    if problem:
        say(f"skipped, removing the nodes as they are: {problem}")
        return
    try:
        pulumi_stack.destroy()
    except LabError as error:
        say(f"{error.what}; removing the nodes as they are")


def _remove_state(lab: Lab, project: Path) -> None:
    with suppress(FileNotFoundError):
        rmtree(lab.directory)
    with suppress(OSError):
        lab.directory.parent.rmdir()
    if stack.remove_backend_if_empty(sorted(project.glob("Pulumi.*.yaml"))):
        (project / ".lab" / "env").unlink(missing_ok=True)
        for directory in (project / ".lab", paths.state().root):
            with suppress(OSError):  # the files of others stay
                directory.rmdir()


def _wait_for_api(lab: Lab, say: Callable[[str], None]) -> None:
    """Wait for the API servers of restarted machines; a new cluster has none yet."""
    for name, address in lab.nodes.items():
        if not _has_api(lab, name):
            continue
        say(f"waiting for the API server of {name}")
        deadline = time.monotonic() + _API_SECONDS
        while not _is_ready(address):
            if time.monotonic() > deadline:
                console = lab.directory / "machines" / name / "console.log"
                raise LabError(
                    f"the API server of {name} did not get ready in {_API_SECONDS:.0f} s after "
                    "its machine started",
                    code="lab-api-not-ready",
                    fix=f"read {console}, then run this again",
                )
            time.sleep(0.5)


def _has_api(lab: Lab, name: str) -> bool:
    """Whether kubeadm has made a control plane on a machine."""
    root = lab.directory / "machines" / name / "root"
    return (root / "etc/kubernetes/manifests/kube-apiserver.yaml").exists()


def _is_ready(address: str) -> bool:
    # This only tests for an answer, and sends no secret.
    trusting = ssl._create_unverified_context()  # noqa: S323
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
    )
    with suppress(OSError), opener.open(f"https://{address}:6443/readyz", timeout=2) as answer:
        return bool(answer.status == 200)
    return False


def _print_screen(shown: screen.Screen) -> None:
    click.echo("\n" + screen.render(shown, colour=sys.stdout.isatty()))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code. An error is one message, without a traceback."""
    try:
        result: Any = cli.main(args=arguments, prog_name="python -m lab", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except (NordmeshError, OSError, json.JSONDecodeError) as error:
        click.echo(f"\n{click.style('error:', fg='red')} {error}", err=True)
        return 1
    except (KeyboardInterrupt, click.Abort):
        click.echo("\nstopped; run it again to continue", err=True)
        return _INTERRUPTED
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    sys.exit(main())
