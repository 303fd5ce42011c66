"""Kubernetes objects from manifests, one Pulumi resource each."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.manifests import Manifest
from components.taken_objects import MANAGER, TakenObjects

# A fixed field manager, where the provider would use a random name, lets a run repeat a write that
# was killed halfway. Forced, so that the stack file wins over a change made by hand: setting a
# weight back always works.
_ANNOTATIONS = {
    "pulumi.com/patchFieldManager": MANAGER,
    "pulumi.com/patchForce": "true",
}


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The cluster that objects are applied to. existence: the resource whose deletion deletes all
    objects, so that destroying a cluster does not first empty it object by object. taken: guards
    the objects of others.
    """

    provider: k8s.Provider
    existence: pulumi.Resource
    taken: TakenObjects

    def apply(
        self,
        manifest: Manifest,
        *,
        parent: pulumi.Resource,
        after: Sequence[pulumi.Resource] = (),
        protect: bool = False,
        replace_with: Sequence[pulumi.Resource] = (),
        replace_on: Sequence[str] = (),
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.CustomResource:
        """Create the resource of a manifest, named namespace/name, with the kind in its type.

        after: resources that must exist first though no data flows from them. protect: whether to
        refuse its deletion. replace_with: resources whose replacement deletes the object too, so
        that it has to be created again. replace_on: the fields that Kubernetes does not change; the
        object is deleted and created instead. hooks: run before or after a change of it.
        """
        metadata = manifest["metadata"]
        annotations = {**metadata.get("annotations", {}), **_ANNOTATIONS}
        # The provider's typed classes register the same, and take half a second to import.
        resource = pulumi.CustomResource(
            _type(manifest),
            _name(manifest),
            {**manifest, "metadata": {**metadata, "annotations": annotations}},
            pulumi.ResourceOptions(
                parent=parent,
                provider=self.provider,
                depends_on=list(after),
                deleted_with=self.existence,
                protect=protect,
                replace_with=list(replace_with),
                replace_on_changes=list(replace_on),
                delete_before_replace=bool(replace_on) or None,
                hooks=pulumi.ResourceHookBinding.merge(self.taken.hooks, hooks),
            ),
        )
        self.taken.add(resource)
        return resource

    def patch(
        self,
        manifest: Manifest,
        *,
        parent: pulumi.Resource,
        after: Sequence[pulumi.Resource] = (),
        hooks: pulumi.ResourceHookBinding | None = None,
    ) -> pulumi.CustomResource:
        """Create the resource for some fields of another owner's object; deletion removes them.

        A field that the owner sets too is not overwritten: the update fails and names the owner.
        """
        return pulumi.CustomResource(
            f"{_type(manifest)}Patch",
            _name(manifest),
            manifest,
            pulumi.ResourceOptions(
                parent=parent,
                provider=self.provider,
                depends_on=list(after),
                deleted_with=self.existence,
                hooks=hooks,
            ),
        )


def _type(manifest: Manifest) -> str:
    """The type of a manifest's resource."""
    version = manifest["apiVersion"]
    group_version = version if "/" in version else f"core/{version}"
    return f"kubernetes:{group_version}:{manifest['kind']}"


def _name(manifest: Manifest) -> str:
    """The name of a manifest's resource: namespace/name."""
    metadata = manifest["metadata"]
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
