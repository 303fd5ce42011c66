"""The timer of a control plane that stores encrypted snapshots of the cluster."""

import pulumi

from components.host.backup import settings
from components.remote.node_command import Script
from components.remote.script import Connection, RemoteScript
from config import Backup

FILE = "backup-install.sh"
_SECONDS = 900  # for packages


class Snapshots(RemoteScript):
    """Installs the timer on a control plane; removes it, and never what it has stored.

    cluster: the name of the cluster, which snapshots carry. host_key: the pinned host key, None for
    a machine that nordmesh creates; the snapshots are signed with it. secret_key: of the login at
    the bucket. member: the script whose creation makes the machine a control plane.
    """

    def __init__(
        self,
        name: str,
        *,
        connection: Connection,
        backup: Backup,
        cluster: str,
        host_key: str | None,
        secret_key: pulumi.Output[str] | None,
        member: pulumi.CustomResource,
        parent: pulumi.Resource,
    ) -> None:
        def script(values: dict[str, str]) -> Script:
            return Script(file=FILE, node=name, settings=values, timeout=_SECONDS)

        super().__init__(
            f"{name}-backup",
            connection,
            script(settings(name, backup, cluster=cluster, host_key=host_key)),
            delete=script({"DIRECTORY": "", "FILES": "", "RCLONE": ""}),
            stdin=secret_key,
            opts=pulumi.ResourceOptions(parent=parent, depends_on=[member], replace_with=[member]),
        )
