"""Refuse edits of the list of control planes that would lose the cluster, at preview."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pulumi

from components import immutable
from config.errors import Problem
from config.machines.checks import quorum

TYPE = "nordmesh:kubernetes:ControlPlanes"
_SHOWN_BY_THE_NODE = "setting-immutable"
_INPUT, _GONE, _MEMBERS, _KEY = "addresses", "gone", "members", "encryptionKey"

Refuse = Callable[[str, Sequence[Problem]], None]
"""(resource, problems): ends its change if there are problems."""


class ControlPlaneList(pulumi.ComponentResource):
    """The control planes in the state, so that an edit of their list can be compared with it.

    Precedes every other resource of the nodes. It deliberately counts machines whose script failed,
    too: one of them may have the cluster. gone: the nodes of both roles whose machine is lost.
    present: all others. key: the number of the key of Secrets.
    """

    def __init__(
        self,
        name: str,
        addresses: Mapping[str, str],
        refuse: Refuse,
        *,
        gone: Sequence[str],
        present: Collection[str],
        key: int,
    ) -> None:
        self._key = key

        def compare(args: pulumi.ResourceHookArgs) -> None:
            inputs, outputs = args.old_inputs or {}, args.old_outputs or {}
            problems = judge(inputs, outputs, addresses, gone=gone, present=present, key=key)
            if pulumi.runtime.is_dry_run():
                # An error here can end the preview before that of the moved node, which names
                # everything that changes on its machine.
                problems = (one for one in problems if one.code != _SHOWN_BY_THE_NODE)
            refuse(args.name, list(problems))

        options = pulumi.ResourceHookOptions(on_dry_run=True)
        hook = pulumi.ResourceHook("quorum", compare, options)
        super().__init__(
            TYPE,
            name,
            {_INPUT: dict(addresses), **({_GONE: list(gone)} if gone else {})},
            pulumi.ResourceOptions(hooks=pulumi.ResourceHookBinding(before_update=[hook])),
        )

    def register_members(self, made: Mapping[str, pulumi.CustomResource]) -> None:
        """Record that these are members. made: the script that made each a control plane."""
        members = {name: script.id for name, script in made.items()}
        self.register_outputs({_MEMBERS: members, _KEY: self._key})


def judge(
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    addresses: Mapping[str, str],
    *,
    gone: Collection[str],
    present: Collection[str],
    key: int,
) -> Iterator[Problem]:
    """Refuse what the cluster could not survive.

    inputs, outputs: those in the state. addresses: the control planes of the stack file. gone,
    present: its nodes of both roles. key: the number of its key of Secrets.
    """
    before, members = inputs.get(_INPUT) or {}, outputs.get(_MEMBERS) or {}
    yield from returned(inputs.get(_GONE) or [], present)
    yield from moved(before, members, addresses)
    yield from renamed(before, addresses)
    lost = [name for name in before if name in gone]
    leaving = [name for name in before if name not in addresses and name not in gone]
    yield from (
        silenced(before, lost)
        or outvoted(before, addresses)
        or list(orphaned(members, addresses))
        or keyless(leaving, old=int(outputs.get(_KEY) or 0), new=key)
    )


def returned(gone: Sequence[str], present: Collection[str]) -> Iterator[Problem]:
    """Refuse to use a machine again that was lost, with its files of the cluster."""
    for name in gone:
        if name in present:
            yield Problem(
                code="node-came-back",
                path=("machines", "nodes", name, "gone"),
                what=f"`gone` was removed from {name}, which has left the cluster",
                why="its machine still has the files of that time, and etcd has removed its "
                "member for good, if it had one",
                fix=f"remove {name} from the file and run `pulumi up`; run "
                "`kubeadm reset --force` on the machine, remove /etc/kubernetes and "
                "/var/lib/etcd/member, and add it again: it joins as a new node",
            )


def moved(
    before: Mapping[str, str], members: Collection[str], now: Mapping[str, str]
) -> Iterator[Problem]:
    """Refuse another address of a member; before, now: the addresses by name."""
    for name in sorted(members):
        old, new = before.get(name), now.get(name)
        if old is not None and new is not None and old != new:
            path = f"machines.nodes.{name}.address"
            yield immutable.problem(name, path, old, new, is_worker=False, is_only=len(now) == 1)


def renamed(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Problem]:
    """Refuse another name for the machine of a control plane."""
    old_names = {address: name for name, address in before.items() if name not in now}
    for name, address in sorted(now.items()):
        old = old_names.get(address)
        if old is not None and name not in before:
            yield Problem(
                code="control-plane-renamed",
                path=("machines", "nodes", name),
                what=f"{name} has the address of {old}, which is no longer in the file",
                why=f"the machine is {old} in the cluster and in etcd until it is reset",
                fix=f"name it {old} again; for another name, remove it, run `pulumi up`, and add "
                f"it as {name}",
            )


def silenced(before: Collection[str], lost: Collection[str]) -> list[Problem]:
    """Refuse to remove lost members when those that are left cannot agree on it."""
    needed, left = quorum(len(before)), len(before) - len(lost)
    if not lost or left >= needed:
        return []
    names = ", ".join(sorted(lost))
    return [
        Problem(
            code="control-plane-quorum",
            path=("machines", "nodes", min(lost), "gone"),
            what=f"without {names}, {left} of {len(before)} control planes remain",
            why=f"{needed} of {len(before)} members of etcd must agree before one can be removed; "
            "the cluster can neither be read nor written",
            fix=f"bring back {needed - left} of {names}, and remove `gone` from each; if you "
            "cannot, build a new cluster in a new stack from a snapshot of etcd, as "
            "docs/backup.md shows",
        )
    ]


def orphaned(members: Collection[str], now: Collection[str]) -> Iterator[Problem]:
    """Refuse an edit after which no member stays: the others would have nobody to join."""
    gone = sorted(members)
    if gone and not any(name in now for name in gone):
        yield Problem(
            code="control-plane-removal",
            path=("machines", "nodes", gone[0]),
            what=f"the only members of the cluster would leave it: {', '.join(gone)}",
            why="etcd has the cluster's data, and none of its members would stay",
            fix=f"restore {gone[0]} with role: control-plane; once the new control planes have "
            "joined, remove it in a later edit",
        )


def keyless(leaving: Sequence[str], *, old: int, new: int) -> list[Problem]:
    """Refuse another key of Secrets while a control plane leaves. old: 0 without one."""
    if not leaving or old == new:
        return []
    names = ", ".join(sorted(leaving))
    return [
        Problem(
            code="control-plane-without-key",
            path=("kubernetes", "encryptionKey"),
            what=f"{names} would leave the cluster in the run that begins to use key {new}",
            why="a control plane leaves at the end of a run, and a key is used only once every "
            "control plane of the cluster has it",
            fix=f"restore {names} with role: control-plane and run `pulumi up`; then remove it",
        )
    ]


def outvoted(before: Collection[str], now: Collection[str]) -> list[Problem]:
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
