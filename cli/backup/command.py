"""`nordmesh backup`: its commands."""

import tempfile
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from cli.backup import age, proof, snapshots
from cli.backup.storage import Storage
from cli.logins import logins
from cli.options import AsJson, Stack
from cli.output import print_json, print_table
from cli.pulumi_cli import project
from components import nodes_ssh
from config import Backup, ExistingNode, StackConfig
from config.errors import NordmeshError
from config.load import read_stack
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

Directory = Annotated[
    Path | None,
    typer.Option("--directory", help="Where this machine sees backup.directory, if elsewhere."),
]
Signers = Annotated[
    list[str] | None,
    typer.Option("--signer", help="An earlier host key of a node: 'cp-1 ssh-ed25519 AAAA...'."),
]
Identity = Annotated[
    Path | None,
    typer.Option(
        "--identity", "-i", help="A file with a private key of the team: also checks the contents."
    ),
]
MaxAge = Annotated[
    str,
    typer.Option("--max-age", help="How old the newest may be, such as 2h. Default: 4 intervals."),
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
) -> None:
    """Check a snapshot: its signature and hash, and with a private key its contents.

    With the programs etcd and etcdutl on PATH, also starts an etcd from it. Exit status: 0 it is
    good, 1 it is not, or too old.
    """
    config, backup = read(stack)
    storage = Storage.of(backup, config.kubernetes.cluster_name, directory)
    names = snapshots.complete(storage.files())
    name = _chosen(names, snapshot, storage)
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
        if identity is not None:
            _print_contents(proof.prove(folder, name, manifest, identity))
    if not snapshot:
        _refuse_old(name, max_age, backup)


def _print_contents(contents: proof.Contents | None) -> None:
    print("decrypted: the database is whole, and the PKI is that of the cluster")
    if contents is None:
        print("no etcd was started from it: etcd and etcdutl are not on PATH")
    else:
        print(f"etcd started from it: {contents.objects} objects, revision {contents.revision}")


def _chosen(names: list[str], wanted: str, storage: Storage) -> str:
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


def _refuse_old(name: str, max_age: str, backup: Backup) -> None:
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


@app.command("now", epilog="Example: nordmesh backup now --stack prod")
def now_command(stack: Stack = "") -> None:
    """Store a snapshot now, before a risky change: the control plane whose etcd leads does it.

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
        str, typer.Option("--older-than", help="Delete snapshots older than this, such as 720h.")
    ],
    stack: Stack = "",
    directory: Directory = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete; without it, only list.")] = False,
) -> None:
    """Delete old snapshots with a login of the team; a node may not. Keeps the newest always."""
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
