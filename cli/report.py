"""`nordmesh report`: what a stack file allows, as Markdown, and how nodes follow the CIS benchmark.

Rows are sorted by name, so that two reports can be compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import typer
import yaml

from cli.cis import command as cis
from cli.options import AsJson, Stack
from cli.output import print_json, print_markdown, print_yaml
from cli.pulumi_cli import project
from components.manifests.workloads import annotations
from config import Caller, EgressHost, StackConfig, account, capacity
from config.load import read_stack

_ABOUT = ("istio", "mesh")
_NO_MESH = "The stack has no mesh."


@dataclass(frozen=True, kw_only=True)
class Report:
    """A table with a sentence before it and, optionally, one after it."""

    intro: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""

    def markdown(self) -> str:
        """The report as Markdown."""
        lines = [self.intro]
        if self.columns:
            rows = self.rows or [("none", *[""] * (len(self.columns) - 1))]
            lines += ["", _row(self.columns), f"|{'---|' * len(self.columns)}"]
            lines += [_row(tuple(map(_cell, row))) for row in rows]
        if self.note:
            lines += ["", self.note]
        return "\n".join(lines) + "\n"

    def records(self) -> list[dict[str, str]]:
        """The rows by the names of their columns."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def egress(config: StackConfig) -> Report:
    """The hosts outside the cluster that services may call."""
    if config.istio is None:
        return Report(intro=_NO_MESH)
    policy = config.istio.outbound_traffic_policy
    rest = "refused" if policy == "REGISTRY_ONLY" else "allowed"
    hosts = sorted(config.mesh.egress.hosts.values(), key=lambda host: host.host)
    return Report(
        intro=f"Services may call these hosts outside the cluster. Any other is {rest} ({policy}).",
        columns=(
            *("Host", "Ports", "From", "Way", "Country", "Owner", "Purpose", "Legal basis"),
            "Transfer",
        ),
        rows=[_egress_row(host) for host in hosts],
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


def access(config: StackConfig) -> Report:
    """Who may call which service, and which namespaces limit what their proxies know."""
    mesh = config.mesh
    rows: list[tuple[str, ...]] = []
    for name, service in sorted(mesh.services.items()):
        called = service.full_name(name)
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
    limited = sorted(name for name, x in mesh.namespaces.items() if x.limit_view)
    return Report(
        intro="Who may call which service. A service with callers refuses all others with 403.",
        columns=("Service", "Caller", "Runs as", "Methods", "Paths", "Ports"),
        rows=rows,
        note=f"Namespaces whose proxies know only what they call: {', '.join(limited) or 'none'}.",
    )


def _caller(caller: Caller) -> str:
    if caller.service is not None:
        return f"service {caller.service}"
    if caller.gateway is not None:
        return f"gateway {caller.gateway}"
    return f"service account {caller.service_account}"


def sizes(config: StackConfig) -> Report:
    """What the proxies request, with a reserve of 20%, and what the nodes have."""
    needed, available = capacity.needed(config), capacity.allocatable(config)
    missing = capacity.unknown(config)
    return Report(
        intro="What the proxies of the declared pods request, plus 20%, and what nodes have for "
        "pods.",
        columns=("Resource", "Proxies", "Nodes"),
        rows=[
            (
                kind,
                capacity.shown(kind, amount),
                capacity.shown(kind, available[kind]) if available else "unknown",
            )
            for kind, amount in needed.items()
        ],
        note=f"Not declared, so not counted: {', '.join(missing)}." if missing else "",
    )


def workloads(config: StackConfig) -> dict[str, object]:
    """The patch that the owner of each workload with apply: snippet adds to its Deployment."""
    if config.istio is None:
        return {}
    return {
        f"{workload.namespace}/{workload.deployment or name}": {
            "spec": {
                "template": {"metadata": {"annotations": annotations(workload, config.istio.proxy)}}
            }
        }
        for name, workload in sorted(config.mesh.workloads.items())
        if workload.apply == "snippet"
    }


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


app = typer.Typer(no_args_is_help=True)
app.command("cis", epilog="Example: nordmesh report cis --stack prod")(cis.command)


@app.command("egress", epilog="Example: nordmesh report egress --stack prod")
def egress_command(stack: Stack = "", as_json: AsJson = False) -> None:
    """List the hosts outside the cluster that services may call, who may call them, and why."""
    _print(egress, stack, as_json)


@app.command("access", epilog="Example: nordmesh report access --stack prod")
def access_command(stack: Stack = "", as_json: AsJson = False) -> None:
    """List who may call which service."""
    _print(access, stack, as_json)


@app.command("capacity", epilog="Example: nordmesh report capacity --stack prod")
def capacity_command(stack: Stack = "", as_json: AsJson = False) -> None:
    """Compare what the proxies request with what the nodes have."""
    _print(sizes, stack, as_json)


@app.command("workloads", epilog="Example: nordmesh report workloads --stack prod")
def workloads_command(stack: Stack = "", as_json: AsJson = False) -> None:
    """Print the sidecar annotations that the owners of workloads paste into their Deployments."""
    snippets = workloads(read_stack(project(), stack).usable(*_ABOUT))
    if as_json:
        print_json(snippets)
    elif not snippets:
        print("No entry of mesh.workloads has apply: snippet.")
    else:
        for deployment, snippet in snippets.items():
            text = yaml.safe_dump(snippet, sort_keys=False)
            print_yaml(f"# {deployment}: for the owner of this Deployment\n{text}")


def _print(report: Callable[[StackConfig], Report], stack: str, as_json: bool) -> None:
    made = report(read_stack(project(), stack).usable(*_ABOUT))
    if as_json:
        print_json(made.records())
    else:
        print_markdown(made.markdown())
