"""Errors of scripts and SSH connections: the message that a user gets."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pulumi
import pytest

from components.remote import copies
from components.remote.failures import (
    _on_error,
    explain,
    explain_copy,
    is_missing_script,
    on_hypervisor,
)
from components.remote.node_command import Script
from lab.standins._plugin import failure

LOST = "wait: remote command exited without exit status or exit signal"


def script_error(
    how: str, output: str, *, file: str = "node-prepare.sh", command: str | None = None
) -> str:
    """The error that the command plugin reports for a failed script."""
    script = Script(file=file, node="worker-1", settings={"A": 'it\'s "a" value'}, timeout=300)
    return failure(how, command or script.command("admin"), output.encode())


def test_the_path_of_a_node_with_dots_can_be_used_with_pulumi() -> None:
    message = explain("cp-1.example.com", "ssh: host key mismatch")
    assert 'nordmesh:machines.nodes["cp-1.example.com"].hostKey' in str(message)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        # Errors of Go's SSH library, as the official command plugin reports them.
        ("after 5 failed attempts: dial tcp 192.0.2.11:22: connect: connection refused", "answer"),
        ("after 5 failed attempts: dial tcp 192.0.2.11:22: i/o timeout", "its firewall allows SSH"),
        ("dial tcp 192.0.2.11:22: connect: no route to host", "the address and the port"),
        ("dial tcp: lookup cp-1.example on 192.0.2.53:53: no such host", "the address and the"),
        ("ssh: handshake failed: EOF", "does not answer"),
        (
            "ssh: handshake failed: read tcp 192.0.2.1:40262->192.0.2.11:22: read: connection "
            "reset by peer",
            "does not answer",
        ),
        ("ssh: handshake failed: knownhosts: key mismatch", "another SSH host key"),
        (
            "after 5 failed attempts: ssh: handshake failed: ssh: host key mismatch",
            "machines.nodes.worker-1.hostKey",
        ),
        (
            "after 5 failed attempts: ssh: handshake failed: ssh: no common algorithm for host "
            "key; we offered: [ssh-rsa], peer offered: [ssh-ed25519 rsa-sha2-512 rsa-sha2-256]",
            "no SSH host key of the type that is pinned",
        ),
        (
            "after 5 failed attempts: ssh: handshake failed: ssh: unable to authenticate, "
            "attempted methods [none publickey], no supported methods remain",
            "authorized_keys",
        ),
        ("dial unix /tmp/agent.1: connect: no such file or directory", "unset SSH_AUTH_SOCK"),
        ("ssh: rejected: administratively prohibited (open failed)", "MaxSessions"),
        (script_error("ssh: command timeout 300 bash failed", ""), "refused to run a command"),
        (script_error(LOST, "worker-1: connection refused\n"), "was cut while a script"),
    ],
)
def test_an_ssh_error_names_the_node_and_the_fix(error: str, words: str) -> None:
    message = explain("worker-1", error)
    assert message is not None
    assert message.startswith("node worker-1: ")
    assert words in message
    assert "`pulumi up` again" in message


@pytest.mark.parametrize(
    ("how", "output", "words"),
    [
        ("status 1", "worker-1: install packages\ntee: /etc/hosts: Read-only file system", "dmesg"),
        ("status 1", "sudo: a password is required", "sudo without a password"),
        ("status 1", "admin is not in the sudoers file.", "sudo without a password"),
        ("status 1", "cp: error writing '/var/lib/x': No space left on device", "df -i"),
        ("status 1", "Unmatched '''.", "chsh"),
        ("status 1", "curl: (7) Failed to connect: Connection refused", "exit status 1"),
        ("status 100", "E: dial tcp: no route to host, host key, EOF", "exit status 100"),
        ("status 124", "worker-1: kubeadm init", "time limit of 900 s"),
        ("status 126", "bash: /opt/x: Permission denied", "could not be run"),
        ("status 127", "bash: line 1: sha256sum: command not found", "not installed"),
        ("status 137", "worker-1: unpack", "memory"),
        ("status 137", "kubectl exec: exit code 137", "the shell's for a program"),
        ("status 200", "a program: exit code 200", "exit status 200"),
        ("status 137 from signal KILL", "worker-1: unpack", "SIGKILL"),
        ("status 143", "worker-1: unpack", "SIGTERM"),
        ("status 1", "unable to authenticate", "exit status 1"),
    ],
)
def test_a_failed_script_shows_its_last_lines(how: str, output: str, words: str) -> None:
    message = explain(
        "worker-1", script_error(f"Process exited with {how}", f"first\n\n{output}\n")
    )
    assert message is not None
    assert message.startswith("node worker-1: node-prepare.sh ")
    assert words in message
    for line in ("first", *output.splitlines()):
        assert f"\n    {line}\n" in message
    assert "/var/log/nordmesh" in message
    assert "`pulumi up` again" in message
    assert "SSH" not in message


def test_a_long_output_is_cut_to_its_last_lines() -> None:
    lines = [f"line {number} {'x' * 1000}" for number in range(100)]
    message = explain("worker-1", script_error("Process exited with status 1", "\n".join(lines)))
    assert message is not None
    assert "line 99 " in message
    assert "line 50 " not in message
    assert len(message) < 5000


def test_a_failed_script_without_output() -> None:
    message = explain("worker-1", script_error("Process exited with status 1", ""))
    assert message is not None
    assert "exit status 1" in message
    assert "last lines" not in message


def test_a_secret_result_is_hidden() -> None:
    result = json.dumps({"clientKey": "a-key-in-the-clear"})
    output = f"sudo: unable to send audit message\nworker-1: ready\n{result}\na-key-in-the-clear\n"
    error = script_error("Process exited with status 137", output, file="kubeadm-init.sh")
    message = explain("worker-1", error, is_secret=True)
    assert message is not None
    assert "kubeadm-init.sh" in message
    assert "\n    worker-1: ready\n" in message
    assert "a-key-in-the-clear" not in message


def test_the_settings_of_a_failed_script_are_hidden() -> None:
    message = explain("worker-1", script_error("Process exited with status 1", "the end\n"))
    assert message is not None
    assert "value" not in message


def test_a_failed_guest_names_its_hypervisor() -> None:
    message = explain("worker-1", "ssh: host key mismatch")
    assert message is not None
    script = Script(file="kvm-create.sh", node="worker-1", settings={"HYPERVISOR": "hv-1"})
    inputs = {"create": script.command("root")}
    assert "machines.hypervisors.hv-1.hostKey" in on_hypervisor(message, "worker-1", inputs)
    assert on_hypervisor(message, "worker-1", {"create": ""}) == message


def test_an_ssh_error_names_the_bastion() -> None:
    error = "proxy: ssh: handshake failed: ssh: host key mismatch"
    message = explain("worker-1", error, bastion="192.0.2.5")
    assert message is not None
    assert "through the bastion 192.0.2.5" in message
    assert "machines.ssh.bastion" in message
    dead = explain(
        "worker-1", script_error("Process exited with status 1", ""), bastion="192.0.2.5"
    )
    assert dead is not None
    assert "bastion" not in dead


def test_a_missing_script_is_recognised() -> None:
    assert is_missing_script(
        script_error("Process exited with status 66", "\nERROR on node worker-1: x\n")
    )
    assert not is_missing_script(script_error("Process exited with status 1", "status 66"))
    assert not is_missing_script("ssh: handshake failed: EOF")


def test_a_failed_copy_of_a_script_is_explained() -> None:
    full = explain_copy("worker-1", "cat: write error: No space left on device")
    assert full.startswith("node worker-1: ")
    assert "df -i" in full
    assert "`pulumi up` again" in full
    silent = explain_copy("worker-1", "root@192.0.2.1 port 22: timed out", bastion="192.0.2.5")
    assert "does not answer over SSH" in silent
    assert "through the bastion 192.0.2.5" in silent


@pytest.mark.parametrize(
    ("problem", "earlier", "is_retried"),
    [(None, [], True), (None, ["Process exited with status 66"], False), ("no room", [], False)],
)
def test_a_command_is_retried_once_after_its_script_is_copied(
    monkeypatch: pytest.MonkeyPatch, problem: str | None, earlier: list[str], is_retried: bool
) -> None:
    errors_logged: list[str] = []

    class Machines:
        async def ensure(self, inputs: Mapping[str, Any], *, again: bool) -> str | None:
            assert again
            assert inputs["create"] == command
            return problem

    monkeypatch.setattr(copies, "of_this_run", Machines)
    monkeypatch.setattr(pulumi.log, "error", errors_logged.append)
    command = Script(file="node-prepare.sh", node="worker-1", settings={}).command("root")
    errors = [script_error(how, "") for how in ("Process exited with status 66", *earlier)]
    assert retries(command, errors, operation="delete") is is_retried
    assert len(errors_logged) == (problem is not None)


def test_the_bastion_of_a_secret_connection_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    errors_logged: list[str] = []
    monkeypatch.setattr(pulumi.log, "error", errors_logged.append)
    command = Script(file="node-prepare.sh", node="worker-1", settings={}).command("root")
    assert not retries(command, ["ssh: host key mismatch"], operation="create")
    assert "through the bastion 192.0.2.5" in errors_logged[0]


def retries(command: str, errors: list[str], *, operation: str) -> bool:
    """Whether a failed command is retried. errors: newest first."""

    async def hook() -> bool:
        connection = pulumi.Output.secret({"proxy": {"host": "192.0.2.5"}})
        inputs: dict[str, object] = {"create": command, "connection": connection}
        is_delete = operation == "delete"
        args = pulumi.ErrorHookArgs(
            "",
            "",
            "",
            "",
            new_inputs=None if is_delete else inputs,
            old_inputs=inputs if is_delete else None,
            errors=errors,
        )
        return await _on_error(args)

    return asyncio.run(hook())


def test_an_error_that_a_script_explains_is_left_alone() -> None:
    explained = "\nERROR on node worker-1: connection refused [lost]\n    why   x\n"
    assert explain("cp-1", script_error("Process exited with status 1", explained)) is None
    assert explain("cp-1", "ERROR on node cp-1: connection refused [lost]") is None


def test_an_unknown_error_is_not_explained() -> None:
    assert explain("cp-1", "the disk of this machine is full") is None
