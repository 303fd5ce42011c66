"""The files of a control plane that stores snapshots, and the settings of the script for them."""

from components.host.files import NodeFile, to_setting
from components.host.templates import render
from config import Backup
from config.scalars.durations import seconds

RUNNER = "/usr/local/lib/nordmesh/backup.sh"
CONFIGURATION = "/etc/nordmesh/backup.conf"
KEYS = "/etc/nordmesh/backup-keys"
SIGNER = "/etc/ssh/ssh_host_{type}_key"
_SERVICE = "/etc/systemd/system/nordmesh-backup.service"
TIMER = "/etc/systemd/system/nordmesh-backup.timer"
PATHS = (RUNNER, CONFIGURATION, KEYS, _SERVICE, TIMER)


def settings(
    name: str, backup: Backup, *, cluster: str, host_key: str | None = None
) -> dict[str, str]:
    """The settings of the script for a control plane."""
    return {
        "DIRECTORY": backup.directory or "",
        "FILES": to_setting(node_files(name, backup, cluster=cluster, host_key=host_key)),
        "RCLONE": rclone(backup),
    }


def place(backup: Backup, cluster: str) -> str:
    """The path of rclone at which a cluster's snapshots are."""
    if backup.s3 is not None:
        return f"place:{backup.s3.bucket}/{cluster}"
    return f"{backup.directory}/{cluster}"


def rclone(backup: Backup) -> str:
    """The configuration of rclone, without the login's secret; empty for a directory."""
    s3 = backup.s3
    if s3 is None:
        return ""
    values = {
        "type": "s3",
        "provider": "Other",
        "endpoint": f"https://{s3.host}:{s3.port}",
        "region": s3.region,
        "access_key_id": s3.access_key_id,
        # A login that may only write cannot look whether the bucket or the file is there. As flags,
        # rclone of an older distribution would refuse them.
        "no_check_bucket": "true",
        "no_head": "true",
    }
    return "\n".join(["[place]", *(f"{key} = {value}" for key, value in values.items())])


def node_files(
    name: str, backup: Backup, *, cluster: str, host_key: str | None = None
) -> list[NodeFile]:
    """Render the files of a control plane."""
    values = {
        "cluster": cluster,
        "keys": backup.keys,
        "node": name,
        "place": place(backup, cluster),
        "seconds": int(seconds(backup.every)),
        "signer": SIGNER.format(type=_key_type(host_key)),
    }
    return [
        NodeFile(path=path, reader="backup", mode="644", text=render(path.lstrip("/"), **values))
        for path in PATHS
    ]


def _key_type(host_key: str | None) -> str:
    """The word for a key's type in the names of sshd's files: ed25519 or ecdsa."""
    return "ecdsa" if host_key is not None and host_key.startswith("ecdsa-") else "ed25519"
