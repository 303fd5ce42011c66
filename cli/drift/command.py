"""`nordmesh drift`: compare hosts, cluster and mesh with the stack file."""

import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict
from types import FrameType
from typing import Annotated

import typer

from cli.drift import cluster, hosts, objects
from cli.drift.findings import Difference, Group, Report, Unknown
from cli.logins import logins
from cli.options import AsJson, Stack
from cli.output import print_json, print_markdown
from cli.pulumi_cli import run
from cli.review.markdown import counted
from cli.review.preview import Preview, UnreadableError, parse
from components import nodes_ssh

_PREVIEW = ("preview", "--json", "--show-sames")
_ERRORS = 3  # of a failed preview that are shown


def report(stack: str, *, seconds: int) -> Report:
    """Compare a stack with what is there. seconds: how long a node may take to answer."""
    _say("asking Pulumi what the program would make, and the cluster what is there")
    text, failure = _preview(stack, "--refresh")
    if failure:
        # Without the cluster's answer the program still says what the nodes are to be.
        text, program = _preview(stack)
        if program:
            return Report(stack=stack, groups=[_no_program(program)])
    preview = parse(text, stack=stack)
    if preview.is_first:
        return Report(stack=stack, groups=[_nothing_yet(stack)])
    seen = {} if failure else objects.refreshed(text)
    found, besides = _nodes(preview, stack, seconds)
    groups = [found]
    for group in _objects(preview, seen, failure):
        of_nodes = [other for other in besides if other.title == group.title]
        groups.append(_together([group, *of_nodes]))
    return Report(stack=stack, groups=[*groups, objects.pending(preview)])


def _nodes(preview: Preview, stack: str, seconds: int) -> tuple[Group, list[Group]]:
    """The nodes, and what their control plane told of the cluster and the mesh."""
    nodes = hosts.expected(preview)
    known = logins(stack, "-prepare") if nodes else {}
    _say(f"asking {counted(len(nodes), 'node')}")
    answers = nodes_ssh.run(
        {
            node.name: (known[node.name], hosts.look(node, cluster.wanted(node)))
            for node in nodes
            if node.name in known
        },
        seconds=seconds,
    )
    differences: list[Difference] = []
    unknown: list[Unknown] = []
    besides: list[Group] = []
    for node in nodes:
        answer = answers.get(node.name)
        try:
            if answer is None or answer.problem:
                raise hosts.Incomplete(
                    answer.problem if answer else "the state has no login for it"
                )
            facts = hosts.Facts(answer.text)
        except hosts.Incomplete as error:
            remedy = "Make it answer over SSH, then ask again."
            unknown.append(Unknown(place=node.name, why=str(error), remedy=remedy))
            if node.is_control_plane:
                besides += cluster.unknown(node, f"{node.name} did not tell")
            continue
        differences += hosts.Comparison(stack, node, facts).all()
        if not hosts.has_made(node, facts):
            unknown.append(hosts.no_copies(stack, node))
        unknown += hosts.unread_sshd(node, facts)
        if node.is_control_plane:
            besides += cluster.groups(node, facts)
    looked_at = f"{counted(len(nodes), 'node')}" if nodes else "the stack has no nodes"
    hosts_group = Group(
        title="Hosts", looked_at=looked_at, differences=differences, unknown=unknown
    )
    return hosts_group, besides


def _objects(preview: Preview, seen: dict[str, objects.Seen], failure: str) -> Iterator[Group]:
    if not failure:
        yield from objects.groups(preview, seen)
        return
    for title in objects.PARTS:
        unknown = Unknown(
            place="the program's objects",
            why=failure,
            remedy="Look at what Pulumi said, and whether the API server answers; then ask again.",
        )
        yield Group(title=title, looked_at="", unknown=[unknown])


def _together(groups: list[Group]) -> Group:
    return Group(
        title=groups[0].title,
        looked_at=", ".join(group.looked_at for group in groups),
        differences=[found for group in groups for found in group.differences],
        unknown=[found for group in groups for found in group.unknown],
        notes=[note for group in groups for note in group.notes],
    )


def _no_program(why: str) -> Group:
    remedy = "Without a preview there is nothing to compare with: make `pulumi preview` succeed."
    unknown = Unknown(place="the program", why=why, remedy=remedy)
    return Group(title="Hosts, cluster and mesh", looked_at="", unknown=[unknown])


def _nothing_yet(stack: str) -> Group:
    return Group(
        title="Hosts, cluster and mesh",
        looked_at="",
        differences=[
            Difference(
                place=stack,
                what="the whole stack",
                expected="what the stack file says",
                found="nothing: it has not been made yet",
                remedy=f"`pulumi up --stack {stack}` makes it.",
            )
        ],
    )


def _preview(stack: str, *arguments: str) -> tuple[str, str]:
    """What a preview printed, and why it failed, empty if it did not."""
    result = run(*_PREVIEW, *arguments, stack=stack, streaming=True)
    said = result.stderr.strip()
    try:
        preview = parse(result.stdout, stack=stack)
    except UnreadableError as error:
        return "", said or str(error)
    errors = "\n".join(message.text for message in preview.errors[:_ERRORS])
    if result.returncode:
        return result.stdout, errors or said or f"pulumi ended with {result.returncode}"
    return result.stdout, errors


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def command(
    stack: Stack = "",
    timeout: Annotated[
        int, typer.Option(min=1, metavar="SECONDS", help="How long to wait for a node.")
    ] = 60,
    as_json: AsJson = False,
) -> None:
    """Compare hosts, cluster and mesh with the stack file; changes nothing.

    Exit status: 0 no drift, 1 drift, 3 no drift in what could be checked, but some checks were
    inconclusive.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    result = report(stack, seconds=timeout)
    if as_json:
        print_json({**asdict(result), "status": result.status})
    else:
        print_markdown(result.render())
    if result.status:
        raise typer.Exit(result.status)
