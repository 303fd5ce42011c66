"""Persistent volumes on the nodes' disks."""

from dataclasses import dataclass

import pulumi

from components.manifests.local_storage import provisioner, storage_class
from components.objects import Cluster
from config import LocalStorage as LocalStorageConfig


@dataclass(frozen=True, kw_only=True)
class LocalStorageArgs:
    """image: the reference of the provisioner's image."""

    cluster: Cluster
    settings: LocalStorageConfig
    image: str


class LocalStorage(pulumi.ComponentResource):
    """The storage class local-path and its provisioner.

    Deliberately limits no volume to its size and copies no data. node-remove.sh refuses to remove a
    worker with volumes; without this component they stay, and pods go on using them.
    """

    def __init__(
        self, name: str, args: LocalStorageArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:kubernetes:LocalStorage", name, None, opts)
        for manifest in provisioner(args.settings, image=args.image):
            args.cluster.apply(manifest, parent=self)
        # Volumes and claims do not need their class any more once they are bound.
        args.cluster.apply(storage_class(args.settings), parent=self, replace_on=["reclaimPolicy"])
        self.register_outputs({})
