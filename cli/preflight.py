"""`nordmesh preflight`: measure the nodes of a stack and compare them with its limits."""

import json
import sys
from dataclasses import asdict

import typer

from cli.logins import logins
from cli.options import AsJson, Stack
from cli.output import print_json
from cli.pulumi_cli import PulumiError, output, project
from components.nodes_ssh import Login
from components.preflight.findings import Finding
from components.preflight.judge import judge
from components.preflight.measure import measure
from components.preflight.report import report
from config import (
    SSH_KEY,
    SSH_KEY_PASSWORD,
    Bastion,
    ExistingNode,
    Machines,
    StackConfig,
    stack_file,
)
from config.errors import NAMESPACE
from config.load import load


def _decrypted(stack: str) -> dict[str, object]:
    """The stack's settings without the namespace, decrypted; raises PulumiError."""
    settings = json.loads(output("config", "--json", "--show-secrets", stack=stack))
    prefix = f"{NAMESPACE}:"
    return {
        key.removeprefix(prefix): setting.get("value")
        for key, setting in settings.items()
        if key.startswith(prefix)
    }


def _bought(machines: Machines, key: str, password: str | None) -> dict[str, Login]:
    """The logins of existing nodes."""

    def of(machine: ExistingNode | Bastion, user: str, port: int, through: Bastion | None) -> Login:
        return Login(
            host=machine.address,
            user=user,
            port=port,
            host_key=machine.host_key,
            private_key=key,
            password=password,
            bastion=of(through, through.user, through.port, None) if through else None,
        )

    logins_by_name = {}
    for name, node in machines.present.items():
        if isinstance(node, ExistingNode):
            login = machines.login(node)
            logins_by_name[name] = of(node, login.user, login.port, login.bastion)
    return logins_by_name


def _logins(stack: str, config: StackConfig, values: dict[str, object]) -> dict[str, Login]:
    """Every node's login; those of machines that the program created are in the stack's state."""
    key, password = values.get(SSH_KEY), values.get(SSH_KEY_PASSWORD)
    logins_by_name = _bought(config.machines, str(key), None if password is None else str(password))
    created = set(config.machines.present) - set(logins_by_name)
    if created:
        known = logins(stack, "-prepare")
        if missing := sorted(created - set(known)):
            raise PulumiError(
                f"these machines do not exist yet: {', '.join(missing)}",
                code="no-machines",
                path=stack,
                fix="create them with `pulumi up`, which runs the preflight before anything else",
            )
        logins_by_name |= {name: known[name] for name in created}
    return dict(sorted(logins_by_name.items()))


def command(stack: Stack = "", as_json: AsJson = False) -> None:
    """Measure the nodes of a stack and compare them with its limits; changes nothing.

    Connects to all nodes at once over SSH. Exit status: 0 all nodes passed, 1 a check failed or the
    stack file is wrong, 3 the nodes could not be measured.
    """
    file = stack_file.read(project(), stack)
    values = {**file.values, **_decrypted(stack)}
    config = load(values, project_dir=project(), problems=file.problems)
    nodes = _logins(stack, config, values)
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
