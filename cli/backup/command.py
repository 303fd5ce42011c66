"""`nordmesh backup`: its commands."""

import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cli.backup import age, comparison, proof, snapshots
from cli.backup.choice import (
    Compare,
    Directory,
    Identity,
    MaxAge,
    Signers,
    chosen,
    read,
    refuse_old,
    signers,
)
from cli.backup.snapshots import missing
from cli.backup.storage import Storage
from cli.logins import logins
from cli.options import AsJson, Stack
from cli.output import print_json, print_table
from components.remote import nodes_ssh
from config import StackConfig
from config.errors import NordmeshError
from config.scalars.durations import seconds

app = typer.Typer(no_args_is_help=True)

_NOW_SECONDS = 3600
_NOW = """
systemctl start nordmesh-backup.service
status=$?
run=$(systemctl show --property InvocationID --value nordmesh-backup.service)
journalctl --output cat "_SYSTEMD_INVOCATION_ID=$run"
exit $status
"""
"""Run the service and print what it wrote."""


@app.command("list", epilog="Example: nordmesh backup list --stack prod")
def list_command(
    stack: Stack = "",
    last: Annotated[int, typer.Option("--last", min=1, help="How many, from the newest.")] = 20,
    directory: Directory = None,
    signer: Signers = None,
    as_json: AsJson = False,
) -> None:
    """List the newest snapshots, oldest first, and whether each signature is good.

    Exit status: 0 every signature is good, 1 one is not, or nothing is stored.
    """
    config, backup = read(stack)
    storage = Storage.of(backup, config.kubernetes.cluster_name, directory)
    names = snapshots.complete(storage.files())[-last:]
    keys = signers(stack, config, signer or ())
    with tempfile.TemporaryDirectory(prefix="nordmesh-backup-") as made:
        folder = Path(made)
        storage.fetch([f"{name}.{part}" for name in names for part in ("manifest", "sig")], folder)
        rows = [_row(folder, name, config, keys) for name in names]
    if as_json:
        print_json({"stack": stack, "snapshots": rows})
    else:
        print_table(
            ("SNAPSHOT", "AGE", "REVISION", "MIB", "SIGNATURE"),
            [tuple(str(value) for value in row.values()) for row in rows],
        )
    if not rows or any(row["signature"] != "good" for row in rows):
        raise typer.Exit(1)


def _row(
    folder: Path, name: str, config: StackConfig, keys: Mapping[str, list[str]]
) -> dict[str, object]:
    row: dict[str, object] = {
        "name": name,
        "age": age.shown(age.age_of(name)),
        "revision": "",
        "mib": "",
    }
    try:
        manifest = snapshots.verify_manifest(
            folder, name, cluster=config.kubernetes.cluster_name, signers=keys
        )
    except NordmeshError as error:
        return {**row, "signature": f"{error.what} [{error.code}]"}
    size = f"{manifest.size / 2**20:.1f}"
    return {**row, "revision": manifest.revision, "mib": size, "signature": "good"}


@app.command("check", epilog="Example: nordmesh backup check --stack prod --identity key.txt")
def check_command(
    snapshot: Annotated[str, typer.Argument(help="Its name. Default: the newest.")] = "",
    stack: Stack = "",
    identity: Identity = None,
    directory: Directory = None,
    signer: Signers = None,
    max_age: MaxAge = "",
    compare: Compare = False,
) -> None:
    """Check a snapshot: its signature and hash, and with a private key its contents.

    With the programs etcd and etcdutl on PATH, also starts an etcd from it. Exit status: 0 it is
    good, 1 it is not, or too old, 3 pulumi failed.
    """
    if compare and identity is None:
        raise typer.BadParameter("needs --identity", param_hint="--compare")
    began = time.monotonic()
    config, backup = read(stack)
    storage = Storage.of(backup, config.kubernetes.cluster_name, directory)
    names = snapshots.complete(storage.files())
    name = chosen(names, snapshot, storage)
    with tempfile.TemporaryDirectory(prefix="nordmesh-backup-") as made:
        folder = Path(made)
        storage.fetch([f"{name}.{part}" for part in snapshots.PARTS], folder)
        manifest = snapshots.verify(
            folder,
            name,
            cluster=config.kubernetes.cluster_name,
            signers=signers(stack, config, signer or ()),
        )
        print(f"{name}: signed by {manifest.node}, revision {manifest.revision}, unaltered")
        contents = None
        if identity is not None:
            contents = proof.prove(folder, name, manifest, identity)
            _print_contents(contents)
        # Before the comparison: a cluster that does not answer must not hide this.
        if not snapshot:
            refuse_old(name, max_age, backup)
        if compare:
            _compare(stack, config, name, contents)
    print(f"checked in {time.monotonic() - began:.1f} s")


def _print_contents(contents: proof.Contents | None) -> None:
    print("decrypted: the database is whole, and the PKI is that of the cluster")
    if contents is None:
        print("no etcd was started from it: etcd and etcdutl are not on PATH")
    else:
        print(f"etcd started from it: {contents.objects} objects, revision {contents.revision}")


def _compare(stack: str, config: StackConfig, name: str, contents: proof.Contents | None) -> None:
    if contents is None:
        raise missing("etcd or etcdutl", "none; take them from etcd's release of the cluster")
    names = {name for name, _ in config.machines.control_planes}
    planes = {name: login for name, login in logins(stack, "-init").items() if name in names}
    result = comparison.compare(contents.keys, comparison.live(planes), revision=contents.revision)
    print(f"compared with the cluster: {result}")
    comparison.refuse(name, result)


@app.command("now", epilog="Example: nordmesh backup now --stack prod")
def now_command(stack: Stack = "") -> None:
    """Store a snapshot now, before a risky change.

    The control plane whose etcd is the leader stores it.

    Exit status: 0 it is stored, 1 it is not.
    """
    config, _ = read(stack)
    names = {name for name, _ in config.machines.control_planes}
    planes = {name: login for name, login in logins(stack, "-backup").items() if name in names}
    answers = nodes_ssh.run(
        {name: (login, _NOW) for name, login in planes.items()}, seconds=_NOW_SECONDS
    )
    for name, answer in answers.items():
        print(f"{name}: {answer.text.strip() or answer.problem}")
    failed = sorted(name for name, answer in answers.items() if answer.problem)
    if failed or not any("stored " in answer.text for answer in answers.values()):
        raise NordmeshError(
            f"no snapshot was stored: {', '.join(failed) or 'no control plane leads'}",
            code="backup-now-failed",
            path=stack,
            why="the newest snapshot is as old as before",
            fix="fix the errors above; if there is no timer on the nodes yet, run `pulumi up`",
        )


@app.command("prune", epilog="Example: nordmesh backup prune --stack prod --older-than 720h --yes")
def prune_command(
    older_than: Annotated[
        str,
        typer.Option("--older-than", help="Delete what is older than this, for example 720h."),
    ],
    stack: Stack = "",
    directory: Directory = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list.")] = False,
) -> None:
    """Delete old snapshots, but never the newest one.

    Needs a login of the team: nodes may not delete.
    """
    config, backup = read(stack)
    try:
        limit = timedelta(seconds=float(seconds(older_than)))
    except ValueError:
        raise typer.BadParameter("use a value such as 720h", param_hint="--older-than") from None
    storage = Storage.of(backup, config.kubernetes.cluster_name, directory)
    files = snapshots.older(storage.files(), datetime.now(UTC) - limit)
    for file in files:
        print(file)
    if yes:
        storage.delete(files)
    print(f"{len(files)} files {'deleted' if yes else 'would be deleted; pass --yes to do it'}")
