"""Drift of lists: added items, removed items, and changed order where it matters."""

import json
from functools import cache
from typing import Any

import pytest
import yaml

from cli.drift import hosts
from cli.drift.values import MISSING, Field, at, beyond, differences, is_within, lacking, set_by
from components.host import table
from tests.unit.drifting import STACK, Fact, answer, healthy, nodes

A, B, C = ({"name": name, "value": name.upper()} for name in ("a", "b", "c"))


@pytest.mark.parametrize(
    ("expected", "actual", "fields"),
    [
        ([A, B], [A, B], []),
        ([A], [A, B], [Field("x[1]", MISSING, B)]),
        ([A, B], [A], [Field("x[1]", B, MISSING)]),
        ([A], [], [Field("x[0]", A, MISSING)]),
        ([], [A], [Field("x[0]", MISSING, A)]),
        ([A, A], [A, A, A], [Field("x[2]", MISSING, A)]),
        (
            [A, B],
            [B, A],
            [
                Field("x[0].name", "a", "b"),
                Field("x[0].value", "A", "B"),
                Field("x[1].name", "b", "a"),
                Field("x[1].value", "B", "A"),
            ],
        ),
        (["1m", "30s"], ["1m0s", "31s"], [Field("x[1]", "30s", "31s")]),
        ([A], {"0": A}, [Field("x", [A], {"0": A})]),
        ([], None, [Field("x", [], None)]),
    ],
)
def test_lists_are_compared_item_by_item(expected: Any, actual: Any, fields: list[Field]) -> None:
    assert list(differences({"x": expected}, {"x": actual})) == fields


@pytest.mark.parametrize(
    ("actual", "is_drift"),
    [(["a", "b"], False), (["a"], True), (["a", "b", "c"], True), (["b", "a"], True)],
)
def test_an_expected_list_must_match_completely(actual: list[str], *, is_drift: bool) -> None:
    expected = {"x": ["a", "b"]}
    differing = [Field("x", ["a", "b"], actual)] if is_drift else []
    assert list(lacking(expected, {"x": actual, "y": ["more"]})) == differing


def test_the_order_of_keys_does_not_matter() -> None:
    assert list(differences({"a": 1, "b": 2}, {"b": 2, "a": 1})) == []


ITEM_A, ITEM_B = 'k:{"name":"a"}', 'k:{"name":"b"}'
WHOLE: dict[str, Any] = {".": {}, "f:name": {}, "f:value": {}}


@pytest.mark.parametrize(
    ("fields", "expected", "actual", "drift"),
    [
        # An atomic list, as all lists in Istio's kinds are.
        ({"f:x": {}}, [A], [A, B], [Field("x[1]", MISSING, B)]),
        ({"f:x": {}}, [A, B], [A], [Field("x[1]", B, MISSING)]),
        ({"f:x": {}}, [A], [A], []),
        # A list of items with a key: the order does not matter.
        ({"f:x": {ITEM_B: WHOLE}}, [A], [B, A], [Field('x[{"name":"b"}]', MISSING, B)]),
        ({"f:x": {ITEM_A: WHOLE, ITEM_B: WHOLE}}, [A, B], [B, A], []),
        (
            {"f:x": {ITEM_A: {"f:value": {}}}},
            [A, B],
            [B, {**A, "value": "hand"}],
            [Field('x[{"name":"a"}].value', "A", "hand")],
        ),
        ({"f:x": {ITEM_B: WHOLE}}, [A, B], [A], []),
        # A set of values.
        ({"f:x": {'v:"b"': {}}}, ["a"], ["b", "a"], [Field('x["b"]', MISSING, "b")]),
        ({"f:x": {'v:"b"': {}}}, ["a", "b"], ["b", "a"], []),
        # The field was removed in the cluster.
        ({"f:x": {}}, [A], None, []),
    ],
)
def test_changes_of_a_list_by_a_field_manager(
    fields: dict[str, Any], expected: Any, actual: Any, drift: list[Field]
) -> None:
    values = {} if actual is None else {"x": actual}
    assert list(set_by(fields, {"x": expected}, values)) == drift


@pytest.mark.parametrize(
    ("fields", "owned", "drift"),
    [
        (
            {"f:x": {ITEM_B: WHOLE}},
            [{"f:x": {ITEM_A: WHOLE}}],
            [Field('x[{"name":"b"}]', MISSING, B)],
        ),
        ({"f:x": {ITEM_A: WHOLE}}, [{"f:x": {ITEM_A: WHOLE}}], []),
        (
            {"f:x": {ITEM_A: {**WHOLE, "f:hand": {}}}},
            [{"f:x": {ITEM_A: WHOLE}}],
            [],  # the field no longer exists
        ),
        ({"f:x": {}}, [{"f:x": {}}], []),
        ({"f:x": {}}, [], [Field("x", MISSING, [A, B])]),
        ({"f:x": {}}, [{"f:y": {}}], [Field("x", MISSING, [A, B])]),
    ],
)
def test_fields_of_one_manager_only(
    fields: dict[str, Any], owned: list[dict[str, Any]], drift: list[Field]
) -> None:
    assert list(beyond(fields, owned, {"x": [A, B]})) == drift


@pytest.mark.parametrize(
    ("path", "value"), [("x[0]", "a"), ("x[1]", "b"), ("x[2]", MISSING), ("x.a", MISSING)]
)
def test_the_list_item_at_a_path(path: str, value: object) -> None:
    assert at({"x": ["a", "b"]}, path) == value


@pytest.mark.parametrize(
    ("path", "parent", "within"),
    [
        ("spec.a", "spec.a", True),
        ("spec.a.b", "spec.a", True),
        ("spec.a[0]", "spec.a", True),
        ("spec.ab", "spec.a", False),
        ("spec", "spec.a", False),
    ],
)
def test_a_path_is_within_its_parent(path: str, parent: str, *, within: bool) -> None:
    assert is_within(path, parent) is within


# --- on a node ------------------------------------------------------------------------------------

_CONFIG = "/var/lib/kubelet/config.yaml"
_nodes = cache(nodes)


def drift_on(facts: dict[Fact, str]) -> list[str]:
    node = _nodes()["cp-1"]
    read_facts = hosts.Facts(answer(facts))
    return [
        f"{difference.what}: {difference.expected} / {difference.actual}"
        for difference in hosts.Comparison(STACK, node, read_facts).all()
    ]


@pytest.mark.parametrize(
    ("servers", "lines"),
    [
        (["10.96.0.10"], []),
        (["10.96.0.10", "8.8.8.8"], [f"`{_CONFIG}`, `clusterDNS[1]`: nothing / `8.8.8.8`"]),
        ([], [f"`{_CONFIG}`, `clusterDNS[0]`: `10.96.0.10` / nothing"]),
        (
            ["8.8.8.8", "10.96.0.10"],
            [
                f"`{_CONFIG}`, `clusterDNS[0]`: `10.96.0.10` / `8.8.8.8`",
                f"`{_CONFIG}`, `clusterDNS[1]`: nothing / `10.96.0.10`",
            ],
        ),
    ],
)
def test_a_changed_list_in_the_kubelet_configuration_is_drift(
    servers: list[str], lines: list[str]
) -> None:
    facts = healthy(_nodes()["cp-1"])
    document = yaml.safe_load(facts["file", _CONFIG])
    facts["file", _CONFIG] = yaml.safe_dump({**document, "clusterDNS": servers})
    assert drift_on(facts) == lines


def test_the_order_of_keys_and_flags_is_not_drift() -> None:
    facts = healthy(_nodes()["cp-1"])
    document = yaml.safe_load(facts["file", _CONFIG])
    facts["file", _CONFIG] = json.dumps(dict(reversed(document.items())))
    program, *flags = facts["kubelet", "flags"].strip("\0").split("\0")
    facts["kubelet", "flags"] = "\0".join([program, *reversed(flags)])
    for fact in (("packages", "held"), ("packages", "installed"), ("directory", table.REGISTRIES)):
        facts[fact] = "\n".join(reversed(facts[fact].splitlines()))
    assert drift_on(facts) == []


def test_a_changed_order_of_firewall_rules_is_drift() -> None:
    """The first matching rule decides, so another order may accept a packet."""
    facts = healthy(_nodes()["cp-1"])
    lines = facts["firewall", "rules"].splitlines()
    first = next(n for n, line in enumerate(lines) if "jump cluster" in line)
    assert "jump" in lines[first + 1]
    lines[first], lines[first + 1] = lines[first + 1], lines[first]
    facts["firewall", "rules"] = "\n".join(lines)
    drift = drift_on(facts)
    assert drift
    assert all(line.startswith("the firewall's rules in effect: ") for line in drift)


@pytest.mark.parametrize("change", ["appended", "removed"])
def test_an_added_or_removed_firewall_rule_is_drift(change: str) -> None:
    facts = healthy(_nodes()["cp-1"])
    lines = facts["firewall", "rules"].splitlines()
    last = max(n for n, line in enumerate(lines) if "jump cluster" in line)
    rule = lines[last].strip()
    lines[last : last + 1] = [lines[last], "tcp dport 1 accept"] if change == "appended" else []
    facts["firewall", "rules"] = "\n".join(lines)
    pair = "nothing / `tcp dport 1 accept`" if change == "appended" else f"`{rule}` / nothing"
    assert drift_on(facts) == [f"the firewall's rules in effect: {pair}"]


@pytest.mark.parametrize(
    ("line", "difference"),
    [
        ("192.0.2.99 {endpoint}", "`192.0.2.11` / `192.0.2.11, 192.0.2.99`"),
        ("192.0.2.99 other # {endpoint}", None),
        ("# 192.0.2.99 {endpoint}", None),
    ],
)
def test_a_second_address_in_the_hosts_file_is_drift(line: str, difference: str | None) -> None:
    node = _nodes()["cp-1"]
    facts = healthy(node)
    facts["file", table.HOSTS] += "\n" + line.format(endpoint=node.prepare["ENDPOINT"])
    assert [line_of_drift.partition(": ")[2] for line_of_drift in drift_on(facts)] == (
        [difference] if difference else []
    )
