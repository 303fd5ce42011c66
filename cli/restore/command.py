"""`nordmesh restore`: the command line, and what it says before it changes anything."""

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cli.backup import age, proof, snapshots
from cli.backup.choice import Directory, Signers, chosen, read, signers
from cli.backup.proof import Contents
from cli.backup.snapshots import Manifest
from cli.backup.storage import Storage
from cli.logins import current, decrypted
from cli.options import Stack
from cli.restore import data
from cli.restore.machines import Machine, Planes, choose, look
from cli.restore.programs import Programs
from cli.restore.steps import Restore, say
from cli.review.markdown import counted
from components.backup import FILE as BACKUP
from config import BACKUP_SECRET_KEY
from config.errors import NordmeshError
from config.scalars.durations import seconds

Identity = Annotated[
    Path, typer.Option("--identity", "-i", help="A file with a private key of the team.")
]
MaxAge = Annotated[
    str, typer.Option("--max-age", help="Refuse an older snapshot, for example 48h.")
]
Lost = Annotated[
    list[str] | None,
    typer.Option(
        "--lost",
        metavar="NODE",
        help="A control plane that is switched off for good. Repeat it for each.",
    ),
]
Discard = Annotated[
    bool,
    typer.Option("--discard-etcd", help="Delete the data of an etcd that still has some."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def command(
    snapshot: Annotated[str, typer.Argument(help="Its name, as `nordmesh backup list` shows.")],
    identity: Identity,
    stack: Stack = "",
    directory: Directory = None,
    signer: Signers = None,
    max_age: MaxAge = "24h",
    lost: Lost = None,
    discard_etcd: Discard = False,
    yes: Yes = False,
) -> None:
    """Rebuild the cluster from a snapshot, after all control planes are gone.

    First says what will be lost. Run it again after an error or a kill: it continues. Exit status:
    0 restored, 1 refused or a step failed, 3 pulumi failed, 130 interrupted.
    """
    limit = _limit(max_age)
    config, backup = read(stack)
    data.require_program()
    cluster = config.kubernetes.cluster_name
    storage = Storage.of(backup, cluster, directory)
    names = snapshots.complete(storage.files())
    name = chosen(names, snapshot, storage)
    with tempfile.TemporaryDirectory(prefix="nordmesh-restore-") as made:
        folder = Path(made)
        say(f"fetch and check {name}")
        storage.fetch([f"{name}.{part}" for part in snapshots.PARTS], folder)
        keys = signers(stack, config, signer or ())
        manifest = snapshots.verify(folder, name, cluster=cluster, signers=keys)
        _refuse_older(name, limit)
        contents = proof.prove(folder, name, manifest, identity)
        say("read the settings of the control planes from a preview, and look at the machines")
        planes = [node for node, _ in config.machines.control_planes]
        programs = Programs.of(stack, planes)
        values = decrypted(stack)
        logins = current(stack, config, values)
        endpoint = config.kubernetes.endpoint
        looks = look(
            {node: logins[node] for node in planes}, endpoint=endpoint, directory=backup.directory
        )
        chosen_planes = choose(looks, name, lost=lost or (), discard=discard_etcd)
        for line in _losses(name, manifest, contents, names, looks, chosen_planes):
            print(line, flush=True)
        if not yes:
            _confirm(cluster)
        began = time.monotonic()
        target = chosen_planes.target
        addresses = {node: one.cluster_address for node, one in config.machines.control_planes}
        bundle = None
        if not (target.placed and target.name in chosen_planes.kept):
            bundle = data.bundle(folder, name, node=target.name, address=addresses[target.name])
        restore = Restore(
            snapshot=name,
            endpoint=endpoint,
            planes=chosen_planes,
            programs=programs,
            addresses=addresses,
            bundle=bundle,
            secrets={BACKUP: str(values.get(BACKUP_SECRET_KEY) or "")},
        )
        asyncio.run(restore.run())
    _print_end(stack, cluster, chosen_planes, time.monotonic() - began)


def _limit(max_age: str) -> timedelta:
    try:
        return timedelta(seconds=float(seconds(max_age)))
    except ValueError:
        raise typer.BadParameter("use a value such as 48h", param_hint="--max-age") from None


def _refuse_older(name: str, limit: timedelta) -> None:
    if (old := age.age_of(name)) > limit:
        raise NordmeshError(
            f"the snapshot is {age.shown(old)} old; the limit is {age.shown(limit)}",
            code="restore-too-old",
            path=name,
            why="everything since then would be lost",
            fix="use a newer one, which `nordmesh backup list` shows; or pass a longer --max-age",
        )


def _losses(
    name: str,
    manifest: Manifest,
    contents: Contents | None,
    names: Sequence[str],
    looks: Mapping[str, Machine | str],
    planes: Planes,
) -> list[str]:
    """What the restore does, and what is lost with it."""
    newer = [one for one in names if one > name]
    objects = f", {contents.objects} objects" if contents else ""
    lines = [
        f"{name}: unaltered, signed by {manifest.node}, decrypted{objects}",
        f"Cluster {manifest.cluster} goes back to {manifest.time:%Y-%m-%d %H:%M:%S} UTC, revision "
        f"{manifest.revision}. Lost for good:",
        f"- every change of an object in the {age.shown(age.age_of(name))} since then",
        "- volumes on the disks of control planes; no volume is in a snapshot. Workers keep theirs",
    ]
    lines += [f"- etcd's data on {one.name}" for one in planes.cleared if one.etcd != "none"]
    if newer:
        count = counted(len(newer), "newer snapshot")
        lines.append(f"Not restored: {count}, up to {newer[-1]}")
    for node in looks:
        match node:
            case _ if node == planes.target.name:
                what = "gets the data, and starts the cluster"
            case _ if node in {one.name for one in planes.others}:
                what = "joins it"
            case _:
                what = f"is left out: {looks[node]}"
        lines.append(f"{node} {what}{' (continues)' if node in planes.kept else ''}")
    return lines


def _confirm(cluster: str) -> None:
    try:
        answer = input(f"Type {cluster} to restore it: ")
    except EOFError:
        answer = ""
    if answer.strip() != cluster:
        raise NordmeshError(
            "not confirmed",
            code="restore-not-confirmed",
            why="nothing was changed",
            fix=f"answer {cluster}, or pass --yes",
        )


def _print_end(stack: str, cluster: str, planes: Planes, passed: float) -> None:
    names = ", ".join(one.name for one in planes.all)
    print(f"Restored {cluster} in {passed:.0f} s; its control planes: {names}.")
    print("The state is newer than the cluster. Compare them, and then deploy:")
    print(f"  pulumi preview --stack {stack} --refresh --diff")
    print(f"  pulumi up --stack {stack} --refresh")
    print("Then check what nodes and the mesh have:")
    print(f"  nordmesh status --stack {stack}")
    print(f"  nordmesh drift --stack {stack}")
