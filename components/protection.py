"""What stops an update or a `pulumi destroy` that would delete data before it deletes anything.

Pulumi deletes dependents first. Without these resources it would delete all that depends on a
protected resource before it reaches that one and stops.
"""

from collections.abc import Collection, Sequence
from typing import cast

import pulumi
from pulumi.resource import DependencyResource

TYPE = "nordmesh:platform:Protection"


class Protection(pulumi.Resource):
    """Something that Pulumi deletes before all that it depends on, or refuses to delete.

    Not a component: Pulumi takes a dependency on a component for one on its children, and this has
    none. Deliberately holds nothing: the resource that owns the data is protected too.
    """

    def __init__(
        self, name: str, after: Sequence[pulumi.Input[pulumi.Resource]], *, protect: bool
    ) -> None:
        options = pulumi.ResourceOptions(depends_on=list(after), protect=protect)
        super().__init__(TYPE, name, False, {}, options)


def protect_data(
    everything: Sequence[pulumi.Resource],
    things: Sequence[str],
    protected: Collection[str],
    *,
    whole: bool,
    records: Sequence[pulumi.ComponentResource],
) -> None:
    """Protect a stack as a whole from a destroy, and each thing in it from its removal.

    things: those whose removal deletes a resource. protected: those whose removal loses data, also
    where a script and not Pulumi refuses the loss. whole: whether a destroy loses data. records:
    components without children.
    """
    # Before the others, so that a refused destroy deletes none of these either.
    allowed = [Protection(thing, [], protect=False) for thing in things if thing not in protected]
    root = cast(pulumi.Resource, pulumi.runtime.get_root_resource())
    alone = map(_itself, (*records, root))
    data = Protection("data", [*everything, *allowed, *alone], protect=whole)
    for thing in things:
        if thing in protected:
            Protection(thing, [data, _itself(root)], protect=True)


async def _itself(component: pulumi.Resource) -> pulumi.Resource:
    """A component; Pulumi takes a dependency on one for a dependency on its children.

    The resource of the stack stands for all resources made before. Pulumi orders deletions by
    direct dependencies, and `data` is not deleted with a thing. A list of everything for each thing
    would make a large state.
    """
    return DependencyResource(str(await component.urn.future()))
