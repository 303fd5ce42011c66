"""`nordmesh report cis`: the items of the CIS benchmark, as the nodes are."""

from dataclasses import asdict
from pathlib import Path

import typer

from cli.cis.items import FAIL, UNKNOWN, Result, judge
from cli.drift.hosts import Facts
from cli.logins import logins_by_script
from cli.options import AsJson, Stack, Timeout
from cli.output import print_json, print_table
from components.remote import nodes_ssh
from config.errors import NordmeshError

_ORDER = ("pass", FAIL, UNKNOWN, "reason")


def results(stack: str, *, seconds: int) -> list[Result]:
    """Judge every item on the nodes of a stack. seconds: how long a node may take to answer."""
    nodes, planes = logins_by_script(stack, "-prepare", "-init")
    if not planes:
        raise NordmeshError(
            f"the stack {stack} has no control plane yet",
            code="cis-no-cluster",
            why="the benchmark checks running nodes",
            fix="run `pulumi up` first",
        )
    script = (Path(__file__).parent / "look.sh").read_text()
    answers = nodes_ssh.run(
        {name: (login, script) for name, login in nodes.items()}, seconds=seconds
    )
    return list(judge({name: _facts(answer) for name, answer in answers.items()}, sorted(planes)))


def _facts(answer: nodes_ssh.Answer) -> Facts | None:
    if answer.problem:
        return None
    try:
        return Facts(answer.text)
    except NordmeshError:
        return None


def command(
    stack: Stack = "",
    timeout: Timeout = 60,
    as_json: AsJson = False,
) -> None:
    """Compare the nodes with the CIS benchmark for Kubernetes 1.23; changes nothing.

    Exit status: 0 no item fails, 1 an item fails, 3 none fails, but a node did not answer.
    """
    checked = results(stack, seconds=timeout)
    if as_json:
        print_json([asdict(result) for result in checked])
    else:
        print_table(
            ("Item", "Result", "What", "Detail"),
            [(one.id, one.result, one.text, one.detail) for one in checked],
        )
        counts = (f"{sum(one.result == kind for one in checked)} {kind}" for kind in _ORDER)
        print(f"\n{', '.join(counts)}")
    kinds = {result.result for result in checked}
    if FAIL in kinds or UNKNOWN in kinds:
        raise typer.Exit(1 if FAIL in kinds else 3)
