"""Compare the objects of a snapshot with those of the running cluster, key by key.

etcd counts every write, and each key has the revisions at which it was created and last changed: an
object's resourceVersion is the latter. So no value has to leave the cluster.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cli.backup.scratch_etcd import OBJECTS, Revisions, keys_below, revisions
from components.remote import nodes_ssh
from components.remote.node_command import Script
from components.remote.nodes_ssh import Login
from config.errors import NordmeshError

_SCRIPT = "etcd-keys.sh"
_SECONDS = 120
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """same: the objects that are in both unchanged. changed, new, deleted: since the snapshot.

    differences: objects that the snapshot should have, and does not have like this.
    """

    same: int
    changed: int
    new: int
    deleted: int
    differences: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{self.same} objects are as they were, {self.changed} have changed since, {self.new} "
            f"are new, {self.deleted} are deleted; {len(self.differences)} differences"
        )


def compare(
    stored: Mapping[str, Revisions], live: Mapping[str, Revisions], *, revision: int
) -> Comparison:
    """Compare the keys of a snapshot, taken at a revision, with those of the cluster now."""
    old = {key: now for key, now in live.items() if now.created <= revision}
    return Comparison(
        same=sum(stored.get(key) == now for key, now in old.items()),
        changed=sum(key in stored and now.changed > revision for key, now in old.items()),
        new=len(live) - len(old),
        deleted=sum(key not in old for key in stored),
        differences=tuple(_differences(stored, old, revision)),
    )


def _differences(
    stored: Mapping[str, Revisions], old: Mapping[str, Revisions], revision: int
) -> Iterator[str]:
    for key, now in sorted(old.items()):
        was = stored.get(key)
        if was is None:
            yield f"{key}: created at revision {now.created}, and not in the snapshot"
        elif now.changed <= revision and was != now:
            yield f"{key}: last changed at revision {now.changed}, in the snapshot {was.changed}"


def live(logins: Mapping[str, Login]) -> dict[str, Revisions]:
    """The keys of the running cluster: from the first control plane that answers."""
    key, end = keys_below(OBJECTS)
    settings = {"KEY": key, "RANGE_END": end}
    problems = []
    for name, login in logins.items():
        script = Script(file=_SCRIPT, node=name, settings=settings)
        answer = nodes_ssh.run({name: (login, script.text)}, seconds=_SECONDS)[name]
        if answer.problem is None:
            return revisions(_json(answer.text))
        problems.append(f"{name}: {answer.problem}")
    raise NordmeshError(
        f"no control plane lists its objects: {'; '.join(problems) or 'the stack has none'}",
        code="backup-not-compared",
        why="nobody knows whether the snapshot has what the cluster has",
        fix="make a control plane answer over SSH; `nordmesh status` shows what the cluster lacks",
    )


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def refuse(name: str, found: Comparison) -> None:
    """Raise NordmeshError if a snapshot does not have what it should."""
    if not found.differences:
        return
    raise NordmeshError(
        f"{len(found.differences)} objects of the cluster are missing or different in the "
        "snapshot, although it was taken after their last change",
        code="backup-differs",
        path=name,
        why="a restore would not bring back the cluster",
        fix="run `nordmesh backup now`, and check again. If this stays, members of etcd have "
        "different data: compare their logs",
        details="\n".join(found.differences[:_SHOWN]),
    )
