"""What stops `pulumi destroy` before it has deleted anything."""

from collections.abc import Sequence

import pulumi


class Protection(pulumi.ComponentResource):
    """Depends on everything, so Pulumi deletes it before anything else, or refuses to.

    Otherwise `pulumi destroy --skip-preview` would delete all that depends on protected resources
    before it reaches one. Deliberately says nothing about a single thing: the resource that owns
    the data is protected too.
    """

    def __init__(self, name: str, everything: Sequence[pulumi.Resource], *, protect: bool) -> None:
        super().__init__(
            "nordmesh:platform:Protection",
            name,
            None,
            pulumi.ResourceOptions(depends_on=list(everything), protect=protect),
        )
        self.register_outputs({})
