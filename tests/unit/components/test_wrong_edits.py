"""Wrong edits of the nodes of a running cluster: each is refused at preview, with a remedy."""

import base64
import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components import immutable, quorum
from config import StackConfig
from config.errors import NordmeshError, Problem
from config.load import load
from tests.unit.conftest import SSH_KEY

Nodes = dict[str, dict[str, Any]]
Edit = Callable[[Nodes], object]

PLANES, WORKERS = ("cp-1", "cp-2", "cp-3"), ("worker-1", "worker-2")
LOST = "its disk broke on 2026-11-30"


def node(role: str, number: int) -> dict[str, Any]:
    """A bought machine with a public and a private address, and its own host key."""
    blob = b"\0\0\0\x0bssh-ed25519\0\0\0 " + bytes([number]) * 32
    return {
        "role": role,
        "provider": "existing",
        "address": f"192.0.2.{number}",
        "privateAddress": f"10.0.0.{number}",
        "hostKey": f"ssh-ed25519 {base64.b64encode(blob).decode()}",
    }


def running() -> Nodes:
    """The nodes of the running cluster."""
    return {
        **{name: node("control-plane", 10 + int(name[-1])) for name in PLANES},
        **{name: node("worker", 20 + int(name[-1])) for name in WORKERS},
    }


def plane(number: int, **changes: Any) -> dict[str, Any]:
    return {**node("control-plane", 10 + number), **changes}


def loaded(nodes: Nodes, *, key: int = 1) -> StackConfig:
    sections: dict[str, Any] = {
        "machines": {"nodes": nodes},
        "kubernetes": {
            "clusterName": "prod",
            "version": "1.23.17",
            "endpoint": "api.prod.example.internal",
            "encryptionKey": key,
        },
        "sshPrivateKey": SSH_KEY,
    }
    return load(sections, project_dir=Path())


def refused(before: StackConfig, after: StackConfig) -> Iterator[Problem]:
    """What the hooks of a preview refuse, from the state that `before` has left."""
    listed = {name: node.address for name, node in before.machines.control_planes}
    inputs = {"addresses": listed, "gone": [name for name, _ in before.machines.gone]}
    now = {name: node.address for name, node in after.machines.control_planes}
    gone = [name for name, _ in after.machines.gone]
    outputs = {"members": listed, "encryptionKey": before.kubernetes.encryption_key}
    key = after.kubernetes.encryption_key
    yield from quorum.judge(
        inputs, outputs, now, gone=gone, present=after.machines.present, key=key
    )
    for name in after.machines.present.keys() & before.machines.present.keys():
        yield from immutable.judge(after, name, immutable.facts(before, name))


def refusals(edit: Edit, before: Nodes | None = None, *, key: int = 1) -> str:
    """Everything that a preview of an edit refuses, on one line. key: of Secrets; it was 1."""
    nodes = copy.deepcopy(before or running())
    first = loaded(copy.deepcopy(nodes))
    edit(nodes)
    try:
        # A run shows each problem once.
        problems = {problem.key: problem for problem in refused(first, loaded(nodes, key=key))}
        text = "\n".join(map(str, problems.values()))
    except NordmeshError as error:
        text = str(error)
    return " ".join(text.split())


def remove(*names: str) -> Edit:
    return lambda nodes: [nodes.pop(name) for name in names]


def add(**new: dict[str, Any]) -> Edit:
    return lambda nodes: nodes.update({name.replace("_", "-"): node for name, node in new.items()})


def change(name: str, **values: Any) -> Edit:
    return lambda nodes: nodes[name].update(values)


def both(*edits: Edit) -> Edit:
    return lambda nodes: [edit(nodes) for edit in edits]


W3 = node("worker", 23)
HOSTNAME, ROLE = "kubernetes.io/hostname", "node-role.kubernetes.io/control-plane"
NOT_READY, JOINING = "node.kubernetes.io/not-ready", "nordmesh.io/joining"

# By what is wrong: the edit, the code of its error, and texts that the error has.
EDITS: dict[str, tuple[Edit, str, tuple[str, ...]]] = {
    "a fourth control plane": (
        add(cp_4=plane(4)),
        "control-plane-count",
        ("3 of 4, so the cluster survives the loss of 1; with 3 it survives the loss of 1, too",),
    ),
    "one of three removed": (
        remove("cp-3"),
        "control-plane-count",
        ("2 of 2, so the cluster survives the loss of 0", "add one for 3"),
    ),
    "two of five removed, but one added": (
        both(add(cp_4=plane(4), cp_5=plane(5), cp_6=plane(6)), remove("cp-1", "cp-2")),
        "control-plane-count",
        ("4 nodes are control planes: cp-3, cp-4, cp-5, cp-6",),
    ),
    "seven control planes": (
        add(cp_4=plane(4), cp_5=plane(5), cp_6=plane(6), cp_7=plane(7)),
        "control-plane-count",
        ("5 control planes already survive the loss of 2",),
    ),
    "no control plane": (remove(*PLANES), "control-plane-missing", ("no node is a control plane",)),
    "all replaced at once": (
        both(remove(*PLANES), add(cp_4=plane(4), cp_5=plane(5), cp_6=plane(6))),
        "control-plane-quorum",
        ("0 of 3 control planes would stay", "replace at most 1 of the 3 in one edit"),
    ),
    "two of three replaced at once": (
        both(remove("cp-1", "cp-2"), add(cp_4=plane(4), cp_5=plane(5))),
        "control-plane-quorum",
        ("1 of 3 control planes would stay", "2 of its 3 members must agree"),
    ),
    "three replaced by one": (
        both(remove(*PLANES), add(cp_4=plane(4))),
        "control-plane-quorum",
        ("0 of 3 control planes would stay",),
    ),
    "a control plane becomes a worker": (
        both(change("cp-3", role="worker"), add(cp_4=plane(4))),
        "setting-immutable",
        ("from control-plane to worker", "remove cp-3 from the file", "and add it again"),
    ),
    "a worker becomes a control plane": (
        both(change("worker-1", role="control-plane"), remove("cp-3")),
        "setting-immutable",
        ("from worker to control-plane", "remove worker-1 from the file"),
    ),
    "another name for the same machine": (
        lambda nodes: nodes.update({"cp-9": nodes.pop("cp-2")}),
        "control-plane-renamed",
        ("cp-9 has the address of cp-2", "name it cp-2 again"),
    ),
    "another address": (
        change("cp-2", address="192.0.2.99"),
        "setting-immutable",
        ("set it back to 192.0.2.12", "add that one under another name"),
    ),
    "another private address": (
        change("cp-2", privateAddress="10.0.0.99"),
        "setting-immutable",
        ("set it back to 10.0.0.12", "add a control plane with another name"),
    ),
    "another private address of a worker": (
        change("worker-2", privateAddress="10.0.0.99"),
        "setting-immutable",
        ("remove worker-2 from the file",),
    ),
    "a node without its private address": (
        lambda nodes: nodes["cp-2"].pop("privateAddress"),
        "private-address-missing",
        ("add the private address of cp-2",),
    ),
    "another host key": (
        change("cp-2", hostKey=plane(9)["hostKey"]),
        "setting-immutable",
        ("hostKeyRotation",),
    ),
    "the address of another node": (
        change("worker-2", address="192.0.2.11"),
        "node-address-duplicate",
        ("192.0.2.11 is already the address of cp-1",),
    ),
    "the private address of another node": (
        add(worker_3=W3 | {"privateAddress": "10.0.0.11"}),
        "private-address-duplicate",
        ("10.0.0.11 is already an address of cp-1",),
    ),
    "a public address in the private network": (
        add(worker_3=W3 | {"privateAddress": "192.0.2.44"}),
        "private-address-public",
        ("192.0.2.44 is not in a private range",),
    ),
    "a cloned machine": (
        add(worker_3=W3 | {"hostKey": plane(1)["hostKey"]}),
        "machine-host-key-duplicate",
        ("this is already the host key of cp-1", "ssh-keygen -A"),
    ),
    "a name that Kubernetes refuses": (
        both(remove("worker-2"), add(Worker_2=W3)),
        "node-name-format",
        ("use worker-2",),
    ),
    "a role that does not exist": (
        change("cp-3", role="controlplane"),
        "choice-unknown",
        ("use control-plane",),
    ),
    "a label that kubelet sets": (
        change("worker-1", labels={HOSTNAME: "x"}),
        "label-of-kubelet",
        ("use a prefix of your own",),
    ),
    "a label that makes a control plane": (
        change("worker-1", labels={ROLE: ""}),
        "label-of-kubeadm",
        ("the key role of a node decides",),
    ),
    "a zone as a label": (
        change("worker-1", labels={"topology.kubernetes.io/zone": "oslo-1"}),
        "label-topology",
        ("has its own key, zone",),
    ),
    "a taint of nordmesh": (
        change("worker-1", taints=[{"key": JOINING, "effect": "NoSchedule"}]),
        "taint-prefix-reserved",
        ("use a prefix of your own",),
    ),
    "a taint of Kubernetes": (
        change("worker-1", taints=[{"key": NOT_READY, "effect": "NoSchedule"}]),
        "taint-of-kubernetes",
        ("kubectl cordon",),
    ),
    "a disk for etcd on a worker": (
        change("worker-1", etcdMount=True),
        "etcd-mount-without-etcd",
        ("set it on a control plane",),
    ),
    "a pool that does not exist": (
        change("worker-1", pool="web"),
        "pool-unknown",
        ("add machines.pools.web",),
    ),
    "gone without a reason": (change("worker-1", gone="todo"), "gone-reason", ("10 characters",)),
    "one of three gone, and none instead": (
        change("cp-3", gone=LOST),
        "control-plane-count",
        ("2 of 2, so the cluster survives the loss of 0", "add one for 3"),
    ),
    "two of three gone": (
        both(change("cp-3", gone=LOST), change("cp-2", gone=LOST)),
        "control-plane-quorum",
        ("1 of 3 control planes remain", "bring back 1 of cp-2, cp-3", "a snapshot of etcd"),
    ),
    "two of three gone, and two instead": (
        both(*(change(f"cp-{n}", gone=LOST) for n in (2, 3)), add(cp_4=plane(4), cp_5=plane(5))),
        "control-plane-quorum",
        ("1 of 3 control planes remain",),
    ),
    "all gone": (
        both(*(change(name, gone=LOST) for name in PLANES)),
        "control-planes-gone",
        ("a snapshot of etcd",),
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_wrong_edit_is_refused_at_preview_with_a_remedy(edit: str) -> None:
    change, code, texts = EDITS[edit]
    shown = refusals(change)
    assert f"[{code}]" in shown
    for text in texts:
        assert text in shown
    # Nothing that follows from the mistake is reported as another one.
    assert shown.count("] what ") == 1, shown


@pytest.mark.parametrize("name", ["cp-3", "worker-2"])
def test_a_machine_that_comes_back_is_refused(name: str) -> None:
    before = running()
    before[name]["gone"] = LOST
    before["cp-4"] = plane(4)
    if name != "cp-3":
        before["cp-3"]["gone"] = LOST

    def back(nodes: Nodes) -> None:
        del nodes[name]["gone"]
        if name == "cp-3":
            del nodes["cp-4"]

    shown = refusals(back, before)
    assert "[node-came-back]" in shown
    assert f"`gone` was removed from {name}" in shown
    assert "`kubeadm reset --force` on the machine" in shown


def test_another_key_of_secrets_is_refused_while_a_control_plane_leaves() -> None:
    """It would stop the run: the one that leaves at its end does not have the key."""
    shown = refusals(both(remove("cp-1"), add(cp_4=plane(4))), key=2)
    assert shown.startswith("nordmesh:kubernetes.encryptionKey [control-plane-without-key]")
    assert "cp-1 would leave the cluster in the run that begins to use key 2" in shown
    assert refusals(add(cp_4=plane(4), cp_5=plane(5)), key=2) == ""
    # A lost one leaves first.
    assert refusals(both(change("cp-1", gone=LOST), add(cp_4=plane(4))), key=2) == ""


@pytest.mark.parametrize(
    "edit",
    [
        both(remove("cp-1"), add(cp_4=plane(4))),
        remove("cp-1", "cp-2"),
        add(cp_4=plane(4), cp_5=plane(5)),
        both(change("cp-1", gone=LOST), add(cp_4=plane(4))),
        both(change("cp-1", gone=LOST), remove("cp-2")),
        both(change("worker-1", gone=LOST), add(worker_3=W3)),
        both(change("worker-2", gone=LOST), remove("worker-1"), add(worker_3=W3)),
        change("cp-2", labels={"tier": "gold"}),
    ],
)
def test_an_edit_that_the_cluster_survives_is_accepted(edit: Edit) -> None:
    assert refusals(edit) == ""
