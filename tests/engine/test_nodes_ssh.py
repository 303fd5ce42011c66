"""SSH from the command line to nodes: bastions, encrypted keys and pinned host keys."""

import asyncio
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from components.preflight.facts import Measured
from components.preflight.measure import measure
from components.remote.nodes_ssh import Login, NoSession, Sessions, run
from config import StackConfig
from tests.engine.conftest import Sshd, wait_until
from tests.engine.test_logins import PASSWORD, encrypted_key
from tests.support import mocked

ADDRESS = "192.0.2.11"


def login(sshd: Sshd, **changes: object) -> Login:
    settings = sshd.connection()
    result = Login(
        host=settings["host"],
        user=settings["user"],
        port=settings["port"],
        host_key=settings["host_key"],
        private_key=settings["private_key"],
    )
    return replace(result, **changes)  # type: ignore[arg-type]


def one_node() -> StackConfig:
    return mocked.config(
        machines={"nodes": {"cp-1": mocked.node("control-plane", ADDRESS)}},
        preflight={"window": "1s"},
        artifacts={"mirror": "http://127.0.0.1:9", "registry": "http://nosuch.invalid:5000"},
    )


def measured(at: Login) -> Measured:
    return measure(one_node(), {"cp-1": at})["cp-1"]


def test_login_through_a_bastion_with_an_encrypted_key(
    sshd: Sshd, start_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    bastion = start_sshd()
    key = encrypted_key(bastion, tmp_path / "key")
    through = login(bastion, private_key=key, password=PASSWORD)
    result = measured(login(sshd, bastion=through))
    assert result.problem is None
    facts = result.facts
    assert facts.value("uid") == "0"
    assert facts.number("cores")
    assert facts.sync_p99
    assert facts.disk_free
    assert facts.interface
    assert facts.values("reaches") == facts.values("resolves") == []
    assert result.clock is not None
    assert abs(result.clock.ahead) <= result.clock.error + 0.05
    assert "Accepted publickey" in bastion.log.read_text()


def test_a_server_with_a_session_limit_is_measured(start_sshd: Callable[..., Sshd]) -> None:
    result = measured(login(start_sshd("MaxSessions 2")))
    assert result.problem is None
    assert result.facts.is_whole


def test_a_server_without_the_pinned_kind_of_host_key_is_refused(
    sshd: Sshd, tmp_path: Path
) -> None:
    path = tmp_path / "other"
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True)
    key = path.with_name("other.pub").read_text().strip()
    problem = measured(login(sshd, host_key=key)).problem
    assert problem is not None
    assert "a host key other than the pinned one" in problem


def test_a_port_in_use_is_reported(sshd: Sshd) -> None:
    with socket.create_server(("127.0.0.1", 10257)):
        busy = measured(login(sshd)).busy
    assert "tcp 10257" in busy
    # A preflight of another test on this machine may have it for a moment.
    wait_until(lambda: "tcp 10257" not in measured(login(sshd)).busy, "the port is free")


@pytest.mark.parametrize("where", ["node", "bastion"])
def test_a_host_key_mismatch_is_refused(
    sshd: Sshd, start_sshd: Callable[..., Sshd], where: str
) -> None:
    other = start_sshd()
    at = login(sshd, host_key=other.host_key)
    if where == "bastion":
        at = login(other, bastion=at)
    before = sshd.log.read_text().count("Accepted publickey")
    problem = measured(at).problem
    assert problem is not None
    assert "a host key other than the pinned one" in problem
    assert ("bastion: " in problem) == (where == "bastion")
    assert sshd.log.read_text().count("Accepted publickey") == before


def test_a_private_key_that_the_machine_does_not_accept_is_reported(
    sshd: Sshd, start_sshd: Callable[..., Sshd]
) -> None:
    problem = measured(login(sshd, private_key=start_sshd().private_key)).problem
    assert problem is not None
    assert "permission denied" in problem


def test_a_wrong_passphrase_is_not_shown(sshd: Sshd, tmp_path: Path) -> None:
    at = login(sshd, private_key=encrypted_key(sshd, tmp_path / "key"), password="wrong-one")  # noqa: S106

    async def opened() -> None:
        async with Sessions() as sessions:
            await sessions.open(at)

    with pytest.raises(NoSession) as caught:
        asyncio.run(opened())
    assert "cannot be read" in str(caught.value)
    assert "wrong-one" not in f"{caught.value} {at}"


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("kill -KILL $$", "it was killed with SIGKILL: the kernel does this when memory runs out"),
        ("bash -c 'kill -KILL $$'", "it was killed with SIGKILL"),
        ("kill -KILL $PPID", "it was killed with SIGKILL"),
        ("kill -TERM $$", "it was killed with SIGTERM"),
        ("timeout 0.1 sleep 9", "exit status 124"),
        ("trap '' TERM; sleep 9", "it did not finish in 3 s"),
    ],
)
def test_a_killed_command_is_no_time_out(sshd: Sshd, script: str, problem: str) -> None:
    """`timeout` has the status 137 after its own KILL, and after the kernel's."""
    answer = run({"node": (login(sshd), script)}, seconds=3)["node"]
    assert answer.problem is not None
    assert answer.problem.startswith(problem)


def test_scripts_run_on_several_machines(sshd: Sshd, start_sshd: Callable[..., Sshd]) -> None:
    nowhere = login(sshd, port=1)
    answers = run(
        {
            "good": (login(sshd), "echo $((6 * 7))"),
            "failing": (login(start_sshd()), "echo half; echo why >&2; exit 3"),
            "absent": (nowhere, "true"),
        },
        seconds=120,
    )
    assert (answers["good"].text, answers["good"].problem) == ("42\n", None)
    assert (answers["failing"].text, answers["failing"].problem) == ("half\n", "why")
    assert "Connect" in (answers["absent"].problem or "")


def test_scripts_run_at_the_same_time_within_a_limit(sshd: Sshd, tmp_path: Path) -> None:
    # Each waits until the other runs.
    meet = f"touch {tmp_path}/%s; until [ -e {tmp_path}/%s ]; do sleep 0.1; done"
    pair = {"a": (login(sshd), meet % ("a", "b")), "b": (login(sshd), meet % ("b", "a"))}
    assert [answer.problem for answer in run(pair, seconds=120).values()] == [None, None]
    answers = run({"slow": (login(sshd), "sleep 600")}, seconds=2)
    assert answers["slow"].problem == "it did not finish in 2 s"
