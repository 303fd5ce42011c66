"""The preflight's report: every failing check of every node, and what was measured."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from components.failures import PREFLIGHT_REFUSES
from components.preflight.facts import Measured
from components.preflight.judge import Finding
from config.errors import paragraph


def report(findings: Sequence[Finding], measured: Mapping[str, Measured]) -> str:
    """All findings in words, those that refuse first; and a table of what was measured."""
    blocks = [told(findings, nodes=len(measured)), "\n".join(_table(_nodes(measured)))]
    if rows := list(_ways(measured)):
        blocks.append("\n".join(["round trips in milliseconds", *_table(rows)]))
    return "\n\n".join(blocks)


def told(findings: Sequence[Finding], *, nodes: int) -> str:
    """All findings in words, those that refuse first. nodes: how many were measured."""
    refused = [finding for finding in findings if finding.stops]
    let_through = [finding for finding in findings if finding.refuses and not finding.stops]
    warned = [finding for finding in findings if not finding.refuses]
    blocks = [headline(refused, nodes=nodes), *map(_block, refused)]
    for title, some in (("let through", let_through), ("to be known", warned)):
        if some:
            blocks += [f"{title}:", *map(_block, some)]
    return "\n\n".join(blocks)


def headline(refused: Sequence[Finding], *, nodes: int) -> str:
    """How it ended, in a line."""
    if not refused:
        return f"the preflight has nothing against {_count(nodes, 'node')}"
    failed = {name for finding in refused for name in finding.nodes}
    return (
        f"{PREFLIGHT_REFUSES} {_count(len(failed), 'node')} of {nodes} "
        f"({_count(len(refused), 'check')}); nothing was changed on any"
    )


def _block(finding: Finding) -> str:
    lines = [
        f"{', '.join(finding.nodes)}: {finding.check}",
        paragraph("found", finding.measured),
        paragraph("limit", finding.limit),
    ]
    if finding.let_through is not None:
        lines.append(paragraph("let", f"through: {finding.let_through}"))
    else:
        lines.append(paragraph("fix", finding.remedy))
    return "\n".join(lines)


def _nodes(measured: Mapping[str, Measured]) -> Iterator[tuple[str, ...]]:
    yield "node", "cores", "memory", "steal", "fdatasync p99", "free", "clock"
    for name, one in sorted(measured.items()):
        if one.problem is not None:
            yield name, *["-"] * 6
            continue
        facts = one.facts
        memory = facts.number("memory-kib")
        yield (
            name,
            facts.one("cores") or "-",
            "-" if memory is None else f"{memory // 1024} MiB",
            _amount(facts.steal, "%", 1),
            _amount(facts.sync_p99, " ms", 1),
            f"{facts.disk_free[1]} MiB" if facts.disk_free else "-",
            _amount(one.clock.ahead if one.clock else None, " s", 2),
        )


def _ways(measured: Mapping[str, Measured]) -> Iterator[tuple[str, ...]]:
    names = sorted(name for name, one in measured.items() if one.links)
    if not names:
        return
    yield "from / to", *names
    for name in names:
        links = measured[name].links
        yield (
            name,
            *(_amount(links[to].round_trip if to in links else None, "", 2) for to in names),
        )


def _table(rows: Iterable[tuple[str, ...]]) -> list[str]:
    cells = list(rows)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]


def _amount(value: float | None, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
