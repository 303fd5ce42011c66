"""The external hosts that may be called, with their owners and purposes."""

from collections.abc import Iterator
from typing import Any

from cli.review import scripts
from cli.review.markdown import Part, code, listed, plain, table
from cli.review.preview import Preview, Step, Values
from config import annotations

_COLUMNS = ("", "Host", "Ports", "Who may", "Owner", "Purpose", "Legal basis", "Country")
_OURS = ("patchFieldManager", "patchForce")


def part(preview: Preview) -> Part | None:
    """Render the added, changed and removed hosts as a table; None without any."""
    rows = [
        row
        for step in preview.of_kind("ServiceEntry")
        if not step.is_rewritten and _is_outside(step.now)
        for row in _rows(step)
    ]
    lines = list(dict.fromkeys(_outbound(preview)))
    if not rows:
        return Part(title="Egress", rows=[f"- {line}" for line in lines]) if lines else None
    made = table("Egress", _COLUMNS, sorted(rows))
    return Part(
        title=made.title, head=[*lines, *([""] if lines else []), *made.head], rows=made.rows
    )


def _rows(step: Step) -> Iterator[tuple[str, ...]]:
    old, new = _hosts(step.old), _hosts(step.new)
    for host in sorted({*old, *new}):
        if host not in old:
            yield "**added**", *_row(step.new, host)
        elif host not in new:
            yield "removed", *_row(step.old, host)
        elif changed := _changed(step):
            yield f"changed: {changed}", *_row(step.new, host)


def _row(values: Values, host: str) -> tuple[str, ...]:
    spec, why = values.get("spec") or {}, (values.get("metadata") or {}).get("annotations") or {}
    ports = [f"{port.get('protocol')} {port.get('number')}" for port in spec.get("ports") or []]
    exported = [name for name in spec.get("exportTo") or ["*"] if name != "."]
    who = "every namespace" if "*" in exported else listed(map(code, exported))
    stated = (annotations.OWNER, annotations.PURPOSE, annotations.LEGAL_BASIS)
    return (
        code(host),
        plain(listed(ports)),
        who,
        *(plain(why[name]) if why.get(name) else "**not stated**" for name in stated),
        _country(why),
    )


def _country(why: Values) -> str:
    country, basis = why.get(annotations.COUNTRY, ""), why.get(annotations.TRANSFER_BASIS)
    return plain(country) + (f", by {plain(basis)}" if basis else "")


def _changed(step: Step) -> str:
    """The names of the fields that differ in a host that stays."""
    old, new = _facts(step.old), _facts(step.new)
    return listed(name for name in sorted({*old, *new}) if old.get(name) != new.get(name))


def _facts(values: Values) -> dict[str, Any]:
    metadata = values.get("metadata") or {}
    stated = {
        key.rpartition("/")[2]: value for key, value in (metadata.get("annotations") or {}).items()
    }
    kept = {key: value for key, value in stated.items() if key not in _OURS}
    return {**kept, **(values.get("spec") or {})}


def _outbound(preview: Preview) -> Iterator[str]:
    for old, new in scripts.operators(preview):
        before, after = _mode(old), _mode(new)
        if before == after or after is None:
            continue
        if after == "ALLOW_ANY":
            yield "**Every host may be called from now on**: outboundTrafficPolicy ALLOW_ANY"
        elif before is not None:
            yield f"Hosts that are not listed will be refused: outboundTrafficPolicy {plain(after)}"


def _mode(operator: Values) -> str | None:
    mode = ((operator.get("meshConfig") or {}).get("outboundTrafficPolicy") or {}).get("mode")
    return None if mode is None else str(mode)


def _hosts(values: Values) -> list[str]:
    return list((values.get("spec") or {}).get("hosts") or [])


def _is_outside(values: Values) -> bool:
    # MESH_EXTERNAL is Istio's default.
    return bool((values.get("spec") or {}).get("location", "MESH_EXTERNAL") == "MESH_EXTERNAL")
