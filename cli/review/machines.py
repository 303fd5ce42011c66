"""Nodes that are added, removed or changed, and versions that change."""

from collections.abc import Iterator

from cli.review import scripts
from cli.review.markdown import Part, code, listed, plain, table
from cli.review.preview import Preview, Step
from components import quorum
from components.machines import guest_sizes
from components.remote import node_command

_NODE = "nordmesh:node:Node"
_CONTROL_PLANE = "nordmesh:kubernetes:ControlPlane"


def nodes(preview: Preview) -> Part | None:
    """Render one line for each added, removed, restarted or changed node; None without any."""
    rows = [
        f"- {line}"
        for find in (_added, _removed, _gone, _recreated, _restarted, _prepared_again)
        for line in find(preview)
    ]
    return Part(title="Nodes", rows=rows) if rows else None


def versions(preview: Preview) -> Part | None:
    """Render the changed versions of Kubernetes and Istio as a table; None without any."""
    rows = list(dict.fromkeys([*_kubernetes(preview), *_istio(preview)]))
    return table("Versions", ("", "From", "To"), rows) if rows else None


def _added(preview: Preview) -> Iterator[str]:
    declared = preview.section("machines").get("nodes") or {}
    for name in _components(preview, "create"):
        node = declared.get(name) or {}
        words = {"role": "", "address": "", "privateAddress": "private ", "provider": ""}
        facts = [f"{word}{node[key]}" for key, word in words.items() if key in node]
        yield f"**{plain(name)}** is **added**" + (f" ({plain(', '.join(facts))})" if facts else "")


def _removed(preview: Preview) -> Iterator[str]:
    deleted = [step for step in preview.changes if step.op == "delete"]
    stays = _cluster_stays(preview)
    leaving = {
        node_command.settings(step.old["delete"]).get("JOINED_NODE"): script
        for step in deleted
        for script in ("node-remove.sh", "plane-leave.sh")
        if stays and scripts.runs(step, script, "delete")
    }
    control_planes = {step.name for step in deleted if step.type == _CONTROL_PLANE}
    lost = {_lost(step) for step in deleted if _is_lost(step)}
    for name in _components(preview, "delete"):
        if name in lost:
            how = "its machine was lost, and it has left the cluster already"
        elif leaving.get(name) == "plane-leave.sh":
            how = "drained within disruption budgets, then removed from etcd and from the cluster"
        elif name in control_planes:
            how = "with its control plane and etcd: **this deletes the cluster**"
        elif name in leaving:
            how = "drained within disruption budgets, then removed from the cluster"
        else:
            how = "not drained, because the cluster is deleted too"
        yield f"**{plain(name)}** is **removed**: {how}"


def _cluster_stays(preview: Preview) -> bool:
    """Whether a control plane stays; without any, the engine skips deletions in the cluster."""
    deleted = any(
        step.op == "delete" and scripts.runs(step, "kubeadm-init.sh") for step in preview.changes
    )
    return not deleted or any(
        step.type == quorum.TYPE and step.op == "update" for step in preview.changes
    )


def _gone(preview: Preview) -> Iterator[str]:
    for step in preview.changes:
        if step.op == "create" and _is_lost(step):
            yield (
                f"**{_lost(step)}** is **lost**: it leaves the cluster without a drain, and "
                "nothing runs on its machine"
            )


def _is_lost(step: Step) -> bool:
    return scripts.runs(step, "plane-leave.sh")


def _lost(step: Step) -> str:
    return plain(step.name.removesuffix("-gone"))


def _recreated(preview: Preview) -> Iterator[str]:
    for step in preview.changes:
        if step.op == "replace" and scripts.runs(step, "kvm-create.sh"):
            yield f"**{_guest(step)}** is **recreated**: its disks are lost with all their data"


def _restarted(preview: Preview) -> Iterator[str]:
    for step in preview.changes:
        if step.op == "update" and scripts.runs(step, "kvm-create.sh"):
            change = guest_sizes.restart(*scripts.before_and_after(step))
            if change:
                yield f"**{_guest(step)}** is **restarted** to change {plain(change)}"


def _guest(step: Step) -> str:
    return plain(step.name.removesuffix("-guest"))


def _prepared_again(preview: Preview) -> Iterator[str]:
    steps = [
        step
        for step in preview.changes
        if step.op == "update" and scripts.runs(step, "node-prepare.sh")
    ]
    for step in steps:
        name = step.name.removesuffix("-prepare")
        what = listed(map(code, scripts.changed(step)))
        yield f"**{plain(name)}** is changed in place: {what or 'prepared again'}"
    if len(steps) > 1:
        yield "Changes in place go from node to node, control planes last; an error stops them."


def _components(preview: Preview, op: str) -> list[str]:
    return [step.name for step in preview.changes if step.type == _NODE and step.op == op]


def _kubernetes(preview: Preview) -> Iterator[tuple[str, str, str]]:
    for step in preview.changes:
        if step.op == "update" and scripts.runs(step, "node-prepare.sh"):
            old, new = scripts.before_and_after(step)
            yield from _moved(
                "Kubernetes", old.get("KUBERNETES_VERSION"), new.get("KUBERNETES_VERSION")
            )


def _istio(preview: Preview) -> Iterator[tuple[str, str, str]]:
    for old, new in scripts.operators(preview):
        yield from _moved("Istio", old.get("tag"), new.get("tag"))
        yield from _moved("Istio's revision", old.get("revision"), new.get("revision"))
        # The gateways' document has the profile `empty`, so it contains gateways only.
        if old.get("profile") != "empty":
            yield from _moved("Istio's profile", old.get("profile"), new.get("profile"))


def _moved(what: str, old: str | None, new: str | None) -> Iterator[tuple[str, str, str]]:
    if old != new and old:
        yield what, code(old), f"**{code(new)}**" if new else "**removed**"
