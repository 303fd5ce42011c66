"""Choose the stack and the snapshot, for `nordmesh backup` and `nordmesh restore`."""

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cli.backup import age
from cli.backup.storage import Storage
from cli.logins import logins
from cli.pulumi_cli import project
from config import Backup, ExistingNode, StackConfig
from config.errors import NordmeshError
from config.load import read_stack
from config.scalars.durations import seconds

Directory = Annotated[
    Path | None,
    typer.Option("--directory", help="The path of backup.directory on this machine, if different."),
]
Signers = Annotated[
    list[str] | None,
    typer.Option(
        "--signer",
        metavar="'NODE KEY'",
        help="An earlier host key of a node: 'cp-1 ssh-ed25519 AAAA...'. Repeat it for each.",
    ),
]
Identity = Annotated[
    Path | None,
    typer.Option(
        "--identity", "-i", help="A file with a private key of the team: also checks the contents."
    ),
]
Compare = Annotated[
    bool, typer.Option("--compare", help="Also compare its objects with the running cluster's.")
]
MaxAge = Annotated[
    str,
    typer.Option("--max-age", help="The oldest that passes, for example 2h. Default: 4 intervals."),
]


def read(stack: str) -> tuple[StackConfig, Backup]:
    """The configuration of a stack with snapshots; raises NordmeshError."""
    config = read_stack(project(), stack).usable()
    if config.backup is None:
        raise NordmeshError(
            "the stack file has no section backup",
            code="backup-not-configured",
            path=stack,
            why="nothing is stored anywhere",
            fix="add nordmesh:backup; see docs/backup.md",
        )
    return config, config.backup


def signers(stack: str, config: StackConfig, more: Iterable[str]) -> dict[str, list[str]]:
    """The host keys of the control planes, by name. more: lines of a name and a key."""
    keys: dict[str, list[str]] = {}
    for name, node in config.machines.control_planes:
        if isinstance(node, ExistingNode):
            keys[name] = [node.host_key]
    if len(keys) < len(config.machines.control_planes):
        names = {name for name, _ in config.machines.control_planes}
        for name, login in logins(stack, "-prepare").items():
            if name in names:
                keys.setdefault(name, [login.host_key])
    for line in more:
        name, _, key = line.partition(" ")
        keys.setdefault(name, []).append(key)
    return keys


def chosen(names: list[str], wanted: str, storage: Storage) -> str:
    """The snapshot to use: the wanted one, or the newest; raises NordmeshError."""
    if wanted and wanted not in names:
        raise NordmeshError(
            f"there is no complete snapshot {wanted} at {storage.place}",
            code="backup-not-found",
            fix="`nordmesh backup list` shows what there is",
        )
    if not names:
        raise NordmeshError(
            f"there is no snapshot at {storage.place}",
            code="backup-none",
            why="the cluster cannot be restored",
            fix="read `journalctl -u nordmesh-backup` on each control plane",
        )
    return wanted or names[-1]


def refuse_old(name: str, max_age: str, backup: Backup) -> None:
    """Refuse a newest snapshot that is too old; raises NordmeshError."""
    try:
        limit = timedelta(seconds=float(seconds(max_age))) if max_age else age.limit(backup)
    except ValueError:
        raise typer.BadParameter("use a value such as 2h", param_hint="--max-age") from None
    if age.age_of(name) > limit:
        raise NordmeshError(
            f"the newest snapshot is {age.shown(age.age_of(name))} old; the limit is "
            f"{age.shown(limit)}",
            code="backup-too-old",
            path=name,
            why="everything since then would be lost with the control planes",
            fix="read `journalctl -u nordmesh-backup` on each control plane",
        )
