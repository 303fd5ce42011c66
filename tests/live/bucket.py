"""A bucket for the snapshots of a lab: an S3 server of this host on the bridge, over HTTPS.

Its certificate is from its own CA, which the nodes trust as docs/backup.md says.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from config import BACKUP_SECRET_KEY
from lab.ports import reserved_port
from tests.live.harness import Project
from tests.support import servers

_NAME = "snapshots"
_AUTHORITY = "/usr/local/share/ca-certificates/lab-s3.crt"
_REGION = "eu-north-1"


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """folder: where the server keeps the snapshots of the cluster. address: of the server."""

    address: str
    server: servers.S3
    folder: Path

    @property
    def login(self) -> Mapping[str, str]:
        return self.server.environment

    @property
    def settings(self) -> dict[str, object]:
        """The section `backup.s3`."""
        return {
            "host": self.address,
            "port": self.server.port,
            "region": _REGION,
            "bucket": _NAME,
            "accessKeyId": self.login["AWS_ACCESS_KEY_ID"],
        }

    def configure(self, project: Project, key: str) -> None:
        """Write the section `backup` with this bucket and a public key, and the secret."""
        with project.config() as config:
            config["nordmesh:backup"] = {"keys": [key], "s3": self.settings}
        name = f"nordmesh:{BACKUP_SECRET_KEY}"
        secret = self.login["AWS_SECRET_ACCESS_KEY"]
        project.pulumi("config", "set", "--secret", name, stdin=secret)

    def trust(self, project: Project, address: str) -> None:
        """Let a node trust the CA of the server."""
        text = Path(self.login["AWS_CA_BUNDLE"]).read_text()
        script = f"cat >{_AUTHORITY} <<'END'\n{text}END\nupdate-ca-certificates"
        project.ssh(address, f"set -e; mkdir -p {Path(_AUTHORITY).parent}; {script}")

    def distrust(self, project: Project, address: str) -> None:
        """Undo `trust`."""
        project.ssh(address, f"rm -f {_AUTHORITY}; update-ca-certificates")


@contextmanager
def bucket(project: Project, root: Path) -> Iterator[Bucket]:
    """Start the server on the bridge, which must be up, with an empty bucket.

    root: an empty directory for its data. Until the end, commands of the project have its login.
    """
    address = f"{next(iter(project.machine_addresses().values())).rpartition('.')[0]}.1"
    with (
        reserved_port(address) as port,
        servers.s3(root, port, address) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        folder = server.root / _NAME
        folder.mkdir()
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
            patch.setenv(f"NORDMESH_BACKUP_{name}", server.environment[f"AWS_{name}"])
        patch.setenv("AWS_CA_BUNDLE", server.environment["AWS_CA_BUNDLE"])
        # clusterName is that of the stack in labs of tests.
        yield Bucket(address=address, server=server, folder=folder / project.stack)
