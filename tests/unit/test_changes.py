"""The class of change of every key: complete, true to its kind, and in the documents."""

from pathlib import Path

import pytest

from components.node_command import text_alone
from config import changes
from config.changes import CHANGES, Kind

ON_NODES = ("node-", "kubeadm-", "kvm-", "container-")


def test_every_key_has_a_class_and_every_class_a_key() -> None:
    assert sorted(CHANGES) == sorted(changes.every_key())


def test_no_key_is_in_two_rows() -> None:
    named = [key for key, _ in changes.rows()]
    assert sorted(named) == sorted(set(named))


@pytest.mark.parametrize(
    "key",
    [
        "machines.nodes.*.address",
        "machines.nodes.*.cpus",  # of one member of a union
        "mesh.services.*",
        "mesh.services.*.canary",  # a model that may be left out
        "mesh.services.*.canary.weight",
        "mesh.services.*.callers.[].methods",
        "kubernetes.kubelet",
        "sshPrivateKey",
    ],
)
def test_keys_by_reflection(key: str) -> None:
    assert key in changes.every_key()


def test_a_model_that_only_groups_keys_is_no_key() -> None:
    assert not {"machines", "host.firewall", "mesh.egress"} & set(changes.every_key())


@pytest.mark.parametrize("key", CHANGES)
def test_a_class_fits_what_it_names(key: str) -> None:
    change = CHANGES[key]
    scripts = [name for name in change.resources if name.endswith(".sh")]
    for script in scripts:
        text_alone(script)
    is_on_nodes = any(script.startswith(ON_NODES) for script in scripts)
    if change.kind in (Kind.CHECKED, Kind.IMMUTABLE):
        assert change.resources == ()
    elif change.kind is Kind.LIVE:
        assert change.resources
        assert not is_on_nodes
    elif change.kind in (Kind.NODES, Kind.RESTARTS):
        assert is_on_nodes
    else:
        assert change.resources
        assert change.note


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
def test_the_key_of_a_place(path: str, key: str | None) -> None:
    found = changes.of(tuple(path.split(".")))
    assert (found and found[0]) == key
    assert found is None or found[1] is CHANGES[found[0]]


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
def test_the_keys_that_an_edit_is_about(before: object, after: object, paths: list[str]) -> None:
    assert [".".join(path) for path in changes.edited(before, after)] == paths


def test_the_page_is_up_to_date() -> None:
    assert changes.PATH.read_text() == changes.page(), "run `.venv/bin/python -m config.changes`"


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "PATH", tmp_path / "changes.md")
    assert changes.main(["--check"]) == 1
    assert changes.main([]) == 0
    assert changes.main(["--check"]) == 0
    (tmp_path / "changes.md").write_text("old")
    assert changes.main(["--check"]) == 1
