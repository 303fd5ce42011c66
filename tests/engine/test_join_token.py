"""Tokens for joining nodes: made by a real SSH session, and read from a real pipe."""

import asyncio
import os
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from components.handover import ERROR, Handover, write_line
from components.join_token import tokens
from components.remote.nodes_ssh import Login, Sessions
from lab.ports import reserved_port
from tests.engine.conftest import Sshd, wait_until
from tests.engine.pretended import Machine

TOKEN = "issued.0123456789abcdef"  # noqa: S105 (programs.sh prints it)


@pytest.fixture(scope="module")
def machine(start_sshd: Callable[..., Sshd], tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("machine"), start_sshd)


@pytest.fixture
def node(machine: Machine) -> Login:
    sshd = machine.sshd
    return Login(
        host="127.0.0.1",
        user="root",
        port=sshd.port,
        host_key=sshd.host_key,
        private_key=sshd.private_key,
    )


@pytest.fixture
def silent(node: Login) -> Iterator[Login]:
    """Login of a machine where nothing answers."""
    with reserved_port() as closed:
        yield replace(node, port=closed)


@contextmanager
def reading(pipe: Path) -> Iterator[Callable[[], str]]:
    """Open a pipe as the join script does; yields a function that reads a line."""
    pipe.parent.mkdir(exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe, 0o600)
    file = os.open(pipe, os.O_RDWR)

    def line() -> str:
        assert select.select([file], [], [], 120)[0], "no line came"
        return os.read(file, 4096).decode().strip()

    yield line
    os.close(file)
    pipe.unlink()


def test_a_token_and_the_control_planes_reach_the_script(machine: Machine, node: Login) -> None:
    handover = Handover(node, tokens({"cp-1": node}), 60)
    handover.start()
    with reading(machine.join_pipe) as line:
        assert line() == f"{TOKEN} 192.0.2.11"
    handover.end()
    assert TOKEN not in machine.sshd.log.read_text()


def test_a_control_plane_that_does_not_answer_is_passed_over(
    machine: Machine, node: Login, silent: Login
) -> None:
    handover = Handover(node, tokens({"cp-1": silent, "cp-2": node}), 60)
    handover.start()
    with reading(machine.join_pipe) as line:
        assert line() == f"{TOKEN} 192.0.2.11"
    handover.end()


def test_the_script_is_told_why_there_is_no_token(
    machine: Machine, node: Login, silent: Login
) -> None:
    handover = Handover(node, tokens({"cp-1": silent}), 60)
    handover.start()
    with reading(machine.join_pipe) as line:
        text = line()
    assert text.startswith(f"{ERROR}cp-1: ")
    assert "refused" in text
    handover.end()


def test_a_pipe_that_nobody_reads_does_not_take_the_token(machine: Machine, node: Login) -> None:
    """The pipe of a script that was killed."""
    machine.join_pipe.parent.mkdir(exist_ok=True)
    os.mkfifo(machine.join_pipe, 0o600)
    handover = Handover(node, tokens({"cp-1": node}), 60)
    handover.start()
    wait_until(lambda: machine.runs("status=none"), "it writes")
    with reading(machine.join_pipe) as line:
        assert line() == f"{TOKEN} 192.0.2.11"
    handover.end()


def test_a_script_of_an_earlier_run_does_not_take_the_token_of_this_one(
    machine: Machine, node: Login
) -> None:
    handover = Handover(node, tokens({"cp-1": node}), 60)
    handover.start()
    for _ in range(2):
        with reading(machine.join_pipe) as line:
            assert line() == f"{TOKEN} 192.0.2.11"
    handover.end()


def test_a_script_that_needs_no_token_leaves_nothing_behind(machine: Machine, node: Login) -> None:
    handover = Handover(node, tokens({"cp-1": node}), 600)
    handover.start()
    wait_until(lambda: machine.runs("timeout", "--kill-after=5", "600"), "it waits")
    started = time.monotonic()
    handover.end()
    assert time.monotonic() - started < 300
    wait_until(lambda: not machine.runs("timeout", "--kill-after=5", "600"), "it has ended")


def test_a_token_is_never_in_a_file(machine: Machine, node: Login) -> None:
    """The script has gone between its request and the answer."""

    async def write() -> bool:
        async with Sessions() as sessions:
            return await write_line(await sessions.open(node), TOKEN)

    machine.join_pipe.unlink(missing_ok=True)
    assert not asyncio.run(write())
    assert not machine.join_pipe.exists()
