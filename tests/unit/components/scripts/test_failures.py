"""Failures that a script does not expect: each has one error with a fix, and changes no file."""

import pytest

from tests.unit import node
from tests.unit.kills import files
from tests.unit.machine import Machine

CONTAINERD = "/services/containerd/runs"
IS_ACTIVE = "[ \"$*\" != 'is-active {unit}' ] || exit {status}"


@pytest.fixture
def worker(machine: Machine) -> Machine:
    """A worker that the cluster does not have any more."""
    node.left(machine)
    return machine


def with_prefix(machine: Machine, command: str, prefix: str) -> None:
    """Run a line before the body of a fake."""
    body = machine.read(f"/usr/local/bin/{command}").split("\n", 3)[3]
    machine.fake(command, f"{prefix}\n{body}")


def test_a_silent_systemd_does_not_mean_that_containers_have_stopped(worker: Machine) -> None:
    with_prefix(worker, "systemctl", IS_ACTIVE.format(unit="containerd", status=1))
    before = files(worker)
    result = node.reset(worker)
    assert result.status == 1
    assert "[systemd-silent]" in result.stderr
    assert files(worker) == before
    assert worker.exists(CONTAINERD)


def test_a_runtime_that_does_not_stop_keeps_its_files(worker: Machine) -> None:
    with_prefix(worker, "systemctl", "[ \"$*\" != 'disable --quiet --now containerd' ] || exit 1")
    before = files(worker)
    result = node.reset(worker)
    assert result.status == 1
    assert "containerd does not stop [service-does-not-stop]" in result.stderr
    assert files(worker) == before


def test_a_failure_that_nothing_handles_names_its_command(worker: Machine) -> None:
    with_prefix(worker, "ctr", "exit 3")
    result = node.reset(worker)
    assert result.status == 3
    assert "failed with status 3: tasks=$(ctr -n k8s.io tasks ls -q) [command-failed]" in (
        result.stderr
    )
    assert result.stderr.count("ERROR on node") == 1


def test_an_error_of_a_subshell_is_the_only_one(worker: Machine) -> None:
    """The command that started the subshell fails, too."""
    worker.write("/etc/kubernetes/kubelet.conf", "client-certificate-data: Y2VydA==\n")
    worker.write(
        "/etc/bash.startup", 'command() { [ "$*" != "-v openssl" ] && builtin command "$@"; }'
    )
    result = node.reset(worker)
    assert result.status == 1
    assert "[no-openssl]" in result.stderr
    assert result.stderr.count("ERROR on node") == 1


@pytest.mark.parametrize(
    ("answer", "unit"), [("echo loaded; exit", "ssh"), ("echo not-found; exit", "sshd")]
)
def test_the_unit_of_the_ssh_server_is_reloaded(machine: Machine, answer: str, unit: str) -> None:
    node.make(machine)
    with_prefix(machine, "systemctl", f"[[ $* != 'show ssh.service'* ]] || {{ {answer}; }}")
    assert node.first(machine).status == 0
    assert f"systemctl reload-or-try-restart {unit}" in machine.calls()


def test_a_silent_systemd_does_not_mean_another_ssh_server(machine: Machine) -> None:
    node.make(machine)
    with_prefix(machine, "systemctl", "[[ $* != 'show ssh.service'* ]] || exit 1")
    result = node.first(machine)
    assert result.status == 1
    assert "[command-failed]" in result.stderr
    assert not [call for call in machine.calls("systemctl") if "reload-or-try-restart" in call]
