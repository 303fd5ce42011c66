"""Everything in a stack that an edit could destroy, and that an entry must name first."""

import math
from collections.abc import Iterable, Iterator
from typing import Protocol

import yaml

from config.data_loss import EVERYTHING, OLD_REASON, DataLoss, Thing
from config.istio import Istio
from config.machines import ExistingNode, Machines
from config.mesh import Mesh
from config.observability import MONITORING_NAMESPACE, Observability
from config.scalars.names import ROOT_NAMESPACE


class Stack(Protocol):
    """The sections with something to lose."""

    machines: Machines
    istio: Istio | None
    mesh: Mesh
    observability: Observability


def things(stack: Stack) -> Iterator[Thing]:
    """Everything in a stack that is protected unless an entry names it."""
    for name, node in sorted(stack.machines.nodes.items()):
        if not node.gone:
            yield ("volumes" if node.role == "worker" else "etcd"), name
        if not isinstance(node, ExistingNode):
            yield "disk", name
    if stack.istio is not None:
        yield "namespace", ROOT_NAMESPACE
        yield "identities", stack.istio.trust_domain
    for name in sorted(stack.mesh.namespaces):
        yield "namespace", name
    if keeps_metrics(stack.observability):
        yield "namespace", MONITORING_NAMESPACE


def keeps_metrics(observability: Observability) -> bool:
    """Whether metrics outlive Prometheus, on a volume that is deleted with its namespace."""
    prometheus = observability.prometheus
    return prometheus.enabled and prometheus.storage.storage_class is not None


def protected(stack: Stack) -> Iterator[Thing]:
    """Everything in a stack that must not be deleted."""
    for kind, name in things(stack):
        if kind != "identities" and not stack.machines.may_lose(kind, name):
            yield kind, name


def alone(stack: Stack) -> Iterator[Thing]:
    """Everything that must not be deleted by itself. With several control planes, each other one
    has the same etcd; then only the deletion of all of them loses it.
    """
    several = len(stack.machines.control_planes) > 1
    yield from (thing for thing in protected(stack) if thing[0] != "etcd" or not several)


def held(stack: Stack) -> Iterator[Thing]:
    """Everything in a stack that is gone with a resource. The volumes of a worker are not: only its
    node knows whether it has any.
    """
    yield from (thing for thing in things(stack) if thing[0] not in ("identities", "volumes"))
    if stack.observability.enabled and not keeps_metrics(stack.observability):
        yield "namespace", MONITORING_NAMESPACE


def listed(stack: Stack) -> Machines:
    """The machines of a stack with an entry for each thing instead of the old switch."""
    machines = stack.machines
    if EVERYTHING not in machines.allow_data_loss:
        return machines
    entries = [DataLoss.of(thing, OLD_REASON) for thing in things(stack)]
    return machines.model_copy(update={"allow_data_loss": entries})


def in_yaml(entries: Iterable[Thing]) -> str:
    """Render the entries of some things on one line, as a stack file has them, without reasons."""
    items = [{kind: name, "reason": "WHY"} for kind, name in entries]
    text: str = yaml.safe_dump(items, default_flow_style=True, sort_keys=False, width=math.inf)
    return f"allowDataLoss: {text.strip()}"
