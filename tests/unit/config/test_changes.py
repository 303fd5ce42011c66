"""The change class of every key: complete, consistent and documented."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from cli.review.changes import part
from cli.review.preview import deployed, parse
from components.remote.node_command import text_alone
from config import changes, changes_page
from config.changes import CHANGES, Kind
from tests.support.paths import PROJECT

ON_NODES = ("backup-", "node-", "kubeadm-", "kvm-", "container-")


def test_every_key_has_a_change_class() -> None:
    assert sorted(CHANGES) == sorted(changes.every_key())


def test_no_key_is_listed_twice() -> None:
    keys = [key for key, _ in changes.rows()]
    assert sorted(keys) == sorted(set(keys))


def test_the_example_of_production_explains_every_key() -> None:
    words = set(re.findall(r"\w+", (PROJECT / "Pulumi.prod.yaml").read_text()))
    names = {name for key in CHANGES for name in key.split(".") if name not in ("*", "[]")}
    assert sorted(names - words) == []


@pytest.mark.parametrize(
    "key",
    [
        "machines.nodes.*.address",
        "machines.nodes.*.cpus",  # in one member of a union
        "mesh.services.*",
        "mesh.services.*.canary",  # an optional model
        "mesh.services.*.canary.weight",
        "mesh.services.*.callers.[].methods",
        "kubernetes.kubelet",
        "sshPrivateKey",
    ],
)
def test_keys_are_derived_from_the_models(key: str) -> None:
    assert key in changes.every_key()


def test_a_model_that_only_groups_keys_is_not_a_key() -> None:
    assert not {"machines", "host.firewall", "mesh.egress"} & set(changes.every_key())


def is_inconsistent(key: str) -> bool:
    """Whether the resources of a key contradict its class."""
    change = CHANGES[key]
    is_on_nodes = any(name.startswith(ON_NODES) for name in change.resources)
    if change.kind in (Kind.CHECKED, Kind.IMMUTABLE):
        return bool(change.resources)
    if change.kind is Kind.LIVE:
        return is_on_nodes or not change.resources
    if change.kind is Kind.REBUILDS:
        return not change.resources or not change.note
    return not is_on_nodes


def test_a_change_class_fits_its_resources() -> None:
    assert [key for key in CHANGES if is_inconsistent(key)] == []


def test_every_named_script_exists() -> None:
    scripts = {name for change in CHANGES.values() for name in change.resources if ".sh" in name}
    assert all(map(text_alone, scripts))


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("machines.nodes.cp-1.address", "machines.nodes.*.address"),
        ("machines.nodes.cp-1", "machines.nodes.*"),
        ("mesh.services.cart.callers.[0].paths", "mesh.services.*.callers.[].paths"),
        ("mesh.services.cart.callers", "mesh.services.*.callers"),
        ("kubernetes.kubelet.maxPods", "kubernetes.kubelet"),
        ("istio", "istio"),
        ("istio.pilot", None),
        ("host.firewall", None),
        ("machines.nodes.cp-1.unknown", None),
        ("unknown", None),
    ],
)
def test_the_key_of_a_path(path: str, key: str | None) -> None:
    change = changes.of(tuple(path.split(".")))
    assert (change and change[0]) == key
    assert change is None or change[1] is CHANGES[change[0]]


@pytest.mark.parametrize(
    ("before", "after", "paths"),
    [
        ({"mesh": {"mtls": "STRICT"}}, {"mesh": {"mtls": "STRICT"}}, []),
        ({"mesh": {"mtls": "STRICT"}}, {"mesh": {"mtls": "PERMISSIVE"}}, ["mesh.mtls"]),
        ({}, {"host": {"firewall": {"enabled": False}}}, ["host.firewall.enabled"]),
        ({"istio": {"version": "1.16.5"}}, {}, ["istio"]),
        (
            {"machines": {"nodes": {"a": {"address": "192.0.2.1"}}}},
            {"machines": {"nodes": {"b": {"address": "192.0.2.1"}}}},
            ["machines.nodes.a", "machines.nodes.b"],
        ),
        (
            {"kubernetes": {"kubelet": {"maxPods": 1}}},
            {"kubernetes": {"kubelet": {"maxPods": 2}}},
            ["kubernetes.kubelet.maxPods"],
        ),
        (
            {"mesh": {"services": {"a": {"hosts": ["x"]}}}},
            {"mesh": {"services": {"a": {"hosts": ["y"]}}}},
            ["mesh.services.a.hosts"],
        ),
    ],
)
def test_the_paths_that_an_edit_changes(before: object, after: object, paths: list[str]) -> None:
    assert [".".join(path) for path in changes.edited(before, after)] == paths


def test_the_page_of_change_classes_is_up_to_date() -> None:
    assert changes_page.PATH.read_text() == changes_page.page(), "run `nordmesh schema`"


# --- in the preview's summary --------------------------------------------------------------------

BEFORE: dict[str, Any] = {
    "machines": {"nodes": {"cp-1": {"address": "192.0.2.11"}}},
    "mesh": {"services": {"cart": {"canary": {"weight": 5}}}},
    "preflight": {"window": "10s"},
}


def rows(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    """The rows of changed settings in the summary."""
    config = {f"nordmesh:{name}": json.dumps(section) for name, section in after.items()}
    preview = parse(json.dumps({"steps": [], "config": config}), stack="prod")
    section = part(replace(preview, deployed=before))
    return list(section.rows) if section else []


def test_a_changed_key_is_shown_with_its_class() -> None:
    after = {
        "machines": {"nodes": {"cp-1": {"address": "192.0.2.12"}}},
        "mesh": {"services": {"cart": {"canary": {"weight": 6}}}},
        "preflight": {"window": "20s"},
    }
    address, weight, window = rows(BEFORE, after)
    assert address.startswith("- `machines.nodes.cp-1.address`: **immutable**: refused")
    assert weight.startswith("- `mesh.services.cart.canary.weight`: **live**: ")
    assert "`VirtualService`" in weight
    assert window.startswith("- `preflight.window`: **checked**: no resource changes")


def test_unchanged_settings_have_no_rows() -> None:
    assert rows(BEFORE, BEFORE) == []


def test_a_stack_without_an_update_has_no_rows() -> None:
    assert rows(None, BEFORE) == []


@pytest.mark.parametrize("hidden", ["before", "after"])
def test_an_encrypted_section_is_not_compared(hidden: str) -> None:
    encrypted = {**BEFORE, "mesh": "[secret]"}
    pair = (encrypted, BEFORE) if hidden == "before" else (BEFORE, encrypted)
    assert rows(*pair) == []


def entry(kind: str, result: str, window: str) -> dict[str, Any]:
    value = {"value": json.dumps({"window": window}), "secret": False}
    return {"kind": kind, "result": result, "config": {"nordmesh:preflight": value}}


def test_settings_are_compared_with_the_last_successful_update() -> None:
    history = [
        entry("destroy", "succeeded", "1s"),
        entry("update", "failed", "2s"),
        entry("update", "succeeded", "3s"),
        entry("update", "succeeded", "4s"),
    ]
    assert deployed(json.dumps(history)) == {"preflight": {"window": "3s"}}
    assert deployed("[]") is None
