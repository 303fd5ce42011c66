"""The edit matrix: an edit of each key on a deployed stack does what its change class says.

Every key is edited under Pulumi's mocks, which take half a second each. A sample of every class is
edited in the real engine with simulated nodes: the update does what the preview names, and nothing
else.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from config.changes import CHANGES, Kind, every_key, of
from tests.support import edits
from tests.support.fleet import Fleet, Server, address

Values = dict[str, Any]

NODES = 3
ADDRESSES = NODES + 1
NETWORK = "198.18.3.0/24"


def test_an_edit_of_every_key_matches_its_change_class(tmp_path: Path) -> None:
    matrix, counts, wrong = edits.Edits(tmp_path), Counter[str](), []
    for key in every_key():
        change = CHANGES[key]
        edit = matrix.of(key)
        if edit is None or key in edits.NEVER:
            counts["keys that no good stack can edit"] += 1
            if (edit is None) != (key in edits.NEVER):
                wrong.append(f"{key}: no valid edit, or an edit that should not exist")
            continue
        effect = matrix.effect(edit)
        counts[change.kind.value] += 1
        if change.kind is Kind.IMMUTABLE:
            counts["refused"] += bool(effect.refused)
            if not effect.refused:
                wrong.append(f"{key}: immutable, and not refused")
            continue
        unnamed = effect.resources - set(change.resources)
        counts["named"] += len(effect.resources & set(change.resources))
        counts["unnamed"] += len(unnamed)
        if unnamed or effect.refused:
            wrong.append(f"{key}: changes {sorted(unnamed)}, refused {effect.refused}")
        if change.resources and not effect.steps:
            wrong.append(f"{key}: {change.kind.value}, and nothing happens")
    print(f"\n{len(every_key())} keys: {dict(counts)}")
    assert not wrong, "\n".join(wrong)


def test_a_weight_edit_changes_one_resource(tmp_path: Path) -> None:
    matrix = edits.Edits(tmp_path)
    edit = matrix.of("mesh.services.*.canary.weight")
    assert edit is not None
    assert len(matrix.effect(edit).steps) == 1


# --- with the real engine ------------------------------------------------------------------------


def put(config: Values, path: str, value: object) -> None:
    section, *above, key = path.split(".")
    parent = config.setdefault(f"nordmesh:{section}", {})
    for name in above:
        parent = parent.setdefault(name, {})
    parent[key] = value


def write(fleet: Fleet, values: Values) -> None:
    def edit(config: Values) -> None:
        for path, value in values.items():
            put(config, path, value)

    fleet.write(NODES, edit)


SAMPLES: dict[Kind, Values] = {
    Kind.CHECKED: {
        "preflight.window": "2s",
        "machines.nodes.node-1.capacity": {"cpu": "4", "memory": "8Gi"},
        "mesh.mtlsGate.window": "60s",
        "mesh.services.checkout.canary.steps": [50, 100],
        "mesh.namespaces.shop.pods": 5,
    },
    Kind.LIVE: {
        "istio.proxy.requests": {"cpu": "50m"},
        "istio.pilot.debounceAfter": "20ms",
        "machines.nodes.node-1.labels": {"tier": "gold"},
        "machines.nodes.node-1.taints": [{"key": "dedicated", "effect": "NoSchedule"}],
    },
    Kind.NODES: {
        "host.journalSize": "300Mi",
        "machines.nodes.node-0.user": "deploy",
        "machines.nodes.node-1.user": "deploy",
    },
}


@pytest.mark.parametrize("kind", SAMPLES)
def test_an_update_does_what_its_preview_names_and_nothing_else(
    fleet: Fleet, server: Server, kind: Kind
) -> None:
    values = SAMPLES[kind]
    changes = [result[1] for path in values if (result := of(tuple(path.split("."))))]
    assert {change.kind for change in changes} == {kind}
    allowed = {name for change in changes for name in change.resources}
    write(fleet, values)
    server.forget()
    expected = fleet.previewed()
    assert server.ran == []
    assert fleet.up().touched == expected
    assert bool(expected) == (kind is not Kind.CHECKED)
    scripts = {file for _, file in server.ran}
    assert scripts <= allowed
    assert bool(scripts) == (kind is not Kind.CHECKED)
    print(f"\n{kind.value}: {len(values)} keys, {len(expected)} named, {len(server.ran)} scripts")
    fleet.write(NODES)
    fleet.up()


def test_a_weight_edit_updates_one_resource_in_a_preview(fleet: Fleet, server: Server) -> None:
    write(fleet, {"mesh.services.checkout.canary.weight": 25})
    server.forget()
    steps = [step for step in fleet.previewed() if step[1].startswith("kubernetes:")]
    assert [(op, name) for op, _, name in steps] == [("update", "shop/checkout")]
    assert server.ran == []


def test_a_removed_node_is_drained_first(fleet: Fleet, server: Server) -> None:
    fleet.write(NODES - 1)
    server.forget()
    expected = fleet.previewed()
    assert server.ran == []
    assert fleet.up().touched == expected
    removed = f"node-{NODES - 1}"
    ran = [step for step in server.ran if step[1] in ("node-remove.sh", "node-reset.sh")]
    assert ran == [("node-0", "node-remove.sh"), (removed, "node-reset.sh")]
    assert {file for _, file in server.ran} <= set(CHANGES["machines.nodes.*"].resources)
    fleet.write(NODES)
    fleet.up()


def test_labels_go_with_their_node(fleet: Fleet, server: Server) -> None:
    """A script that labels the node runs when it joins again, and not when it is removed."""
    last = f"node-{NODES - 1}"
    write(fleet, {f"machines.nodes.{last}.labels": {"tier": "gold"}})
    server.forget()
    fleet.up()
    assert server.ran == [("node-0", "label-node.sh")]
    server.forget()
    join = urn(fleet, f"{last}-join")
    result = fleet.run("up", "--yes", "--skip-preview", "--replace", join)
    assert result.returncode == 0, result.stdout
    # Pulumi deletes both in any order: the labels of a node that goes matter to nobody.
    assert sorted(server.ran[:2]) == [("node-0", "label-node.sh"), ("node-0", "node-remove.sh")]
    assert server.ran[2:] == [
        (last, "node-reset.sh"),
        (last, "kubeadm-join.sh"),
        ("node-0", "label-node.sh"),
        ("node-0", "node-ready.sh"),
    ]
    fleet.write(NODES - 1)
    server.forget()
    fleet.up()
    ran = {file for _, file in server.ran}
    assert {"node-remove.sh", "node-reset.sh"} <= ran
    assert "label-node.sh" not in ran
    fleet.write(NODES)
    fleet.up()


IMMUTABLE = {
    "machines.nodes.node-1.address": address(NODES, NETWORK),
    "machines.nodes.node-1.architecture": "arm64",
    "kubernetes.clusterName": "other",
    "kubernetes.version": "1.23.16",
    "kubernetes.endpoint": "api.other.internal",
    "kubernetes.podCidr": "10.32.0.0/16",
    "kubernetes.serviceCidr": "10.112.0.0/12",
    "kubernetes.cgroupDriver": "systemd",
    "kubernetes.kubelet.maxPods": 50,
    "kubernetes.kubeProxy.mode": "ipvs",
}


@pytest.mark.parametrize("command", [("preview",), ("up", "--yes", "--skip-preview")])
def test_all_immutable_keys_are_refused_and_no_node_is_touched(
    fleet: Fleet, server: Server, command: tuple[str, ...]
) -> None:
    write(fleet, IMMUTABLE)
    server.forget()
    result = fleet.run(*command)
    assert result.returncode != 0
    assert [path for path in IMMUTABLE if f"nordmesh:{path} [" not in result.stdout] == []
    assert "Traceback" not in result.stdout
    assert server.ran == []
    assert server.opened == []


# --- requested replacements ----------------------------------------------------------------------


def urn(fleet: Fleet, name: str) -> str:
    state = json.loads(fleet.run("stack", "export").stdout)
    urns = [str(resource["urn"]) for resource in state["deployment"]["resources"]]
    return next(urn for urn in urns if urn.endswith(f"::{name}"))


REPLACED = [
    ("node-0", "node-remove.sh"),
    ("node-1", "node-reset.sh"),
    ("node-1", "kubeadm-join.sh"),
    ("node-0", "node-ready.sh"),
]


@pytest.mark.parametrize("how", ["--replace", "--target-replace", "taint"])
def test_a_requested_replacement_deletes_before_it_creates(
    fleet: Fleet, server: Server, how: str
) -> None:
    fleet.write(NODES)
    node = urn(fleet, "node-1-join")
    if how == "taint":
        assert fleet.run("state", "taint", node, "--yes").returncode == 0
    server.forget()
    arguments = [] if how == "taint" else [how, node]
    result = fleet.run("up", "--yes", "--skip-preview", *arguments)
    assert result.returncode == 0, result.stdout
    assert server.ran == REPLACED


def test_a_replaced_mesh_loses_its_objects_first(fleet: Fleet, server: Server) -> None:
    """Then Pulumi creates them again. No cluster answers here, so nothing is uninstalled."""
    fleet.write(NODES)
    server.forget()
    mesh = urn(fleet, "istio-install")
    result = fleet.run("up", "--yes", "--skip-preview", "--replace", mesh)
    assert result.returncode != 0
    assert "istio-system/default" in result.stdout
    assert "cluster is unreachable" in result.stdout
    assert server.ran == []
