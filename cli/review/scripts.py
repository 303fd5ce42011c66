"""Compare the scripts of commands and their settings, before and after."""

from collections.abc import Iterator
from difflib import unified_diff

from cli.review.markdown import Part, block
from cli.review.preview import Preview, Step, Values
from components.host.files import changed_paths
from components.manifests.istio_operator import specs
from components.remote import script_texts
from components.remote.node_command import PHASES, digest, file, settings


def part(preview: Preview) -> Part | None:
    """Render the changed lines of scripts, as one diff for each file."""
    diffs = dict(_diffs(preview))
    title = f"Scripts that change: {', '.join(diffs)}"
    return Part(title=title, rows=[*map(block, diffs.values())], folded=True) if diffs else None


def runs(step: Step, name: str, phase: str = "create") -> bool:
    """Whether a step's command runs a script of this name at creation or deletion."""
    return step.type == "command:remote:Command" and file(str(step.now.get(phase))) == name


def before_and_after(step: Step) -> tuple[dict[str, str], dict[str, str]]:
    """The settings of a step's command, old and new."""
    return _of(step.old), _of(step.new)


def changed(step: Step) -> list[str]:
    """The names of the changed settings, and `login` and `script` if those change.

    Changed files of a node are listed by their paths.
    """
    old, new = before_and_after(step)
    changes = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
    files = changed_paths(old.get("FILES", ""), new.get("FILES", ""))
    names = [*sorted(changes - {"FILES"}), *files]
    if any(path.startswith("connection") for path in step.fields):
        names.append("login")
    if any(
        digest(str(step.old.get(phase))) != digest(str(step.new.get(phase))) for phase in PHASES
    ):
        names.append("script")
    return names


def operators(preview: Preview) -> Iterator[tuple[Values, Values]]:
    """The IstioOperator specs that change, as (old, new); {} for one that does not exist."""
    for step in preview.changes:
        if step.type != "command:remote:Command":
            continue
        old, new = map(specs, before_and_after(step))
        for name in {**old, **new}:
            if old.get(name) != new.get(name):
                yield old.get(name, {}), new.get(name, {})


def _diffs(preview: Preview) -> Iterator[tuple[str, str]]:
    for step in preview.changes:
        if step.type != script_texts.TYPE or not step.old or not step.new:
            continue
        for name in sorted({**step.old, **step.new}):
            old, new = (str(texts.get(name, "")).splitlines() for texts in (step.old, step.new))
            if old != new:
                yield name, "\n".join(unified_diff(old, new, name, name, lineterm="", n=2))


def _of(inputs: Values) -> dict[str, str]:
    command = inputs.get("create")
    return settings(command) if isinstance(command, str) else {}
