"""The keys of the stack file that differ from the last successful update, each with its class."""

from collections.abc import Iterator, Mapping

from cli.review.markdown import Part, code, listed, plain
from cli.review.preview import Preview
from config import changes
from config.changes import Change, Kind

_WORDS: Mapping[Kind, str] = {
    Kind.CHECKED: "no resource changes",
    Kind.LIVE: "changes in place: {}",
    Kind.NODES: "runs again, without a drain: {}",
    Kind.RESTARTS: "the guest restarts, without a drain",
    Kind.REBUILDS: "may destroy something",
    Kind.IMMUTABLE: "refused once the node is in the cluster",
}


def part(preview: Preview) -> Part | None:
    """Render one line for each key; None if none differs, or without earlier settings."""
    rows = list(_rows(preview)) if preview.deployed is not None else []
    return Part(title="Changed settings", rows=rows) if rows else None


def _rows(preview: Preview) -> Iterator[str]:
    before, after = _readable(preview.deployed or {}), _readable(preview.config)
    hidden = (preview.deployed or {}).keys() - before.keys() | preview.config.keys() - after.keys()
    for path in changes.edited(before, after):
        known = changes.of(path)
        if known and path[0] not in hidden:
            yield f"- {code('.'.join(path))}: **{known[1].kind.value}**: {_meaning(known[1])}"


def _meaning(change: Change) -> str:
    meaning = _WORDS[change.kind].format(listed(map(code, sorted(change.resources))))
    return f"{meaning}; {plain(change.note)}" if change.note else meaning


def _readable(config: Mapping[str, object]) -> dict[str, object]:
    """The sections that are not encrypted, and so can be compared."""
    return {name: section for name, section in config.items() if isinstance(section, Mapping)}
