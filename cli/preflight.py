"""`nordmesh preflight`: measure the nodes of a stack and compare them with its limits."""

import sys
from dataclasses import asdict

import typer

from cli.logins import current, decrypted
from cli.options import AsJson, Stack
from cli.output import print_json
from cli.pulumi_cli import project
from components.preflight.findings import Finding
from components.preflight.judge import judge
from components.preflight.measure import measure
from components.preflight.report import report
from config import stack_file
from config.load import load


def command(stack: Stack = "", as_json: AsJson = False) -> None:
    """Measure the nodes of a stack and compare them with its limits; changes nothing.

    Connects to all nodes at once over SSH. Exit status: 0 all nodes passed, 1 a check failed or the
    stack file is wrong, 3 pulumi failed.
    """
    file = stack_file.read(project(), stack)
    values = {**file.values, **decrypted(stack)}
    config = load(values, project_dir=project(), problems=file.problems)
    nodes = current(stack, config, values)
    window = config.preflight.window
    print(f"measuring {', '.join(nodes)} for {window} ...", file=sys.stderr, flush=True)
    measured = measure(config, nodes)
    findings = judge(config, measured)
    if as_json:
        print_json(
            {"stack": stack, "nodes": list(nodes), "findings": list(map(_as_json, findings))}
        )
    else:
        print(report(findings, measured))
    if any(finding.stops for finding in findings):
        raise typer.Exit(1)


def _as_json(finding: Finding) -> dict[str, object]:
    return {**asdict(finding), "stops": finding.stops}
