"""The whole summary, the most important changes first."""

import re
from collections import Counter
from collections.abc import Callable, Iterator

from cli.review import access, changes, egress, machines, scripts, traffic
from cli.review.markdown import Document, Part, block, code, counted, listed, plain
from cli.review.preview import Preview, Step
from components.engine_values import SECRET, count_unknown
from config.secret_values import is_secret_name

_PARTS: tuple[Callable[[Preview], Part | None], ...] = (
    traffic.part,
    access.part,
    egress.part,
    machines.nodes,
    machines.versions,
)
_WORDS = {
    "create": ("created", "create"),
    "update": ("updated", "update"),
    "replace": ("replaced", "REPLACE"),
    "delete": ("deleted", "DELETE"),
}
# Pulumi's own advice is to unprotect the resource in the state, which no reviewer sees.
_PROTECTED = re.compile(r"because it is protected|marked for protection")
_ALLOW = (
    "What is protected holds data. To delete it, first name it in `machines.allowDataLoss` with a "
    "reason, while it is still in the stack file, and run `pulumi up`. Then repeat this edit. Do "
    "not run `pulumi state unprotect`."
)
_DETAILS = 8  # changed fields that are named of one resource


def summary(preview: Preview, certificates: Part | None = None) -> Document:
    """Summarise a preview: its changes, or its errors if it failed.

    certificates: those that end soon, if the cluster was asked.
    """
    if preview.errors:
        return _failed(preview)
    parts = [_refused(preview), _gone(preview), changes.part(preview)]
    parts += [make(preview) for make in _PARTS]
    parts += [
        certificates,
        _warnings(preview),
        scripts.part(preview),
        _everything(preview),
        _rewritten(preview),
    ]
    return Document(
        title=_title(preview), lead=_lead(preview), parts=[part for part in parts if part]
    )


def unreadable(stack: str | None, text: str) -> Document:
    """Summarise a run in which pulumi printed a message but no preview."""
    return Document(
        title=f"Preview of {code(stack) if stack else 'the stack'} failed",
        lead=["Pulumi stopped before there was anything to preview. Nothing was changed."],
        parts=[Part(title="Error", rows=[block(text.strip())])],
    )


def _title(preview: Preview) -> str:
    stack = code(preview.stack)
    if preview.is_first and not preview.is_refused:
        return f"First preview of {stack}"
    steps = _real(preview)
    if preview.is_refused:
        return f"Preview of {stack}: refused by the policy pack ({_tally(steps)})"
    return f"Preview of {stack}: {_tally(steps) if steps else 'no changes'}"


def _lead(preview: Preview) -> list[str]:
    lines = []
    if preview.is_first:
        running = [
            f"{name} {code(version)}"
            for name, version in (
                ("Kubernetes", preview.section("kubernetes").get("version")),
                ("Istio", preview.section("istio").get("version")),
            )
            if version
        ]
        cluster = f", a cluster with {listed(running)}" if running else ""
        lines.append(f"Nothing of this stack exists yet: {_tally(_real(preview))}{cluster}.")
    else:
        lines.append(f"{counted(preview.unchanged, 'resource')} unchanged.")
    rewritten = sum(1 for step in preview.changes if step.is_rewritten)
    if rewritten:
        lines.append(
            f"Pulumi lists {counted(rewritten, 'more update')} without a visible change, because "
            "the cluster's kubeconfig is known only during the update."
        )
    unknown = sum(count_unknown(step.new) for step in preview.changes)
    if unknown:
        lines.append(f"{counted(unknown, 'value')} will be known only during the update.")
    return [" ".join(lines)]


def _refused(preview: Preview) -> Part | None:
    rows = [
        f"- **{plain(violation.policy)}**: {plain(violation.text)}"
        for violation in preview.violations
        if violation.is_mandatory
    ]
    return Part(title="Refused by the policy pack", rows=rows) if rows else None


def _gone(preview: Preview) -> Part | None:
    steps = [step for step in preview.changes if step.op in ("replace", "delete")]
    rows = [
        f"- **{_WORDS[step.op][1]}** {_resource(step)}{_because(step)}"
        for step in sorted(steps, key=lambda step: (step.op != "replace", step.is_component))
        if not step.is_component
    ]
    if not rows:
        return None
    counts = Counter(step.op for step in steps if not step.is_component)
    head = [
        "> [!CAUTION]",
        "> "
        + listed(
            f"{counted(counts[op], 'resource')} {_be(counts[op])} {_WORDS[op][0]}"
            for op in ("replace", "delete")
            if counts[op]
        )
        + ". Look at these first.",
        "",
    ]
    return Part(title="Replacements and deletions", head=head, rows=rows)


def _because(step: Step) -> str:
    if step.op != "replace" or not step.fields:
        return ""
    return f", because of {listed(map(code, step.fields[:_DETAILS]))}"


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def _warnings(preview: Preview) -> Part | None:
    rows = [f"- {plain(m.text)}" for m in preview.messages if m.severity == "warning"]
    rows += [
        f"- {plain(violation.policy)}: {plain(violation.text)}"
        for violation in preview.violations
        if not violation.is_mandatory
    ]
    return Part(title="Warnings", rows=rows) if rows else None


def _everything(preview: Preview) -> Part | None:
    steps = [step for step in _real(preview) if not step.is_component]
    rows = [
        f"- {_WORDS.get(step.op, (step.op, step.op))[1]} {_resource(step)}{_fields(step)}"
        for step in steps
    ]
    title = f"Every resource that changes ({len(rows):,})"
    return Part(title=title, rows=rows, folded=True) if rows else None


def _rewritten(preview: Preview) -> Part | None:
    rows = [f"- {_resource(step)}" for step in preview.changes if step.is_rewritten]
    title = f"Listed as updates without a visible change ({len(rows):,})"
    return Part(title=title, rows=rows, folded=True) if rows else None


def _resource(step: Step) -> str:
    kind = step.kind or {
        "command:remote:Command": _script_kind(step),
        "command:local:Command": "key" if step.name.endswith("-host-key") else "machine",
    }.get(step.type, step.type)
    return f"{plain(kind)} {code(step.name)}"


def _script_kind(step: Step) -> str:
    return "guest" if scripts.runs(step, "kvm-create.sh") else "script on a node"


def _fields(step: Step) -> str:
    if step.op != "update":
        return ""
    if step.type == "command:remote:Command":
        names = scripts.changed(step)
    else:
        names = [_field(step, path) for path in step.fields]
    shown = [code(name) for name in names[:_DETAILS]]
    more = len(names) - len(shown)
    return f": {', '.join(shown)}{f' and {more} more' if more else ''}" if shown else ""


def _field(step: Step, path: str) -> str:
    """A field with its values, if both are short and neither could be a secret."""
    if step.kind in (None, "Secret", "ConfigMap") or is_secret_name(path):
        return path
    old, new = _at(step.old, path), _at(step.new, path)
    scalars = all(
        value is None or (isinstance(value, str | int | float | bool) and value != SECRET)
        for value in (old, new)
    )
    if not scalars or old == new or len(f"{old}{new}") > 80:
        return path
    return f"{path}: {_shown(old)} to {_shown(new)}"


def _at(values: object, path: str) -> object:
    """The value at a path, for example spec.http[0].weight; it may be a list or a mapping."""
    for key in path.replace("[", ".").replace("]", "").replace('"', "").split("."):
        if isinstance(values, dict):
            values = values.get(key)
        elif isinstance(values, list) and key.isdigit() and int(key) < len(values):
            values = values[int(key)]
        else:
            return None
    return values


def _shown(value: object) -> str:
    return "nothing" if value is None else str(value)


def _failed(preview: Preview) -> Document:
    rows = [row for message in preview.errors for row in _error(message.text, message.urn)]
    if any(_PROTECTED.search(message.text) for message in preview.errors):
        rows.append(_ALLOW)
    parts = [Part(title="Errors", rows=rows), changes.part(preview), _warnings(preview)]
    return Document(
        title=f"Preview of {code(preview.stack)} failed",
        lead=[
            "Nothing was changed. What the preview had found until then is not shown, since it "
            "would be incomplete."
        ],
        parts=[part for part in parts if part],
    )


def _error(text: str, urn: str | None) -> Iterator[str]:
    if urn:
        yield f"{code(urn.rpartition('::')[2])}:"
    if "Traceback (most recent call last)" not in text:
        yield f"{block(text)}\n"
        return
    *_, last = text.splitlines()
    yield f"{block(last)}\n"
    yield f"<details><summary>The traceback</summary>\n\n{block(text)}\n\n</details>\n"


def _real(preview: Preview) -> list[Step]:
    return [step for step in preview.changes if not step.is_rewritten]


def _tally(steps: list[Step]) -> str:
    counts = Counter(step.op for step in steps if not step.is_component)
    order = [*(op for op in ("replace", "delete", "update", "create") if counts[op])]
    order += sorted(op for op in counts if op not in _WORDS)
    if not order:
        return "no changes"
    return listed(f"{counts[op]:,} {_WORDS.get(op, (f'to {op}', ''))[0]}" for op in order)
