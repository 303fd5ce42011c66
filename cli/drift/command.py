"""`nordmesh drift`: compare hosts, cluster and mesh with the stack file."""

import sys
from collections.abc import Iterator
from dataclasses import asdict

import typer

from cli.drift import cluster, hosts, objects
from cli.drift.findings import Difference, Group, Inconclusive, Report
from cli.logins import logins
from cli.options import AsJson, Stack, Timeout
from cli.output import print_json, print_markdown
from cli.pulumi_cli import run
from cli.review.markdown import counted
from cli.review.preview import Preview, UnreadableError, parse
from components.remote import nodes_ssh
from components.remote.nodes_ssh import Answer
from config.errors import NordmeshError

_PREVIEW = ("preview", "--json", "--show-sames")
_ERRORS = 3  # of a failed preview that are shown


def report(stack: str, *, seconds: int) -> Report:
    """Compare a stack with its actual state. seconds: how long a node may take to answer."""
    _say("compare the program with the state and the cluster")
    text, failure = _preview(stack, "--refresh")
    if failure:
        # Even if the cluster does not answer, a preview gives the expected state of the nodes.
        text, program = _preview(stack)
        if program:
            return Report(stack=stack, groups=[_no_program(program)])
    preview = parse(text, stack=stack)
    if preview.is_first:
        return Report(stack=stack, groups=[_nothing_yet(stack)])
    seen = {} if failure else objects.refreshed(text)
    of_hosts, of_cluster = _nodes(preview, stack, seconds)
    groups = [of_hosts]
    for group in _objects(preview, seen, failure):
        same_title = [other for other in of_cluster if other.title == group.title]
        groups.append(_merged([group, *same_title]))
    return Report(stack=stack, groups=[*groups, objects.pending(preview)])


def _nodes(preview: Preview, stack: str, seconds: int) -> tuple[Group, list[Group]]:
    """The group of the nodes, and the groups of the cluster that control planes reported."""
    nodes = hosts.expected(preview)
    known = logins(stack, "-prepare") if nodes else {}
    _say(f"read {counted(len(nodes), 'node')}")
    answers = nodes_ssh.run(
        {
            node.name: (known[node.name], hosts.look(node, cluster.variables(node)))
            for node in nodes
            if node.name in known
        },
        seconds=seconds,
    )
    differences: list[Difference] = []
    inconclusive: list[Inconclusive] = []
    facts: dict[str, hosts.Facts] = {}
    for node in nodes:
        answer = answers.get(node.name)
        try:
            facts[node.name] = own = _facts(answer)
        except NordmeshError as error:
            inconclusive.append(Inconclusive(subject=node.name, why=error.what, fix=error.fix))
            continue
        differences += hosts.Comparison(stack, node, own).all()
        if not hosts.has_copies(node, own):
            inconclusive.append(hosts.no_copies(stack, node))
        inconclusive += hosts.unread_sshd(node, own)
    planes = [node for node in nodes if node.is_control_plane]
    checked = f"{counted(len(nodes), 'node')}" if nodes else "the stack has no nodes"
    hosts_group = Group(
        title="Hosts", checked=checked, differences=differences, inconclusive=inconclusive
    )
    return hosts_group, list(cluster.groups(planes, facts))


def _facts(answer: Answer | None) -> hosts.Facts:
    """The facts in a node's answer; raises NordmeshError if it gave none."""
    if answer is None or answer.problem:
        raise NordmeshError(
            answer.problem if answer and answer.problem else "the state has no login for it",
            code="drift-node-unreachable",
            fix="Make it answer over SSH, then run this again.",
        )
    return hosts.Facts(answer.text)


def _objects(preview: Preview, seen: dict[str, objects.Seen], failure: str) -> Iterator[Group]:
    if not failure:
        yield from objects.groups(preview, seen)
        return
    for title in objects.PARTS:
        check = Inconclusive(
            subject="the program's objects",
            why=failure,
            fix="Fix the error, or check that the API server answers; then run this again.",
        )
        yield Group(title=title, checked="", inconclusive=[check])


def _merged(groups: list[Group]) -> Group:
    return Group(
        title=groups[0].title,
        checked=", ".join(group.checked for group in groups),
        differences=[difference for group in groups for difference in group.differences],
        inconclusive=[check for group in groups for check in group.inconclusive],
        notes=[note for group in groups for note in group.notes],
    )


def _no_program(why: str) -> Group:
    fix = "Make `pulumi preview` succeed: a preview gives the expected state."
    check = Inconclusive(subject="the program", why=why, fix=fix)
    return Group(title="Hosts, cluster and mesh", checked="", inconclusive=[check])


def _nothing_yet(stack: str) -> Group:
    return Group(
        title="Hosts, cluster and mesh",
        checked="",
        differences=[
            Difference(
                subject=stack,
                what="the whole stack",
                expected="as in the stack file",
                actual="nothing: it was not created yet",
                fix=f"Run `pulumi up --stack {stack}`, which creates it.",
            )
        ],
    )


def _preview(stack: str, *arguments: str) -> tuple[str, str]:
    """The output of a preview, and why it failed ("" if it did not)."""
    result = run(*_PREVIEW, *arguments, stack=stack, streaming=True)
    printed = result.stderr.strip()
    try:
        preview = parse(result.stdout, stack=stack)
    except UnreadableError as error:
        return "", printed or str(error)
    errors = "\n".join(message.text for message in preview.errors[:_ERRORS])
    if result.returncode:
        return result.stdout, errors or printed or f"pulumi ended with status {result.returncode}"
    return result.stdout, errors


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def command(
    stack: Stack = "",
    timeout: Timeout = 60,
    as_json: AsJson = False,
) -> None:
    """Compare hosts, cluster and mesh with the stack file; changes nothing.

    Exit status: 0 no drift, 1 drift, 3 no drift in what could be checked, but some checks were
    inconclusive.
    """
    result = report(stack, seconds=timeout)
    if as_json:
        print_json({**asdict(result), "status": result.status})
    else:
        print_markdown(result.render())
    if result.status:
        raise typer.Exit(result.status)
