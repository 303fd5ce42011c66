"""Refuse edits of the list of control planes that would lose the cluster, at preview."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import pulumi

from components import immutable
from config.errors import Problem
from config.machines.checks import quorum

TYPE = "nordmesh:kubernetes:ControlPlanes"
_INPUT, _MEMBERS = "addresses", "members"

Refuse = Callable[[str, Sequence[Problem]], None]
"""(resource, problems): ends its change if there are problems."""


class ControlPlaneList(pulumi.ComponentResource):
    """The control planes in the state, so that an edit of their list can be compared with it.

    Precedes every other resource of the nodes. It deliberately counts machines whose script failed,
    too: one of them may have the cluster.
    """

    def __init__(self, name: str, addresses: Mapping[str, str], refuse: Refuse) -> None:
        def compare(args: pulumi.ResourceHookArgs) -> None:
            before = (args.old_inputs or {}).get(_INPUT) or {}
            members = (args.old_outputs or {}).get(_MEMBERS) or {}
            lost = judge(before, addresses) or removed(members, addresses)
            refuse(args.name, [*moved(before, members, addresses), *lost])

        options = pulumi.ResourceHookOptions(on_dry_run=True)
        hook = pulumi.ResourceHook("quorum", compare, options)
        super().__init__(
            TYPE,
            name,
            {_INPUT: dict(addresses)},
            pulumi.ResourceOptions(hooks=pulumi.ResourceHookBinding(before_update=[hook])),
        )

    def register_members(self, made: Mapping[str, pulumi.CustomResource]) -> None:
        """Record that these are members. made: the script that made each a control plane."""
        self.register_outputs({_MEMBERS: {name: script.id for name, script in made.items()}})


def moved(
    before: Mapping[str, str], members: Collection[str], now: Mapping[str, str]
) -> Iterator[Problem]:
    """Refuse another address of a member; before, now: the addresses by name."""
    for name in sorted(members):
        old, new = before.get(name), now.get(name)
        if old is not None and new is not None and old != new:
            path = f"machines.nodes.{name}.address"
            yield immutable.problem(name, path, old, new, is_worker=False)


def removed(members: Collection[str], now: Collection[str]) -> list[Problem]:
    """Refuse the removal of a member, which this release cannot take out of etcd."""
    return [
        Problem(
            code="control-plane-removal",
            path=("machines", "nodes", name),
            what=f"{name} is no longer a control plane",
            why=f"this release cannot take {name} out of etcd, which would count it as a lost "
            f"member: {quorum(len(members))} of {len(members)} must still agree on each write",
            fix=f"restore {name} with role: control-plane",
        )
        for name in sorted(members)
        if name not in now
    ]


def judge(before: Collection[str], now: Collection[str]) -> list[Problem]:
    """Refuse an edit after which no majority of the members stays to bring in the new ones."""
    stay = [name for name in before if name in now]
    gone = sorted(name for name in before if name not in now)
    new = sorted(name for name in now if name not in before)
    needed = quorum(len(before))
    if not gone or not new or len(stay) >= needed:
        return []
    leaving, joining = ", ".join(gone), ", ".join(new)
    spare = len(before) - needed
    how = (
        f"then replace at most {spare} of the {len(before)} in one edit"
        if spare
        else f"add two more control planes, and remove {leaving} in a later edit"
    )
    return [
        Problem(
            code="control-plane-quorum",
            path=("machines", "nodes", gone[0]),
            what=f"{leaving} would leave the cluster and {joining} would join it, so "
            f"{len(stay)} of {len(before)} control planes would stay",
            why=f"etcd has the cluster's data, and {needed} of its {len(before)} members must "
            "agree before another one can join",
            fix=f"restore {leaving} with role: control-plane; {how}",
        )
    ]
