"""The command `python -m cli.preflight`: what all nodes of a stack are, held against its limits.

It asks every node at once over SSH and changes nothing. It ends with 0 if nothing is against the
nodes, with 1 if something is, and with 2 if they could not be asked at all.
"""

import argparse
import json
import sys
from pathlib import Path

from cli.logins import logins
from cli.pulumi_cli import PROJECT, PulumiError, output
from components.nodes_ssh import Login
from components.preflight.judge import judge
from components.preflight.measure import measure
from components.preflight.report import report
from config import SSH_KEY, SSH_KEY_PASSWORD, Bastion, ExistingNode, Machines, StackConfig, keys
from config.errors import NAMESPACE, ConfigError, Problem
from config.load import load


def _values(project: Path, stack: str) -> tuple[dict[str, object], list[Problem]]:
    """The stack's settings, decrypted, and the problems of them all; raises PulumiError."""
    text = output("config", "--json", "--show-secrets", stack=stack, project=project)
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


def _logins(
    project: Path, stack: str, config: StackConfig, values: dict[str, object]
) -> dict[str, Login]:
    """Every node's login; those of machines that the program made are in the stack's state."""
    key, password = values.get(SSH_KEY), values.get(SSH_KEY_PASSWORD)
    found = _bought(config.machines, str(key), None if password is None else str(password))
    made = set(config.machines.nodes) - set(found)
    if made:
        known = logins(project, stack, "-prepare")
        if missing := sorted(made - set(known)):
            raise PulumiError(f"`pulumi up` has not made {', '.join(missing)} yet")
        found |= {name: known[name] for name in made}
    return dict(sorted(found.items()))


def main(arguments: list[str] | None = None, *, project: Path = PROJECT) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cli.preflight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stack", required=True, help="the stack's name, as in Pulumi.<stack>.yaml"
    )
    stack = parser.parse_args(arguments).stack
    try:
        values, problems = _values(project, stack)
        config = load(values, project_dir=project, problems=problems)
        reached = _logins(project, stack, config, values)
    except (ConfigError, PulumiError) as error:
        print(error, file=sys.stderr)
        return 2
    window = config.preflight.window
    print(f"asking {', '.join(reached)} for {window} ...", file=sys.stderr, flush=True)
    measured = measure(config, reached)
    findings = judge(config, measured)
    print(report(findings, measured))
    return 1 if any(finding.stops for finding in findings) else 0


if __name__ == "__main__":
    sys.exit(main())
