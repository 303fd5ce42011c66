"""The preflight's report: every finding, and the measurements."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from components.preflight.facts import Measured
from components.preflight.findings import Finding
from components.remote.failures import PREFLIGHT_REFUSES
from components.tables import aligned
from config.errors import NordmeshError, paragraph, render

_CODE = "preflight-failed"


def report(findings: Sequence[Finding], measured: Mapping[str, Measured]) -> str:
    """The summary, and a table of the measurements."""
    blocks = [summary(findings, nodes=len(measured)), "\n".join(aligned(_nodes(measured)))]
    if rows := list(_round_trips(measured)):
        blocks.append("\n".join(["round trips in milliseconds", *aligned(rows)]))
    return "\n\n".join(blocks)


def summary(findings: Sequence[Finding], *, nodes: int) -> str:
    """The result in a line, and all findings. nodes: the number of measured ones."""
    if refused := _refused(findings):
        result = render(_headline(refused, nodes=nodes), code=_CODE)
    else:
        result = f"preflight passed on {_count(nodes, 'node')}"
    return "\n\n".join([result, *_blocks(findings)])


def failure(findings: Sequence[Finding], *, nodes: int) -> NordmeshError:
    """The error that stops an update, with all findings."""
    headline = _headline(_refused(findings), nodes=nodes)
    return NordmeshError(headline, code=_CODE, details="\n\n".join(_blocks(findings)))


def _refused(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.stops]


def _headline(refused: Sequence[Finding], *, nodes: int) -> str:
    failed = {name for finding in refused for name in finding.nodes}
    return (
        f"{PREFLIGHT_REFUSES} {len(failed)} of {_count(nodes, 'node')} "
        f"({_count(len(refused), 'check')}); nothing was changed"
    )


def _blocks(findings: Sequence[Finding]) -> Iterator[str]:
    """The findings, those that stop an update first."""
    waived = [finding for finding in findings if finding.refuses and not finding.stops]
    warnings = [finding for finding in findings if not finding.refuses]
    yield from map(_block, _refused(findings))
    for title, group in (("waived:", waived), ("warnings:", warnings)):
        if group:
            yield title
            yield from map(_block, group)


def _block(finding: Finding) -> str:
    lines = [f"{', '.join(finding.nodes)} [{finding.code}]"]
    lines += [paragraph("what", finding.measured), paragraph("limit", finding.limit)]
    if finding.waived is not None:
        lines.append(paragraph("why", f"waived: {finding.waived}"))
    else:
        lines.append(paragraph("fix", finding.fix))
    return "\n".join(lines)


def _nodes(measured: Mapping[str, Measured]) -> Iterator[tuple[str, ...]]:
    yield "node", "cores", "memory", "steal", "fdatasync p99", "free", "clock"
    for name, node in sorted(measured.items()):
        if node.problem is not None:
            yield name, *["-"] * 6
            continue
        facts = node.facts
        memory = facts.number("memory-kib")
        yield (
            name,
            facts.value("cores") or "-",
            "-" if memory is None else f"{memory // 1024} MiB",
            _amount(facts.steal, "%", 1),
            _amount(facts.sync_p99, " ms", 1),
            f"{facts.disk_free[1]} MiB" if facts.disk_free else "-",
            _amount(node.clock.ahead if node.clock else None, " s", 2),
        )


def _round_trips(measured: Mapping[str, Measured]) -> Iterator[tuple[str, ...]]:
    names = sorted(name for name, node in measured.items() if node.links)
    if not names:
        return
    yield "from / to", *names
    for name in names:
        links = measured[name].links
        yield (
            name,
            *(_amount(links[to].round_trip if to in links else None, "", 2) for to in names),
        )


def _amount(value: float | None, unit: str, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
