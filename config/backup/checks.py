"""Checks and warnings of the section `backup`: one place, and the login that it needs."""

from collections.abc import Iterator

from config import BACKUP_SECRET_KEY, StackConfig
from config.errors import NAMESPACE, Problem
from config.sections import Sections

_BASE = ("backup",)


def _check_place(sections: Sections) -> Iterator[Problem]:
    backup = sections.backup
    if backup is None or (backup.s3 is None) != (backup.directory is None):
        return
    if backup.s3 is None:
        what, why = "there is no place: neither s3 nor directory is set", "no snapshot is stored"
        fix = "add s3, or directory, or remove the section backup"
    else:
        what, why = "both s3 and directory are set", "snapshots go to one place"
        fix = "remove one of them"
    yield Problem(
        code="backup-place",
        path=_BASE,
        what=what,
        why=why,
        fix=fix,
        about=((*_BASE, "s3"), (*_BASE, "directory")),
    )


def _check_login(sections: Sections) -> Iterator[Problem]:
    has_bucket = sections.backup is not None and sections.backup.s3 is not None
    secret = sections.secret(BACKUP_SECRET_KEY)
    if has_bucket and not secret:
        yield Problem(
            code="backup-secret-missing",
            path=(BACKUP_SECRET_KEY,),
            what="the secret key of backup.s3.accessKeyId is missing",
            why="without it, no snapshot can be stored",
            fix=f"run `pulumi config set --secret {NAMESPACE}:{BACKUP_SECRET_KEY}` and type it",
            about=((*_BASE, "s3"),),
        )
    if secret and not has_bucket:
        yield Problem(
            code="backup-secret-unneeded",
            path=(BACKUP_SECRET_KEY,),
            what="this is set, but backup.s3 is not",
            why="nothing is stored there, although a reader would think it is",
            fix=f"add backup.s3, or run `pulumi config rm {NAMESPACE}:{BACKUP_SECRET_KEY}`",
            about=(_BASE, (*_BASE, "s3")),
        )
    if secret and len(secret.split()) != 1:
        yield Problem(
            code="backup-secret-format",
            path=(BACKUP_SECRET_KEY,),
            what="this is not one word",
            why="the storage would refuse it",
            fix=f"run `pulumi config set --secret {NAMESPACE}:{BACKUP_SECRET_KEY}` and type only "
            "the secret key",
        )


def warnings(config: StackConfig) -> Iterator[str]:
    """The warnings about what a single mistake would lose."""
    backup = config.backup
    if backup is None:
        return
    if len(set(backup.keys)) == 1:
        yield (
            "backup.keys has one key: if the team loses its private half, no snapshot can be "
            "decrypted; add the key of a second person or a safe"
        )
    if backup.directory is not None:
        yield (
            f"backup.directory: {backup.directory} is lost with the control plane, unless another "
            "machine's storage is mounted there; that machine must keep earlier versions, because "
            "root on the node can delete files"
        )


CHECKS = (_check_place, _check_login)
