"""Compare the program's Kubernetes objects, from a preview with a refresh."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cli.drift.findings import NOTHING, Difference, Group
from cli.drift.values import HIDDEN, MISSING, Field, at, beyond, set_by, shown
from cli.review.markdown import code, listed
from cli.review.preview import Preview, Step, UnreadableError, Values
from cli.review.scripts import changed
from components.engine_values import cleaned

# Managers that write to objects without being drift: Kubernetes's and Istio's own components, and
# `kubectl rollout`, with which an upgrade of the mesh restarts workloads.
CONTROLLERS = frozenset(
    (
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubectl-rollout",
        "kubelet",
        "istio-operator",
        "pilot-discovery",
    )
)
_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
PARTS = ("Cluster", "Mesh")


@dataclass(kw_only=True)
class Seen:
    """A resource in the refresh. state: its inputs at the last update. live: the object, {} if it
    no longer exists. unhealthy: what the provider waits for.
    """

    state: Values
    live: Values = field(default_factory=dict)
    unhealthy: str = ""


def refreshed(text: str) -> dict[str, Seen]:
    """The resources in the refresh of a streamed preview, by URN; else raises UnreadableError."""
    resources: dict[str, Seen] = {}
    for line in text.splitlines():
        try:
            event = json.loads(line).get("resOutputsEvent") if line.strip() else None
        except json.JSONDecodeError:
            raise UnreadableError(
                "this version of pulumi does not report what a refresh finds",
                code="pulumi-too-old",
                fix="install Pulumi 3.259 or later",
            ) from None
        step = (event or {}).get("metadata") or {}
        if step.get("op") != "refresh":
            continue
        old, new = step.get("old") or {}, step.get("new") or {}
        resources[str(step["urn"])] = Seen(
            state=cleaned(old.get("inputs") or {}),
            live=cleaned(new.get("outputs") or {}),
            unhealthy="; ".join(new.get("initErrors") or []),
        )
    return resources


def groups(preview: Preview, seen: Mapping[str, Seen]) -> list[Group]:
    """The differences of objects: a group for the cluster, and one for the mesh."""
    steps = [step for step in preview.steps if step.kind]
    return [
        Group(
            title=part,
            checked=f"{len(of_part)} objects of the program",
            differences=[x for step in of_part for x in _differences(preview.stack, step, seen)],
            notes=[note for step in of_part for note in _notes(step, seen)],
        )
        for part in PARTS
        for of_part in [[step for step in steps if _part(step) == part]]
    ]


def pending(preview: Preview) -> Group:
    """The other changes of `pulumi up`: the stack file was edited after the last update."""
    steps = [step for step in preview.changes if not step.kind and not _is_the_same(step)]
    return Group(
        title="Not applied yet",
        checked=f"all {len(preview.steps)} resources of the program are as in the state",
        differences=[
            Difference(
                subject=step.name,
                what=f"`pulumi up` would {step.op} it ({code(step.type)})",
                expected=listed(map(code, _settings(step))) or "as in the stack file",
                actual="as it was at the last `pulumi up`" if step.old else NOTHING,
                fix=f"Run `pulumi up --stack {preview.stack}`, which applies the stack file.",
            )
            for step in steps
        ],
    )


def _is_the_same(step: Step) -> bool:
    """Whether the change comes from the refresh alone, which does not look at commands."""
    return not step.fields and step.old == step.new and step.op in ("update", "replace", "refresh")


def _settings(step: Step) -> list[str]:
    if step.type == "command:remote:Command" and step.op == "update":
        return changed(step)
    return list(step.fields)


def _part(step: Step) -> str:
    return "Mesh" if "istio.io/" in step.type or "nordmesh:mesh:" in step.urn else "Cluster"


def _notes(step: Step, seen: Mapping[str, Seen]) -> Iterator[str]:
    was = seen.get(step.urn)
    if was and was.unhealthy:
        yield f"{code(_name(step))} is not ready: {code(was.unhealthy)}"


def _differences(stack: str, step: Step, seen: Mapping[str, Seen]) -> Iterator[Difference]:
    was, name = seen.get(step.urn), _name(step)
    apply = f"The stack file was edited since: run `pulumi up --stack {stack}` to apply it."
    back = f"Run `pulumi up --refresh --stack {stack}`, which restores it."
    if step.op == "delete":
        yield Difference(
            subject=name, what="the object", expected=NOTHING, actual="an object", fix=apply
        )
    elif step.op == "create" or (was and not was.live):
        fix = back if was else apply
        yield Difference(
            subject=name, what="the object", expected="an object", actual=NOTHING, fix=fix
        )
    else:
        paths = set()
        for change in _fields(step):
            paths.add(change.path)
            edited = was and at(was.state, change.path) != change.expected
            yield _difference(step, change, apply if edited else back)
        for change, who in _by_others(step, was.live if was else {}):
            if change.path not in paths:
                yield _difference(
                    step, change, f"{code(who)} set it, and nordmesh does not: {_by_hand(step)}"
                )


def _fields(step: Step) -> Iterator[Field]:
    for path in step.fields if step.op != "same" else ():
        yield Field(path, at(step.new, path), at(step.old, path))


def _by_others(step: Step, live: Values) -> Iterator[tuple[Field, str]]:
    # The program only patches this object: its other fields belong to its owner.
    if not step.kind or step.kind.endswith("Patch"):
        return
    yield from added_to(step.new, live, own=str(live.get("__fieldManager")))


def added_to(expected: Values, live: Values, own: str) -> Iterator[tuple[Field, str]]:
    """The fields that other managers added to an expected object, each with its manager."""
    _, others = _entries(live, CONTROLLERS | {own})
    for entry in others:
        yield from _named(entry, set_by(entry["fieldsV1"], expected, live))


def added_beyond(live: Values, known: Collection[str]) -> Iterator[tuple[Field, str]]:
    """Fields of an object that no known manager set, each with the manager that did."""
    ours, others = _entries(live, known)
    for entry in others:
        yield from _named(entry, beyond(entry["fieldsV1"], [x["fieldsV1"] for x in ours], live))


def _entries(live: Values, known: Collection[str]) -> tuple[list[Values], list[Values]]:
    """The entries of managedFields, of known and of other managers, without those of the status."""
    recorded = live.get("metadata", {}).get("managedFields") or []
    entries = [x for x in recorded if x.get("subresource") != "status" and x.get("fieldsV1")]
    ours = [entry for entry in entries if entry.get("manager") in known]
    return ours, [entry for entry in entries if entry not in ours]


def _named(entry: Values, fields: Iterator[Field]) -> Iterator[tuple[Field, str]]:
    for change in fields:
        if _APPLIED not in change.path:
            yield change, f"{entry.get('manager')} ({entry.get('time')})"


def _difference(step: Step, change: Field, fix: str) -> Difference:
    return Difference(
        subject=_name(step),
        what=code(change.path),
        expected=_value(step.kind, change.expected),
        actual=_value(step.kind, change.actual),
        fix=fix,
    )


def _value(kind: str | None, value: Any) -> str:
    return HIDDEN if kind == "Secret" and value is not MISSING else shown(value)


def _name(step: Step) -> str:
    return f"{step.kind} {step.name}"


def _by_hand(step: Step) -> str:
    metadata = step.new.get("metadata") or {}
    namespace = f"-n {metadata['namespace']} " if "namespace" in metadata else ""
    resource = str(step.kind).lower()
    return f"remove it by hand, with `kubectl {namespace}edit {resource} {metadata.get('name')}`."
