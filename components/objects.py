"""Kubernetes objects from manifests, one Pulumi resource each."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.manifests import Manifest

# How the API server's record of who set a field is used. One manager's name, where the provider
# would take a random one, lets a run that was killed in the middle of a write repeat it. And the
# stack file wins over a change made by hand, so that setting a weight back always works.
_ANNOTATIONS = {
    "pulumi.com/patchFieldManager": "nordmesh",
    "pulumi.com/patchForce": "true",
}


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
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.CustomResource:
        """The resource of a manifest, named namespace/name with the kind in its type.

        after: what must be there first where no data flows. protect: refuse to delete it.
        hooks: what runs before or after a change of it.
        """
        metadata, version = manifest["metadata"], manifest["apiVersion"]
        group_version = version if "/" in version else f"core/{version}"
        annotations = {**metadata.get("annotations", {}), **_ANNOTATIONS}
        # The provider's typed classes would register the same and cost half a second to import.
        return pulumi.CustomResource(
            f"kubernetes:{group_version}:{manifest['kind']}",
            "/".join(filter(None, (metadata.get("namespace"), metadata["name"]))),
            {**manifest, "metadata": {**metadata, "annotations": annotations}},
            pulumi.ResourceOptions(
                parent=parent,
                provider=self.provider,
                depends_on=list(after),
                deleted_with=self.existence,
                protect=protect,
                hooks=hooks,
            ),
        )

    def patch(
        self,
        manifest: Manifest,
        *,
        parent: pulumi.Resource,
        after: Sequence[pulumi.Resource] = (),
    ) -> pulumi.CustomResource:
        """Create the resource for some fields of another owner's object; deletion removes them.

        A value that the owner sets as well is not taken over: the update fails, naming the owner.
        """
        metadata = manifest["metadata"]
        return pulumi.CustomResource(
            f"kubernetes:{manifest['apiVersion']}:{manifest['kind']}Patch",
            f"{metadata['namespace']}/{metadata['name']}",
            manifest,
            pulumi.ResourceOptions(
                parent=parent,
                provider=self.provider,
                depends_on=list(after),
                deleted_with=self.existence,
            ),
        )
