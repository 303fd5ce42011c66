"""Explain a failed SSH step: the node, the likely cause and the fix."""

import functools
import re
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pulumi
from pulumi.runtime.proto import resource_pb2
from pulumi.runtime.settings import monitor_supports_feature

from components.remote import copies
from components.remote.node_command import MISSING, file, settings_of, time_limit
from config.errors import step

OnError = Callable[[pulumi.ErrorHookArgs], Awaitable[bool]]
"""Handles the failure of a step; returns whether to repeat it."""

PREFLIGHT_REFUSES = "preflight failed on"
"""The first words of the errors of components.preflight, which need no explanation."""

_THROUGH = (
    "The connection goes through the bastion {bastion}, which may be the one that failed: its host "
    "key and login are in the bastion of that node, or in nordmesh:machines.ssh.bastion."
)
_AGAIN = "Then run `pulumi up` again: it resumes from there."

# The wording of Go's SSH library and of components.remote.nodes_ssh; the first match is shown.
_CAUSES: tuple[tuple[str, str], ...] = (
    (
        r"without exit status",
        "The SSH connection was cut while a script ran there. The script may still be running; the "
        "next run waits until it ends and repeats the step. Every step is safe to repeat.",
    ),
    (
        r"dial unix ",
        "The SSH agent at SSH_AUTH_SOCK does not answer. The command plugin uses it even though "
        "the key is in the stack file. Run `unset SSH_AUTH_SOCK`, or start the agent.",
    ),
    (
        r"^ssh: command |ssh: rejected|starts no session",
        "The SSH server accepted the login and refused to run a command. Check MaxSessions and "
        "ForceCommand in its sshd_config, and the options before the key in authorized_keys.",
    ),
    (
        r"no common algorithm for host key",
        "The machine has no SSH host key of the type that is pinned for it, so nothing was sent to "
        "it. The command plugin accepts ed25519 and ECDSA keys, but no RSA key. Compare the "
        "ed25519 key on the machine's console (ssh-keygen -lf "
        "/etc/ssh/ssh_host_ed25519_key.pub), and write it to "
        "nordmesh:machines.nodes{key}.hostKey.",
    ),
    (
        r"host key|key mismatch",
        "The machine at this address showed another SSH host key than the pinned one, so nothing "
        "was sent to it. Someone may be intercepting it, or the machine was reinstalled. "
        "Compare the key on the machine's console (ssh-keygen -lf "
        "/etc/ssh/ssh_host_ed25519_key.pub) with nordmesh:machines.nodes{key}.hostKey, and "
        "write the new key there only if you know why it changed.",
    ),
    (
        r"unable to authenticate|permission denied for this key",
        "The machine refused the login. Check the user of nordmesh:machines.nodes{key} and that "
        "the public half of nordmesh:sshPrivateKey is in that user's authorized_keys.",
    ),
    (
        r"dial tcp|connection (refused|lost|reset|closed)|i/o timeout|timed out|no answer in|EOF$"
        r"|no route to host|unreachable|broken pipe",
        "The machine does not answer over SSH. Check that it is on, that the address and the port "
        "of nordmesh:machines.nodes{key} are right, and that its firewall allows SSH from "
        "here. If the machine is lost for good, set gone: REASON there.",
    ),
)

# How the command plugin reports a command that ran: why it failed, the command in Go's quotes, and
# its output. Neither the command nor the output says anything about the connection.
_RAN = re.compile(r'(.*?): running "((?:[^"\\]|\\.)*)":\n(.*)', re.DOTALL)
_EXITED = re.compile(r"Process exited with status (\d+)(?: from signal (\w+))?")

_TIMED_OUT, _NOT_RUNNABLE, _NOT_FOUND, _KILLED = 124, 126, 127, 137
_SIGNALS_FROM = 128
_LAST_LINES, _LINE_LENGTH = 10, 300

# Patterns in a script's output, and the fix; the first that matches is shown.
_HINTS: tuple[tuple[str, str], ...] = (
    (
        r"sudo: .*(password|terminal)|not in the sudoers file|not allowed to (execute|run sudo)",
        "Allow the user of nordmesh:machines.nodes{key} to run sudo without a password: "
        "`sudo -n true` must succeed there.",
    ),
    (
        r"Read-only file system",
        "A file system of the machine is read-only, which Linux makes it after disk errors: look "
        "at `dmesg`, and repair or replace the disk.",
    ),
    (
        r"No space left on device|Disk quota exceeded",
        "Free space on the machine or grow its disk: `df -h` and `df -i` show what is full.",
    ),
    (
        r"Unmatched ['\"`]|Missing name for redirect|^fish: ",
        "Set the user's login shell to bash (`chsh -s /bin/bash`): it must read what sh reads.",
    ),
)
_REMEDIES = {
    _TIMED_OUT: "Find out what was slow: the machine's load, its disk, or its network.",
    _NOT_RUNNABLE: "Check the permissions of the program that the last line names, and whether its "
    "file system is mounted with noexec.",
    _NOT_FOUND: "Install the program that the last line names.",
    _KILLED: "The kernel kills processes when memory runs out. If `journalctl -k` on the machine "
    "shows `Out of memory`, give it more memory.",
}
_LOGS = "The logs of the script's commands are in /var/log/nordmesh on the machine where it ran."


def explain(
    node: str, error: str, *, bastion: str | None = None, is_secret: bool = False
) -> str | None:
    """The message for a failed step on a node; None if the script has explained it already.

    bastion: the address of the jump host. is_secret: whether the script's result is a secret; only
    its progress is shown then.
    """
    ran = _RAN.fullmatch(error)
    reason, command, output = ran.groups() if ran else (error, "", error)
    if "ERROR on node" in output or PREFLIGHT_REFUSES in output:
        return None
    exited = _EXITED.match(reason)
    if exited:
        status, signal_name = int(exited[1]), exited[2]
        return _unexplained(node, status, signal_name, command, output, is_secret=is_secret)
    through = f"{_THROUGH.format(bastion=bastion)} " if bastion else ""
    for pattern, cause in _CAUSES:
        if re.search(pattern, reason, re.IGNORECASE):
            return f"node {node}: {cause.format(key=step(node))} {through}{_AGAIN}"
    return None


def is_missing_script(error: str) -> bool:
    """Whether a command failed because its script is missing on the machine or was changed."""
    ran = _RAN.fullmatch(error)
    exited = _EXITED.match(ran[1]) if ran else None
    return exited is not None and int(exited[1]) == MISSING


def is_repeated(errors: Sequence[str]) -> bool:
    """Whether `explaining_hooks` runs a command again after its first error: a missing script."""
    return len(errors) == 1 and is_missing_script(errors[0])


def error_hooks(name: str, hook: OnError) -> pulumi.ResourceHookBinding | None:
    """Return a hook that runs after a step has failed; None if the engine has no error hooks."""
    if not monitor_supports_feature(resource_pb2.RESOURCE_MONITOR_FEATURE_ERROR_HOOKS):
        return None
    return pulumi.ResourceHookBinding(on_error=[pulumi.ErrorHook(name, hook)])


def explain_copy(node: str, problem: str, *, bastion: str | None = None) -> str:
    """The message for scripts that could not be copied to a node."""
    what = f"node {node}: cannot copy the scripts to it: {problem}."
    return explain(node, problem, bastion=bastion) or " ".join(
        filter(None, (what, hint(node, problem), _AGAIN))
    )


def hint(node: str, output: str) -> str | None:
    """The fix for a known error in a program's output; None if it is unknown."""
    for pattern, fix in _HINTS:
        if re.search(pattern, output, re.MULTILINE):
            return fix.format(key=step(node))
    return None


def _unexplained(
    node: str,
    status: int,
    signal_name: str | None,
    command: str,
    output: str,
    *,
    is_secret: bool,
) -> str:
    """The message for a script that ended without an error of its own."""
    lines = [line[:_LINE_LENGTH] for line in output.splitlines() if line.strip()]
    if is_secret:
        lines = [line for line in lines if _is_progress(line, node)]
    shown = "".join(f"\n    {line}" for line in lines[-_LAST_LINES:])
    ending = f"Its last lines:{shown}\n" if shown else "It printed nothing that can be shown. "
    remedy = hint(node, output) or _REMEDIES.get(status)
    what = f"{file(command) or 'a script'} ended without an error of its own"
    ended = _how_it_ended(status, signal_name, command)
    advice = " ".join(filter(None, (remedy, _LOGS, _AGAIN)))
    return f"node {node}: {what}: {ended}. {ending}{advice}"


def _is_progress(line: str, node: str) -> bool:
    """Whether a line is progress or an error of the shell, sudo or timeout, not the result."""
    return line.startswith((f"{node}: ", "bash: ", "sudo: ", "timeout: "))


def _how_it_ended(status: int, signal_name: str | None, command: str) -> str:
    if status == _TIMED_OUT and (limit := time_limit(command)):
        return f"it reached its time limit of {limit} s (exit status {status})"
    if signal_name is not None:
        return f"it was killed with SIG{signal_name} (exit status {status})"
    if status > _SIGNALS_FROM:
        with suppress(ValueError):
            name = signal.Signals(status - _SIGNALS_FROM).name
            return f"exit status {status}, the shell's for a program that was killed with {name}"
    if status == _NOT_RUNNABLE:
        return f"a program could not be run (exit status {status})"
    if status == _NOT_FOUND:
        return f"a program is not installed (exit status {status})"
    return f"exit status {status}"


@functools.cache
def explaining_hooks() -> pulumi.ResourceHookBinding | None:
    """Return hooks that log the message of `explain`; None if the engine has no error hooks."""
    return error_hooks("explain-failure", _on_error)


async def _on_error(args: pulumi.ErrorHookArgs) -> bool:
    """Explain a failure. Return True, to retry the command, after copying its missing script."""
    inputs = args.new_inputs or args.old_inputs or {}
    node = settings_of(inputs).get("NODE_NAME")
    if not node or not args.errors:
        return False
    bastion = await _bastion(inputs)
    if is_missing_script(args.errors[0]):
        problem = await copies.of_this_run().ensure(inputs, again=True)
        if problem is None:
            return not any(map(is_missing_script, args.errors[1:]))
        message: str | None = explain_copy(node, problem, bastion=bastion)
    else:
        message = explain(
            node,
            args.errors[0],
            bastion=bastion,
            is_secret=inputs.get("logging") == "none",
        )
    if message:
        pulumi.log.error(on_hypervisor(message, node, inputs))
    return False


def on_hypervisor(message: str, node: str, inputs: Mapping[str, Any]) -> str:
    """Name the hypervisor's keys in the message if the script that creates a guest failed."""
    hypervisor = settings_of(inputs).get("HYPERVISOR")
    if hypervisor is None:
        return message
    return message.replace(f"machines.nodes{step(node)}", f"machines.hypervisors.{hypervisor}")


async def _bastion(inputs: Mapping[str, Any]) -> str | None:
    # The private key makes the whole connection a secret.
    connection = await pulumi.Output.from_input(inputs.get("connection")).future()
    proxy = connection.get("proxy") if isinstance(connection, Mapping) else None
    return str(proxy.get("host")) if isinstance(proxy, Mapping) else None
