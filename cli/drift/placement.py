"""Compare the labels and taints of nodes with those of the stack file.

A control plane reports them. Those that someone set by hand beside them are no drift.
"""

import json
from collections.abc import Iterator

from cli.drift.findings import NOTHING, Difference, Inconclusive
from cli.drift.hosts import Expected, Facts
from cli.drift.values import shown
from cli.review.markdown import code
from cli.review.preview import Values
from components.manifests.kubeadm import JOINING
from components.node_labels import wanted

_JOINING = f"{JOINING['key']}:{JOINING['effect']}"


def differences(node: Expected, facts: Facts) -> Iterator[Difference]:
    """The differences on all nodes, from a control plane's answer."""
    actual = dict(_nodes(facts))
    for name, settings in sorted(node.labelled.items()):
        if name not in actual:
            continue
        labels, taints = wanted(settings)
        own_labels, own_taints = actual[name]
        for key, value in labels.items():
            if own_labels.get(key) != value:
                yield _difference(
                    name,
                    f"the label {code(key)}",
                    code(f"{key}={value}"),
                    code(f"{key}={own_labels[key]}") if key in own_labels else NOTHING,
                    f"kubectl label --overwrite node {name} {key}={value}",
                )
        for taint in taints:
            if taint not in own_taints:
                same = _without_value(taint)
                others = [other for other in own_taints if _without_value(other) == same]
                yield _difference(
                    name,
                    f"the taint {code(same)}",
                    code(taint),
                    shown(", ".join(others)),
                    f"kubectl taint --overwrite node {name} {taint}",
                )
    for name, (_, own_taints) in sorted(actual.items()):
        if _JOINING in own_taints:
            yield _difference(
                name,
                f"the taint {code(_JOINING)}",
                NOTHING,
                code(_JOINING),
                f"kubectl taint node {name} {_JOINING}-",
            )


def unread(node: Expected, facts: Facts) -> Iterator[Inconclusive]:
    """The finding that a control plane did not report the labels and taints that it should."""
    if node.labelled and not facts.has("nodes", "labels"):
        yield Inconclusive(
            subject=node.name,
            why="the labels and taints of the nodes could not be read",
            fix=f"Check that `kubectl get nodes` works on {code(node.name)}, then run this again.",
        )


def _difference(name: str, what: str, expected: str, actual: str, command: str) -> Difference:
    fix = f"Run {code(command)}."
    return Difference(subject=f"Node {name}", what=what, expected=expected, actual=actual, fix=fix)


def _nodes(facts: Facts) -> Iterator[tuple[str, tuple[dict[str, str], list[str]]]]:
    """The labels and taints of each node."""
    for line in facts.text("nodes", "labels").splitlines():
        name, labels, taints = line.split("\t")
        own = [_taint(taint) for taint in json.loads(taints or "[]")]
        yield name, (json.loads(labels or "{}"), own)


def _taint(taint: Values) -> str:
    value = taint.get("value")
    return f"{taint['key']}{f'={value}' if value else ''}:{taint['effect']}"


def _without_value(taint: str) -> str:
    key, _, effect = taint.partition(":")
    return f"{key.partition('=')[0]}:{effect}"
