"""The page docs/changes.md, rendered from the classes of change; `nordmesh schema` writes it."""

from itertools import groupby
from pathlib import Path

from config.changes import CHANGES, MEANINGS, every_key

PATH = Path(__file__).resolve().parents[1] / "docs" / "changes.md"

_HEAD = """\
# What an edit changes

Every key of the stack file has a class of change: what an edit of it does to a running stack.
`nordmesh schema` generates this page from the table in `config/changes.py`. A unit test fails if a
key has no class, or if the page is out of date, and `tests/engine/test_edit_matrix.py` edits each
key and compares what happens with its class.
"""
_KEYS = """\
`*` stands for a name that you choose, `[]` for an item of a list. A key also covers all that its
value holds: `kubernetes.kubelet` covers `kubernetes.kubelet.maxPods`. An entry or a section itself,
such as `mesh.services.*` or `istio`, is about adding or removing it.

The third column names what an edit may change: the script that runs, or the kind of object.
Nothing happens for an immutable key, so it names nothing there.
"""


def page() -> str:
    """The text of docs/changes.md."""
    classes = [f"| **{kind.value}** | {meaning} |" for kind, meaning in MEANINGS.items()]
    lines = [_HEAD, "| class | what an edit does |", "|---|---|", *classes, "", _KEYS]
    for section, names in groupby(every_key(), key=lambda key: key.partition(".")[0]):
        lines += [
            f"## {section}",
            "",
            "| key | class | what it may change | note |",
            "|---|---|---|---|",
        ]
        lines += [_row(name) for name in names] + [""]
    return "\n".join(lines)


def _row(key: str) -> str:
    change = CHANGES[key]
    resources = ", ".join(f"`{name}`" for name in sorted(change.resources))
    return f"| `{key}` | {change.kind.value} | {resources} | {change.note} |"
