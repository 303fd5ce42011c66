"""`nordmesh preflight`: measure the nodes of a stack and compare them with its limits."""

import json
import sys

import typer

from cli.logins import logins
from cli.options import Stack
from cli.pulumi_cli import PulumiError, output, project
from components.nodes_ssh import Login
from components.preflight.judge import judge
from components.preflight.measure import measure
from components.preflight.report import report
from config import SSH_KEY, SSH_KEY_PASSWORD, Bastion, ExistingNode, Machines, StackConfig, keys
from config.errors import NAMESPACE, Problem
from config.load import load


def _values(stack: str) -> tuple[dict[str, object], list[Problem]]:
    """The stack's settings, decrypted, and the problems of them all; raises PulumiError."""
    text = output("config", "--json", "--show-secrets", stack=stack)
    settings = json.loads(text)
    values = {key: setting.get("value") for key, setting in settings.items()}
    prefix = f"{NAMESPACE}:"
    clear = [
        name
        for name in keys.SECRETS
        if f"{prefix}{name}" in settings and not settings[f"{prefix}{name}"].get("secret")
    ]
    own = {key.removeprefix(prefix): values[key] for key in values if key.startswith(prefix)}
    return own, [*keys.unread(values), *keys.in_the_clear(clear)]


def _bought(machines: Machines, key: str, password: str | None) -> dict[str, Login]:
    """The logins of nodes that there are already."""

    def of(place: ExistingNode | Bastion, user: str, port: int, through: Bastion | None) -> Login:
        return Login(
            host=place.address,
            user=user,
            port=port,
            host_key=place.host_key,
            private_key=key,
            password=password,
            bastion=of(through, through.user, through.port, None) if through else None,
        )

    found = {}
    for name, node in machines.nodes.items():
        if isinstance(node, ExistingNode):
            login = machines.login(node)
            found[name] = of(node, login.user, login.port, login.bastion)
    return found


def _logins(stack: str, config: StackConfig, values: dict[str, object]) -> dict[str, Login]:
    """Every node's login; those of machines that the program made are in the stack's state."""
    key, password = values.get(SSH_KEY), values.get(SSH_KEY_PASSWORD)
    found = _bought(config.machines, str(key), None if password is None else str(password))
    made = set(config.machines.nodes) - set(found)
    if made:
        known = logins(stack, "-prepare")
        if missing := sorted(made - set(known)):
            raise PulumiError(
                f"these machines do not exist yet: {', '.join(missing)}",
                code="no-machines",
                path=stack,
                fix="create them with `pulumi up`, which runs the preflight before anything else",
            )
        found |= {name: known[name] for name in made}
    return dict(sorted(found.items()))


def command(stack: Stack = "") -> None:
    """Measure the nodes of a stack and compare them with its limits; changes nothing.

    Connects to all nodes at once over SSH. Exit status: 0 all nodes passed, 1 a check failed or the
    stack file is wrong, 3 the nodes could not be measured.
    """
    values, problems = _values(stack)
    config = load(values, project_dir=project(), problems=problems)
    nodes = _logins(stack, config, values)
    window = config.preflight.window
    print(f"measuring {', '.join(nodes)} for {window} ...", file=sys.stderr, flush=True)
    measured = measure(config, nodes)
    findings = judge(config, measured)
    print(report(findings, measured))
    if any(finding.stops for finding in findings):
        raise typer.Exit(1)
