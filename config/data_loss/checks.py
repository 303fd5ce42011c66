"""Checks and warnings of the things that may be lost."""

from collections.abc import Iterator

from config import ExistingNode, StackConfig
from config.data_loss import EVERYTHING, OLD_REASON, DataLoss, Kind, Thing
from config.data_loss.things import in_yaml, things
from config.errors import Problem, nearest
from config.sections import Sections

_WORDS: dict[Kind, str] = {
    "volumes": "the local volumes of {}, and its pods that nothing recreates",
    "disk": "the disk of {}, which is deleted",
    "etcd": "etcd on {}, and every object of the cluster with it",
    "namespace": "the namespace {} with everything in it",
    "identities": "the identities of the trust domain {}",
}


def words(thing: Thing) -> str:
    """Name a thing in a sentence."""
    kind, name = thing
    return _WORDS[kind].format(name)


def _check_entries(sections: Sections) -> Iterator[Problem]:
    if sections.machines is None:
        return
    first: dict[Thing, int] = {}
    for index, entry in enumerate(sections.machines.allow_data_loss):
        if entry is EVERYTHING:
            continue
        kind, name = entry.thing
        path = ("machines", "allowDataLoss", f"[{index}]", kind)
        if first.setdefault(entry.thing, index) != index:
            yield Problem(
                code="data-loss-duplicate",
                path=path,
                what=f"entry [{first[entry.thing]}] already names {words(entry.thing)}",
                why="with two reasons for one loss, nobody knows which one was approved",
                fix="remove one of the two entries",
            )
        node = sections.machines.nodes.get(name)
        if node is None:
            continue
        is_plane = node.role == "control-plane"
        if kind == "disk" and isinstance(node, ExistingNode):
            yield Problem(
                code="data-loss-bought-disk",
                path=path,
                what=f"{name} is a bought machine",
                why="nordmesh neither creates nor deletes its disk, so the entry would allow "
                "nothing",
                fix=f"use etcd: {name}" if is_plane else f"use volumes: {name}",
                about=(("machines", "nodes", name, "provider"),),
            )
        elif (kind, is_plane) in (("volumes", True), ("etcd", False)):
            yield Problem(
                code="data-loss-other-role",
                path=path,
                what=f"{name} is a {node.role}",
                why="etcd is on a control plane, and only a worker can leave the cluster with its "
                "volumes; the entry would allow nothing",
                fix=f"use etcd: {name}" if is_plane else f"use volumes: {name}",
                about=(("machines", "nodes", name, "role"),),
            )


def warnings(config: StackConfig) -> Iterator[str]:
    """One line for each thing that may be lost, and for the old switch."""
    entries = config.machines.allow_data_loss
    if any(entry.reason == OLD_REASON for entry in entries):
        yield (
            "machines.allowDataLoss: true allows the loss of everything. Replace it by a list of "
            "what may be lost, each with its reason, and remove what you want to keep: "
            f"{in_yaml(entry.thing for entry in entries)}"
        )
        return
    present = set(things(config))
    for entry in entries:
        yield f"allowDataLoss: {words(entry.thing)}, may be lost: {entry.reason}"
        if entry.thing not in present:
            yield _unknown(entry, present)


def _unknown(entry: DataLoss, present: set[Thing]) -> str:
    kind, name = entry.thing
    guess = nearest(name, sorted(other for of_kind, other in present if of_kind == kind))
    return (
        f"allowDataLoss: the stack file has no {kind}: {name}"
        + (f"; did you mean {guess}?" if guess else ".")
        + " If this edit removes it, and the entry is new, put it back, run `pulumi up`, and "
        "then remove it. If it is gone already, remove the entry"
    )


CHECKS = (_check_entries,)
