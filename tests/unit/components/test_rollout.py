"""Turns of nodes: who waits for whom."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from components.rollout import Rollout, Stage


class Script:
    """Stands for a script's resource, whose ID is known once it has run."""

    def __init__(self) -> None:
        self.has_run = asyncio.Event()
        self.id = self

    async def future(self) -> str:
        await self.has_run.wait()
        return "id"


class Node:
    """Stands for a node's resource, which is registered."""

    def __init__(self) -> None:
        self.urn = self

    async def future(self) -> str:
        return "urn"


def rollout_of(*names: str) -> tuple[Rollout, dict[str, Script]]:
    """Return the turns of nodes that existed before this run, and their scripts."""
    rollout, scripts = Rollout(names), {name: Script() for name in names}
    for name, script in scripts.items():
        node: Any = Node()
        last: Any = script
        rollout.add_node(name, node)
        rollout.add_last(name, Stage.JOIN, last)
    return rollout, scripts


async def create(rollout: Rollout, script: str) -> None:
    """Begin to create a script's resource."""
    args: Any = SimpleNamespace(name=script)
    await rollout.note_created(args)


async def has_turn(turn: "asyncio.Task[None]") -> bool:
    for _ in range(10):
        await asyncio.sleep(0)
    return turn.done()


def test_a_node_waits_for_the_end_of_the_change_before_it() -> None:
    async def check() -> None:
        rollout, scripts = rollout_of("a", "b", "c")
        turns = {name: asyncio.create_task(rollout.turn(name, Stage.JOIN)) for name in "abc"}
        assert await has_turn(turns["a"])
        assert not await has_turn(turns["b"])
        scripts["a"].has_run.set()
        assert await has_turn(turns["b"])
        assert not await has_turn(turns["c"])
        scripts["b"].has_run.set()
        assert await has_turn(turns["c"])

    asyncio.run(check())


@pytest.mark.parametrize("script", ["join", "ready"])
def test_a_node_does_not_wait_for_one_that_was_never_ready(script: str) -> None:
    async def check() -> None:
        rollout, scripts = rollout_of("a", "b", "c")
        turns = {name: asyncio.create_task(rollout.turn(name, Stage.JOIN)) for name in "bc"}
        assert not await has_turn(turns["b"])
        # An earlier run ended before this script of `a`; then before that of `b`.
        await create(rollout, f"a-{script}")
        assert await has_turn(turns["b"])
        assert not await has_turn(turns["c"])
        await create(rollout, f"b-{script}")
        assert await has_turn(turns["c"])
        assert not any(made.has_run.is_set() for made in scripts.values())

    asyncio.run(check())


def test_a_node_waits_for_a_change_before_one_that_was_never_ready() -> None:
    async def check() -> None:
        rollout, scripts = rollout_of("a", "b", "c")
        turn = asyncio.create_task(rollout.turn("c", Stage.JOIN))
        await create(rollout, "b-join")
        assert not await has_turn(turn)
        scripts["a"].has_run.set()
        assert await has_turn(turn)

    asyncio.run(check())


def stopped_at(name: str, *, operation: str = "update", new: str = "") -> list[str]:
    """The errors that are reported after one of a script of `name`. new: a node of this run."""

    async def check() -> None:
        rollout, _ = rollout_of("a", "b", "c", "d")
        if new:
            created: Any = SimpleNamespace(name=new)
            await rollout._note_new(created)
        error: Any = SimpleNamespace(name=f"{name}-ready", failed_operation=operation, errors=["x"])
        assert await rollout._on_error(error) is False

    reported: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pulumi.log.error", reported.append)
        asyncio.run(check())
    return reported


def test_an_error_names_the_nodes_that_keep_what_they_have() -> None:
    assert [text.partition(". ")[0] for text in stopped_at("b")] == [
        "The change stopped at b and did not start on c, d"
    ]
    # A node of this run has nothing to keep, and the last node has none after it.
    assert "did not start on d." in stopped_at("b", new="c")[0]
    assert stopped_at("d") == []
    # A new node stops nobody.
    assert stopped_at("b", operation="create") == []
