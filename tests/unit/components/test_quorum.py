"""Edits of the list of control planes: which would lose the cluster."""

import pytest

from components.quorum import moved, orphaned, outvoted


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("", "a"),
        ("a", "a"),
        ("a", "abc"),
        ("abc", "abcde"),
        ("abcde", "abc"),
        ("abc", "a"),
        ("abcde", "e"),
        ("abc", "abd"),
        ("abc", "bcd"),
        ("abcde", "abcfg"),
        ("abc", "abdef"),
    ],
)
def test_a_majority_stays(before: str, now: str) -> None:
    assert outvoted(before, now) == []


@pytest.mark.parametrize(
    ("before", "now", "arithmetic", "fix"),
    [
        ("a", "b", "0 of 1", "add two more control planes, and remove a in a later edit"),
        ("a", "bcd", "0 of 1", "add two more control planes, and remove a in a later edit"),
        ("abc", "ade", "1 of 3", "restore b, c with role: control-plane; then replace at most 1 "),
        ("abc", "d", "0 of 3", "replace at most 1 of the 3"),
        ("abcde", "abfgh", "2 of 5", "replace at most 2 of the 5"),
    ],
)
def test_an_edit_that_loses_the_majority_is_refused_with_the_arithmetic(
    before: str, now: str, arithmetic: str, fix: str
) -> None:
    (problem,) = outvoted(before, now)
    text = " ".join(str(problem).split())
    assert "[control-plane-quorum]" in text
    assert f"{arithmetic} control planes would stay" in text
    assert fix in text
    assert problem.key.removeprefix("nordmesh:machines.nodes.") in before


def test_only_a_member_keeps_its_address() -> None:
    before, now = {"a": "192.0.2.1", "b": "192.0.2.2"}, {"a": "192.0.2.9", "b": "192.0.2.8"}
    (problem,) = moved(before, ["a"], now)
    assert problem.key == "nordmesh:machines.nodes.a.address"
    assert list(moved(before, [], now)) == []
    assert list(moved(before, ["a", "b"], {"b": "192.0.2.2"})) == []


def test_a_member_stays_for_the_others_to_join() -> None:
    """The others may be in the list without being members: their join failed."""
    (problem,) = orphaned(["a"], ["b", "c", "d"])
    text = " ".join(str(problem).split())
    assert problem.key == "nordmesh:machines.nodes.a"
    assert "[control-plane-removal]" in text
    assert "the only members of the cluster would leave it: a" in text
    assert "remove it in a later edit" in text


@pytest.mark.parametrize(
    ("members", "now"), [("", "a"), ("a", "a"), ("abc", "a"), ("abc", "cd"), ("abcde", "abc")]
)
def test_all_others_may_leave_a_member(members: str, now: str) -> None:
    assert list(orphaned(members, now)) == []
