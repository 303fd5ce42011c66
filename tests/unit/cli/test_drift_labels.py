"""Drift of the labels and taints of nodes, from the answer of a control plane."""

import json
from dataclasses import replace

import pytest

from cli.drift import placement
from cli.drift.hosts import Expected, Facts, expected
from cli.review.preview import parse
from components.node_labels import FILE, settings
from components.remote.node_command import Script
from config import Taint
from tests.unit.drifting import answer, commands, events, same

DEDICATED = Taint(key="dedicated", value="db", effect="NoSchedule")
LABELS = {"tier": "gold", "kubernetes.io/hostname": "worker-1", "by-hand": "yes"}
TAINTS = [
    {"key": "dedicated", "value": "db", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"},
]


def control_plane() -> Expected:
    """The control plane of a stack with one labelled node, as a preview shows it."""
    script = Script(
        file=FILE, node="cp-1", settings=settings("worker-1", {"tier": "gold"}, [DEDICATED])
    )
    step = same("command:remote:Command", "worker-1-labels", {"create": script.command("root")})
    found = expected(parse(events([*commands(), step])))
    return next(node for node in found if node.is_control_plane)


def drift(labels: dict[str, str], taints: list[dict[str, str]]) -> list[tuple[str, str, str, str]]:
    line = "\t".join(("worker-1", json.dumps(labels), json.dumps(taints) if taints else ""))
    facts = Facts(answer({("nodes", "labels"): line, ("end", "end"): ""}))
    node = control_plane()
    assert list(placement.unread(node, facts)) == []
    return [(x.what, x.expected, x.actual, x.fix) for x in placement.differences(node, facts)]


def test_a_node_as_in_the_stack_file_has_no_drift() -> None:
    """Labels and taints that others have set are no drift."""
    assert drift(LABELS, TAINTS) == []


@pytest.mark.parametrize(
    ("labels", "found"), [({"tier": "silver"}, "`tier=silver`"), ({}, "nothing")]
)
def test_a_changed_label_is_drift(labels: dict[str, str], found: str) -> None:
    fix = "Run `kubectl label --overwrite node worker-1 tier=gold`."
    assert drift(labels, TAINTS) == [("the label `tier`", "`tier=gold`", found, fix)]


def test_a_removed_taint_is_drift() -> None:
    ((what, wanted, found, fix),) = drift(LABELS, TAINTS[1:])
    assert (what, wanted) == ("the taint `dedicated:NoSchedule`", "`dedicated=db:NoSchedule`")
    assert "kubectl taint --overwrite node worker-1 dedicated=db:NoSchedule" in fix
    assert "db" not in found


def test_a_taint_with_another_value_is_drift() -> None:
    ((_, _, found, _),) = drift(LABELS, [{**TAINTS[0], "value": "web"}])
    assert "dedicated=web:NoSchedule" in found


def test_a_node_that_still_has_the_taint_of_its_join_is_drift() -> None:
    joining = {"key": "nordmesh.io/joining", "effect": "NoSchedule"}
    ((what, wanted, _, fix),) = drift(LABELS, [*TAINTS, joining])
    assert what == "the taint `nordmesh.io/joining:NoSchedule`"
    assert wanted == "nothing"
    assert "nordmesh.io/joining:NoSchedule-" in fix


def test_an_answer_without_the_nodes_is_inconclusive() -> None:
    facts = Facts(answer({("end", "end"): ""}))
    (check,) = placement.unread(control_plane(), facts)
    assert check.subject == "cp-1"
    assert list(placement.unread(replace(control_plane(), labelled={}), facts)) == []
