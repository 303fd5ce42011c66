"""Read the SSH logins of a stack's nodes from its state."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cli.pulumi_cli import output
from components.nodes_ssh import Login


def logins(stack: str, script: str) -> dict[str, Login]:
    """Read the logins of the nodes that a script ran on from the stack's state, by node.

    script: the suffix of the resources' names, for example `-prepare`. Raises PulumiError.
    """
    exported = output("stack", "export", "--show-secrets", stack=stack)
    deployment = json.loads(exported).get("deployment") or {}
    return {
        name.removesuffix(script): Login.of(_plain(resource["inputs"]["connection"]))
        for resource in deployment.get("resources") or []
        if resource["type"] == "command:remote:Command"
        and (name := resource["urn"].rpartition("::")[2]).endswith(script)
    }


def _plain(value: Any) -> Any:
    """Unwrap the decrypted secrets in a value of an exported state."""
    if isinstance(value, Mapping):
        if "plaintext" in value:
            return _plain(json.loads(value["plaintext"]))
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(below) for below in value]
    return value
