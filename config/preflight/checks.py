"""Checks of the section `preflight`, and what is said of machines that are let through."""

from collections.abc import Iterator

from config import ExistingNode, StackConfig
from config.errors import Problem, nearest
from config.scalars.durations import seconds
from config.sections import Sections


def _check_nodes(sections: Sections) -> Iterator[Problem]:
    if sections.preflight is None:
        return
    known = sorted(sections.raw_nodes)
    for check, override in sections.preflight.override.items():
        for index, name in enumerate(override.nodes):
            if name not in known:
                guess = nearest(name, known)
                yield Problem(
                    path=("preflight", "override", check, "nodes", f"[{index}]"),
                    what=f"there is no node {name}",
                    why="the override would let nothing through",
                    fix=f"write {guess}" if guess else f"write one of {', '.join(known)}",
                    about=(("machines", "nodes"),),
                )


def _check_latencies(sections: Sections) -> Iterator[Problem]:
    if sections.preflight is None:
        return
    limits = sections.preflight.limits
    if seconds(limits.latency_warning) > seconds(limits.latency):
        yield Problem(
            path=("preflight", "limits", "latencyWarning"),
            what=f"{limits.latency_warning} is above the limit of {limits.latency}",
            why="a pair of nodes would be refused before it was warned of",
            fix=f"write at most {limits.latency}",
            about=(("preflight", "limits", "latency"),),
        )


def warnings(config: StackConfig) -> Iterator[str]:
    """What is let through: overrides with the same reason in one line, and single machines."""
    let_through: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for check, override in sorted(config.preflight.override.items()):
        let_through.setdefault((override.reason, tuple(override.nodes)), []).append(check)
    for (reason, nodes), checks in let_through.items():
        where = f" on {', '.join(nodes)}" if nodes else ""
        yield f"the preflight lets {', '.join(checks)} fail{where}: {reason}"
    for name, node in sorted(config.machines.nodes.items()):
        if isinstance(node, ExistingNode) and node.adopt:
            yield f"{name} is taken over with what it runs already: {node.adopt}"
        if node.architecture != "amd64":
            yield f"{name}: {node.architecture} is written for, and not tested"


CHECKS = (_check_nodes, _check_latencies)
