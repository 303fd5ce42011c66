"""Edits of the list of control planes: which would lose the cluster."""

import pytest

from components.quorum import judge, moved, removed


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
    assert judge(before, now) == []


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
    (problem,) = judge(before, now)
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


def test_a_member_is_not_removed_behind_etcds_back() -> None:
    problems = removed(["a", "b", "c"], ["a"])
    assert [problem.key for problem in problems] == [
        "nordmesh:machines.nodes.b",
        "nordmesh:machines.nodes.c",
    ]
    assert "[control-plane-removal]" in str(problems[0])
    assert "2 of 3 must still agree" in " ".join(str(problems[0]).split())
    assert removed(["a"], ["a", "b", "c"]) == []
