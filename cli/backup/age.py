"""How old the newest snapshot is, and what `nordmesh status` shows of it.

A control plane notes the name of what it has stored as an annotation of its node. So the status
needs no login at the storage; only `nordmesh backup check` proves that the snapshot is there.
"""

import datetime
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cli.backup.snapshots import time_of
from config import Backup
from config.scalars.durations import seconds

ANNOTATION = "nordmesh.io/snapshot"
"""The annotation of a node with the name of the last snapshot that it stored (backup.sh)."""
_OVERDUE = 4


def limit(backup: Backup) -> datetime.timedelta:
    """How old the newest snapshot may be: four intervals."""
    return datetime.timedelta(seconds=float(seconds(backup.every))) * _OVERDUE


def age_of(name: str) -> datetime.timedelta:
    """The time since a snapshot was taken."""
    time = time_of(name)
    if time is None:
        raise ValueError(name)
    return datetime.datetime.now(datetime.UTC) - time


def shown(age: datetime.timedelta) -> str:
    """An age in whole minutes, for example 2h 05m."""
    minutes = int(age.total_seconds() // 60)
    return f"{minutes // 60}h {minutes % 60:02}m"


def noted(nodes: Sequence[Mapping[str, Any]]) -> str | None:
    """The newest snapshot that a node of the API server's list has noted; None if none has."""
    annotations = (node["metadata"].get("annotations", {}) for node in nodes)
    names = [name for note in annotations if time_of(name := str(note.get(ANNOTATION)))]
    return max(names, default=None)


def problems(name: str | None, backup: Backup | None) -> Iterator[str]:
    """What is wrong with the newest snapshot, one sentence each."""
    if backup is None:
        return
    if name is None:
        yield "no control plane has stored a snapshot of the cluster"
    elif (age := age_of(name)) > limit(backup):
        yield f"the newest snapshot of the cluster is {shown(age)} old"
