"""`nordmesh report`: what a stack file allows, as Markdown.

Rows are sorted by name, so that two reports can be compared.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import typer
import yaml

from cli.options import Stack
from cli.pulumi_cli import project
from components.manifests.authorization import account
from components.manifests.workloads import annotations
from config import Caller, EgressHost, StackConfig, capacity, stack_file
from config.checks import CHECKS
from config.errors import ConfigError
from config.sections import Sections

# A missing checksum or SSH key does not change what is reported.
_NO_MESH = "The stack has no mesh."
_ABOUT = ("istio", "mesh")


def read(project: Path, stack: str) -> StackConfig:
    """Read a stack; a report ignores problems that are not about it.

    Raises NordmeshError, and ConfigError with every problem.
    """
    file = stack_file.read(project, stack)
    sections = Sections(file.values, project)
    found = [*file.problems, *sections.problems]
    for check in CHECKS:
        found += [
            problem
            for problem in check(sections)
            if problem.path[0] in _ABOUT and not sections.is_unclear(problem)
        ]
    if found:
        raise ConfigError(found)
    return StackConfig.model_validate(sections.by_name, by_name=True)


def egress(config: StackConfig) -> Iterator[str]:
    """The allow-list."""
    if config.istio is None:
        yield _NO_MESH
        return
    policy = config.istio.outbound_traffic_policy
    rest = "refused" if policy == "REGISTRY_ONLY" else "let through"
    yield f"Hosts outside the cluster that may be called. Any other is {rest} ({policy})."
    yield ""
    hosts = config.mesh.egress.hosts
    yield from _table(
        ("Host", "Ports", "From", "Way", "Country", "Owner", "Purpose", "Legal basis", "Transfer"),
        (_egress_row(hosts[name]) for name in sorted(hosts, key=lambda name: hosts[name].host)),
    )


def _egress_row(host: EgressHost) -> tuple[str, ...]:
    ports = ", ".join(f"{port.number} {port.protocol}" for port in host.ports)
    way = "egress gateway" if host.through == "gateway" else "each pod's proxy"
    made = ", TLS made there" if host.tls == "originate" else ""
    note = f" ({host.wildcard_reason})" if host.wildcard_reason else ""
    transfer = "stays in the EEA" if host.in_eea else str(host.transfer_basis)
    return (
        host.host + note,
        ports,
        ", ".join(host.may_call),
        way + made,
        host.country,
        host.owner,
        host.purpose,
        host.legal_basis,
        transfer,
    )


def access(config: StackConfig) -> Iterator[str]:
    """Who may call which service, and what each namespace sees."""
    mesh = config.mesh
    yield "Who may call which service. Where callers are declared, any other is refused with 403."
    yield ""
    rows: list[tuple[str, ...]] = []
    for name, service in sorted(mesh.services.items()):
        called = f"{service.namespace}/{name}"
        if service.callers is None:
            rows.append((called, "anybody (no callers declared)", "", "", "", ""))
        elif not service.callers:
            rows.append((called, "nobody", "", "", "", ""))
        for caller in service.callers or []:
            runs_as = "/".join(account(caller, mesh.services))
            limits = (caller.methods, caller.paths, [str(port) for port in caller.ports])
            rows.append(
                (called, _caller(caller), runs_as, *(", ".join(x) or "all" for x in limits))
            )
    yield from _table(("Service", "Caller", "Runs as", "Methods", "Paths", "Ports"), rows)
    limited = sorted(name for name, x in mesh.namespaces.items() if x.limit_view)
    yield ""
    yield f"Namespaces whose proxies know only what they call: {', '.join(limited) or 'none'}."


def _caller(caller: Caller) -> str:
    if caller.service is not None:
        return f"service {caller.service}"
    if caller.gateway is not None:
        return f"gateway {caller.gateway}"
    return f"service account {caller.service_account}"


def sizes(config: StackConfig) -> Iterator[str]:
    """What the proxies need, with a fifth more, and what the nodes have."""
    yield "What the declared pods' proxies request, with 20% more, and what nodes have for pods."
    yield ""
    needed, there = capacity.needed(config), capacity.allocatable(config)
    yield from _table(
        ("", "Proxies", "Nodes"),
        (
            (kind, capacity.shown(kind, needed[kind]), _there(kind, there[kind] if there else None))
            for kind in needed
        ),
    )
    missing = capacity.unknown(config)
    if missing:
        yield ""
        yield f"Not declared, and so not counted: {', '.join(missing)}."


def _there(kind: str, amount: Decimal | None) -> str:
    return "unknown" if amount is None else capacity.shown(kind, amount)


def workloads(config: StackConfig) -> Iterator[str]:
    """The annotations to paste, for workloads with apply: snippet."""
    if config.istio is None:
        yield _NO_MESH
        return
    found = {
        name: workload
        for name, workload in sorted(config.mesh.workloads.items())
        if workload.apply == "snippet"
    }
    if not found:
        yield "No entry of mesh.workloads has apply: snippet."
    for name, workload in found.items():
        pod = {"metadata": {"annotations": annotations(workload, config.istio.proxy)}}
        yield f"# {workload.namespace}/{workload.deployment or name}: for the Deployment's owner"
        yield yaml.safe_dump({"spec": {"template": pod}}, sort_keys=False).rstrip()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [tuple(map(_cell, row)) for row in rows]
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for line in lines or [("none", *[""] * (len(head) - 1))]:
        yield f"| {' | '.join(line)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


app = typer.Typer(no_args_is_help=True)


@app.command("egress", epilog="Example: nordmesh report egress --stack prod")
def egress_command(stack: Stack = "") -> None:
    """List the hosts outside the cluster that services may call, who may call them, and why."""
    _print(egress, stack)


@app.command("access", epilog="Example: nordmesh report access --stack prod")
def access_command(stack: Stack = "") -> None:
    """List who may call which service."""
    _print(access, stack)


@app.command("capacity", epilog="Example: nordmesh report capacity --stack prod")
def capacity_command(stack: Stack = "") -> None:
    """Compare what the proxies request with what the nodes have."""
    _print(sizes, stack)


@app.command("workloads", epilog="Example: nordmesh report workloads --stack prod")
def workloads_command(stack: Stack = "") -> None:
    """Print the sidecar annotations that the owners of workloads paste into their Deployments."""
    _print(workloads, stack)


def _print(report: Callable[[StackConfig], Iterator[str]], stack: str) -> None:
    for line in report(read(project(), stack)):
        print(line)
