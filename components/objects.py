"""Kubernetes objects from manifests, one Pulumi resource each."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.manifests import Manifest


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where objects are applied. existence: the resource with which every object is gone too, so
    that destroying a cluster does not first empty it object by object.
    """

    provider: k8s.Provider
    existence: pulumi.Resource

    def apply(
        self,
        manifest: Manifest,
        *,
        parent: pulumi.Resource,
        after: Sequence[pulumi.Resource] = (),
        protect: bool = False,
    ) -> pulumi.CustomResource:
        """The resource of a manifest, named namespace/name with the kind in its type.

        after: what must be there first where no data flows. protect: refuse to delete it.
        """
        metadata, version = manifest["metadata"], manifest["apiVersion"]
        group_version = version if "/" in version else f"core/{version}"
        # The provider's typed classes would register the same and cost half a second to import.
        return pulumi.CustomResource(
            f"kubernetes:{group_version}:{manifest['kind']}",
            "/".join(filter(None, (metadata.get("namespace"), metadata["name"]))),
            manifest,
            pulumi.ResourceOptions(
                parent=parent,
                provider=self.provider,
                depends_on=list(after),
                deleted_with=self.existence,
                protect=protect,
            ),
        )
