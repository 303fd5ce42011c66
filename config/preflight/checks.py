"""Checks and warnings of the section `preflight`."""

from collections.abc import Iterator

from config import ExistingNode, StackConfig
from config.errors import Problem, nearest, one_of
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
                    code="override-node-unknown",
                    path=("preflight", "override", check, "nodes", f"[{index}]"),
                    what=f"there is no node {name}",
                    why="the override would waive nothing",
                    fix=f"use {guess}" if guess else one_of(known),
                    about=(("machines", "nodes"),),
                )


def _check_latencies(sections: Sections) -> Iterator[Problem]:
    if sections.preflight is None:
        return
    limits = sections.preflight.limits
    if seconds(limits.latency_warning) > seconds(limits.latency):
        yield Problem(
            code="latency-warning-above-limit",
            path=("preflight", "limits", "latencyWarning"),
            what=f"{limits.latency_warning} is above the limit of {limits.latency}",
            why="nodes would be refused before the warning appears",
            fix=f"use at most {limits.latency}",
            about=(("preflight", "limits", "latency"),),
        )


def warnings(config: StackConfig) -> Iterator[str]:
    """The warnings about waived checks, one line for each reason, and about single machines."""
    waived: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for check, override in sorted(config.preflight.override.items()):
        waived.setdefault((override.reason, tuple(override.nodes)), []).append(check)
    for (reason, nodes), checks in waived.items():
        where = f" on {', '.join(nodes)}" if nodes else ""
        yield f"preflight checks {', '.join(checks)}{where}: waived: {reason}"
    for name, node in sorted(config.machines.nodes.items()):
        if isinstance(node, ExistingNode) and node.adopt:
            yield f"{name} is adopted with everything that already runs on it: {node.adopt}"
        if node.architecture != "amd64":
            yield f"{name}: {node.architecture} is supported but not tested"


CHECKS = (_check_nodes, _check_latencies)
