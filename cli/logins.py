"""The SSH logins of a stack's nodes: in its state, and in its stack file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cli.pulumi_cli import PulumiError, output
from components.remote.nodes_ssh import Login
from config import SSH_KEY, SSH_KEY_PASSWORD, Bastion, ExistingNode, Machines, StackConfig
from config.errors import NAMESPACE


def logins(stack: str, script: str) -> dict[str, Login]:
    """Read the logins of the nodes that a script ran on from the stack's state, by node.

    script: the suffix of the resources' names, for example `-prepare`. Raises PulumiError.
    """
    (found,) = logins_by_script(stack, script)
    return found


def logins_by_script(stack: str, *scripts: str) -> list[dict[str, Login]]:
    """The same for several scripts, in their order, from one export of the state."""
    exported = output("stack", "export", "--show-secrets", stack=stack)
    deployment = json.loads(exported).get("deployment") or {}
    commands = {
        resource["urn"].rpartition("::")[2]: resource["inputs"]
        for resource in deployment.get("resources") or []
        if resource["type"] == "command:remote:Command"
    }
    return [
        {
            name.removesuffix(script): Login.of(_plain(inputs["connection"]))
            for name, inputs in commands.items()
            if name.endswith(script)
        }
        for script in scripts
    ]


def decrypted(stack: str) -> dict[str, object]:
    """The stack's settings without the namespace, decrypted; raises PulumiError."""
    settings = json.loads(output("config", "--json", "--show-secrets", stack=stack))
    prefix = f"{NAMESPACE}:"
    return {
        key.removeprefix(prefix): setting.get("value")
        for key, setting in settings.items()
        if key.startswith(prefix)
    }


def current(stack: str, config: StackConfig, values: Mapping[str, object]) -> dict[str, Login]:
    """Every node's login in the stack file, by name; those of created machines are in the state.

    values: the decrypted settings. Raises PulumiError.
    """
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


def _plain(value: Any) -> Any:
    """Unwrap the decrypted secrets in a value of an exported state."""
    if isinstance(value, Mapping):
        if "plaintext" in value:
            return _plain(json.loads(value["plaintext"]))
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(below) for below in value]
    return value
