"""What a failed SSH step means for the user: the node, the likely cause, the remedy."""

import functools
import re
from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import monitor_supports_feature

PREFLIGHT_REFUSES = "the preflight refuses"
"""How the errors of components.preflight begin, which say all that there is to say."""

_THROUGH = (
    "The connection goes through the bastion {bastion}, which may be the one that is meant: its "
    "host key and login are in the bastion of that node, or in nordmesh:machines.ssh.bastion."
)
_AGAIN = "Then run `pulumi up` again: it goes on from there."

# The wording of Go's SSH library and of OpenSSH's; the first that matches is told.
_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"was lost while|without exit status",
        "The SSH connection was cut while a script ran there. The script may still be at work; the "
        "next run waits for its end and repeats the step, and no step minds being repeated.",
    ),
    (
        r"host key|knownhosts|key mismatch",
        "The machine at this address showed another SSH host key than the one pinned for it, so "
        "nothing was sent to it. Somebody may be in between, or the machine was installed anew. "
        "Compare the key on the machine's console (ssh-keygen -lf "
        "/etc/ssh/ssh_host_ed25519_key.pub) with nordmesh:machines.nodes.{node}.hostKey, and "
        "write the new key there only if you know why it changed.",
    ),
    (
        r"unable to authenticate|permission denied|authentication|no supported methods",
        "The machine refused the login. Check the user of nordmesh:machines.nodes.{node} and that "
        "the public half of nordmesh:sshPrivateKey is in that user's authorized_keys.",
    ),
    (
        r"refused|timed? ?out|no route|unreachable|dial|connection (lost|reset|closed)|broken pipe"
        r"|EOF",
        "The machine does not answer over SSH. Check that it is on, that the address and the port "
        "of nordmesh:machines.nodes.{node} are right, and that its firewall lets SSH in from here.",
    ),
)


def explain(node: str, error: str, *, bastion: str | None = None) -> str | None:
    """The message for a failed step on a node; None when it has been explained already.

    bastion: the address of the machine that the connection goes through.
    """
    if "ERROR on node" in error or PREFLIGHT_REFUSES in error:
        return None
    through = f"{_THROUGH.format(bastion=bastion)} " if bastion else ""
    for pattern, cause in _CAUSES:
        if re.search(pattern, error, re.IGNORECASE):
            return f"node {node}: {cause.format(node=node)} {through}{_AGAIN}"
    return None


@functools.cache
def explaining_hooks() -> pulumi.ResourceHookBinding | None:
    """Hooks that log `explain`'s message; None where the engine knows no error hooks."""
    if not monitor_supports_feature(resource_pb2.RESOURCE_MONITOR_FEATURE_ERROR_HOOKS):
        return None
    return pulumi.ResourceHookBinding(on_error=[pulumi.ErrorHook("explain-failure", _on_error)])


def _on_error(args: pulumi.ErrorHookArgs) -> bool:
    inputs = args.new_inputs or args.old_inputs or {}
    node = _node(inputs)
    message = (
        explain(node, args.errors[0], bastion=_bastion(inputs)) if node and args.errors else None
    )
    if node and message:
        pulumi.log.error(on_hypervisor(message, node, inputs))
    return False


def on_hypervisor(message: str, node: str, inputs: Mapping[str, Any]) -> str:
    """The message, about the hypervisor where the script that makes a guest has failed there."""
    found = re.search(r"export HYPERVISOR=(\S+)", str(inputs.get("create", "")))
    if found is None:
        return message
    return message.replace(f"machines.nodes.{node}.", f"machines.hypervisors.{found.group(1)}.")


def _bastion(inputs: Mapping[str, Any]) -> str | None:
    connection = inputs.get("connection")
    proxy = connection.get("proxy") if isinstance(connection, Mapping) else None
    return str(proxy.get("host")) if isinstance(proxy, Mapping) else None


def _node(inputs: Mapping[str, Any]) -> str | None:
    found = re.search(r"export NODE_NAME=(\S+)", str(inputs.get("create", "")))
    return found.group(1) if found else None
