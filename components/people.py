"""The people who use the cluster: their roles, and who has each."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.manifests import people
from components.objects import Cluster
from config import Access


@dataclass(frozen=True, kw_only=True)
class PeopleArgs:
    """namespaces: those of the mesh, by name."""

    cluster: Cluster
    access: Access
    namespaces: Mapping[str, pulumi.Resource]


class People(pulumi.ComponentResource):
    """Roles and their bindings, so that a pull request shows who may do what.

    Deliberately knows no person's credential: those are made where the person is.
    """

    def __init__(
        self, name: str, args: PeopleArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:access:People", name, None, opts)
        roles = {
            manifest["metadata"]["name"]: args.cluster.apply(manifest, parent=self)
            for manifest in people.roles()
        }
        for manifest in people.bindings(args.access, list(args.namespaces)):
            role = roles.get(manifest["roleRef"]["name"])
            namespace = args.namespaces.get(manifest["metadata"].get("namespace", ""))
            after = [resource for resource in (role, namespace) if resource is not None]
            args.cluster.apply(manifest, parent=self, after=after)
        self.register_outputs({})
