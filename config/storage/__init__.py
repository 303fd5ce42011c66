"""The section `storage`: persistent volumes on the nodes' disks."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from config.base import Section
from config.scalars.refused import Refused
from config.scalars.texts import matching

STORAGE_CLASS = "local-path"
"""The name of the storage class, which claims use."""

# What the system, kubelet, containerd, etcd and nordmesh delete, or what the next boot empties.
_RESERVED = (
    "boot", "dev", "etc", "proc", "run", "sys", "tmp", "usr", "var/lib/cni", "var/lib/containerd",
    "var/lib/etcd", "var/lib/kubelet", "var/lib/nordmesh", "var/log", "var/run", "var/tmp",
)  # fmt: skip


def _of_volumes_only(value: str) -> str:
    for reserved in _RESERVED:
        if f"{value}/".startswith(f"/{reserved}/"):
            raise Refused(
                "storage-path-reserved",
                f"{value} is in /{reserved}, which belongs to the system or the cluster",
                "its files are deleted by a restart, a cleanup or a reset of the node, and the "
                "volumes with them",
                "use a directory for volumes only, for example /srv/volumes",
            )
    return value


VolumeDirectory = Annotated[
    str,
    matching(
        "storage-path-format",
        r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+",
        "an absolute path of letters, digits and ._-",
        "each volume is a directory below it, on the node that runs the pod",
        "use a path such as /srv/volumes",
    ),
    AfterValidator(_of_volumes_only),
]


class LocalStorage(Section):
    """The storage class local-path: a volume is a directory on the disk of one node."""

    path: VolumeDirectory = Field(
        default="/srv/volumes",
        description="the directory of new volumes on each node, best on a separate disk",
    )
    default: bool = Field(
        default=True, description="whether claims that name no storage class get it"
    )
    reclaim_policy: Literal["Retain", "Delete"] = Field(
        default="Retain",
        description="what happens to a volume and its data when its claim is deleted",
    )


class Storage(Section):
    """Persistent volumes that nordmesh provides."""

    local: LocalStorage | None = Field(
        default=None, description="volumes on the nodes' disks, which are lost with their node"
    )
