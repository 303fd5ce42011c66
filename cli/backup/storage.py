"""Read the place where snapshots are stored, with rclone."""

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cli.backup.snapshots import missing
from cli.programs import captured
from components.host.backup import place, rclone
from config import Backup
from config.errors import NordmeshError

_S3_LOGIN = {
    "AWS_ACCESS_KEY_ID": "NORDMESH_BACKUP_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY": "NORDMESH_BACKUP_SECRET_ACCESS_KEY",
}
"""The login at a bucket: rclone's variables, and ours where Pulumi's state has another login."""


@dataclass(frozen=True)
class Storage:
    """A place of snapshots. place: a path of rclone. environment: rclone's settings."""

    place: str
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, backup: Backup, cluster: str, directory: Path | None = None) -> "Storage":
        """The storage of a stack. directory: where this machine sees backup.directory.

        A bucket is read with the login in the environment, because that of the control planes can
        only write.
        """
        if backup.s3 is None:
            root = Path(backup.directory or "/") if directory is None else directory
            return cls(str(root / cluster))
        login = {
            name: os.environ.get(own) or os.environ.get(name, "") for name, own in _S3_LOGIN.items()
        }
        if absent := [name for name, value in login.items() if not value]:
            raise NordmeshError(
                f"{' and '.join(absent)} not set",
                code="backup-login-missing",
                path="backup.s3",
                why="the login of the control planes can only write",
                fix="set both to a login of the team that may read the bucket; where Pulumi needs "
                f"another one, set {' and '.join(_S3_LOGIN.values())}",
            )
        lines = (line.partition(" = ") for line in rclone(backup).splitlines())
        values = {key: value for key, equals, value in lines if equals and key != "access_key_id"}
        values |= {"env_auth": "true"}
        settings = {f"RCLONE_CONFIG_PLACE_{key.upper()}": value for key, value in values.items()}
        settings |= login
        return cls(place(backup, cluster), settings)

    def files(self) -> list[str]:
        """The names of all files at the place; none if nothing was ever stored there."""
        result = self._rclone("lsf", "--files-only", self.place)
        if result.returncode == 3:  # the directory does not exist
            return []
        return self._checked(result).splitlines()

    def fetch(self, names: Iterable[str], folder: Path) -> None:
        """Copy files into a folder, in one run of rclone; raises NordmeshError."""
        wanted, names = folder / "wanted", list(names)
        wanted.write_text("".join(f"{name}\n" for name in names))
        # The manifest has the checksum; rclone would call a changed file a transfer error.
        options = ("--ignore-checksum", "--no-traverse", "--files-from-raw", str(wanted))
        result = self._rclone("copy", *options, self.place, str(folder))
        absent = [name for name in names if not (folder / name).exists()]
        if absent and not result.returncode:
            result.returncode, result.stderr = 1, f"{absent[0]} is gone"
        self._checked(result)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files; raises NordmeshError. In a bucket with versioning, a version stays."""
        for name in names:
            result = self._rclone("deletefile", f"{self.place}/{name}")
            if result.returncode:
                raise NordmeshError(
                    f"rclone cannot delete {name} at {self.place}: {result.stderr.strip()}",
                    code="backup-not-deleted",
                    why="this file and the newer ones were kept",
                    fix="use a login that may delete; with object lock, wait for the end of the "
                    "retention period",
                )

    def _rclone(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "RCLONE_CONFIG": "/dev/null", **self.environment}
        # Pulumi reads this for the state in a bucket; rclone 1.60 fails if it is set.
        if authority := environment.pop("AWS_CA_BUNDLE", None):
            environment["RCLONE_CA_CERT"] = authority
        try:
            return captured(
                ["rclone", "--quiet", "--retries", "2", *arguments], environment=environment
            )
        except FileNotFoundError:
            raise missing("rclone", "rclone") from None

    def _checked(self, result: "subprocess.CompletedProcess[str]") -> str:
        if result.returncode:
            raise NordmeshError(
                f"rclone cannot read {self.place}: {result.stderr.strip()}",
                code="backup-storage-unreadable",
                why="nobody knows which snapshots there are",
                fix="check the network and the permissions of the login",
            )
        return result.stdout
