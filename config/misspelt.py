"""Entries of mappings whose name is probably another's, misspelt."""

import re
from collections.abc import Iterable

from config.errors import KeyPath, Problem, nearest
from config.faults import Fault, value_at


def misspelt_names(faults: Iterable[Fault], raw: object) -> list[Problem]:
    """The problems of entries that have none of their required keys, but almost another's name.

    `pulumi config set --path` makes such an entry if a name in the path is misspelt.
    """
    missing: dict[KeyPath, list[Fault]] = {}
    for fault in faults:
        if fault.kind == "missing" and fault.owner is not None:
            missing.setdefault(fault.path[:-1], []).append(fault)
    problems = []
    for path, lacking in missing.items():
        owner, entries = lacking[0].owner, value_at(raw, path[1:-1])
        fields = owner.model_fields.values() if owner is not None else ()
        required = [field for field in fields if field.is_required()]
        if len(lacking) < len(required) or not isinstance(entries, dict) or len(path) < 3:
            continue
        others = [name for name in entries if _letters(name) != _letters(path[-1])]
        guess = nearest(path[-1], others)
        if guess is not None and path[-1] in entries:
            keys = ", ".join(fault.path[-1] for fault in lacking)
            problems.append(
                Problem(
                    code="name-unknown",
                    path=path,
                    what=f"{path[-1]} has no {keys}, and there is {guess}",
                    why="a separate entry needs these keys; if the name is misspelt, the edit "
                    f"has no effect on {guess}",
                    fix=f"move it to {guess}, or add {keys}",
                )
            )
    return problems


def _letters(name: str) -> str:
    """A name without its numbers: worker-1 and worker-2 are no misspelling of each other."""
    return re.sub(r"\d", "", name)
