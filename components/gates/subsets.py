"""The pods gate: a subset that is about to get requests has a ready pod that can answer them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.gates import selection
from components.manifests import routes
from config import Service
from config.errors import NAMESPACE, NordmeshError
from config.scalars.names import subset_name

if TYPE_CHECKING:
    from components.gates.api import Api
    from components.gates.inventory import Pod


@dataclass(frozen=True, kw_only=True)
class Gains:
    """An edit of a service's routes, and the subsets that get more requests by it.

    name: the entry of mesh.services.
    subsets: what each gets, in words. is_first: whether the service had no routes before.
    """

    name: str
    service: Service
    subsets: Mapping[str, str]
    is_first: bool

    @property
    def service_name(self) -> str:
        return self.service.full_name(self.name)


def gains(
    name: str, service: Service, before: Mapping[str, Any] | None, after: Mapping[str, Any]
) -> Gains | None:
    """The subsets that an edit of a VirtualService sends more requests to; None without any.

    A stable version that serves requests already is not one: a lower weight of the canary, the
    revert, must not wait for anything.
    """
    old, new = _shares(before or {}), _shares(after)
    serving = next(iter(old), None)  # the stable version comes first
    subsets = {
        subset: f"{share}% of the requests"
        for subset, share in new.items()
        if share > old.get(subset, 0) and not (subset == serving and old[subset])
    }
    for subset in sorted(_testers(after) - _testers(before or {}) - subsets.keys()):
        subsets[subset] = "the testers' requests"
    if not subsets:
        return None
    return Gains(name=name, service=service, subsets=subsets, is_first=not before)


def relabelled(
    name: str, service: Service, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Gains | None:
    """The subset whose requests go to pods with other labels by an edit of its DestinationRule."""
    ((subset, new),) = _labels(after).items()
    version = service.subsets[subset]
    share = service.weights.get(version, 0)
    has_testers = any(testers.subset == version for testers in service.testers)
    if _labels(before).get(subset, new) == new or not (share or has_testers):
        return None
    requests = f"{share}% of the requests" if share else "the testers' requests"
    return Gains(name=name, service=service, subsets={subset: requests}, is_first=False)


def check(api: "Api", edit: Gains) -> str:
    """Report the ready pods of the subsets that get requests; fail if one has none."""
    namespace = edit.service.namespace
    selector = api.selector(namespace, edit.service.kubernetes_name(edit.name)) or {}
    ready = [pod for pod in api.pods(namespace) if pod.is_ready and pod.has(selector)]
    if edit.is_first and not (selector and ready):
        return f"pods gate, {edit.service_name}: no pod of it is ready yet"
    counts = []
    for subset, share in edit.subsets.items():
        label = edit.service.version_label
        labels = {**selector, label: edit.service.subsets.get(subset, subset)}
        count = sum(pod.has(labels) for pod in ready)
        if not count:
            raise _refusal(edit, subset, labels, share, ready)
        counts.append(f"{subset} has {count}")
    return f"pods gate, {edit.service_name}: ready pods: {', '.join(counts)}"


def _refusal(
    edit: Gains, subset: str, labels: Mapping[str, str], share: str, ready: Sequence["Pod"]
) -> NordmeshError:
    service, label = edit.service, edit.service.version_label
    is_canary = service.canary is not None and subset_name(service.canary.subset) == subset
    versions = sorted({pod.labels.get(label, f"no label {label}") for pod in ready})
    others = f"; its ready pods have {', '.join(versions)}" if versions else ""
    return NordmeshError(
        f"no ready pod of {edit.service_name} has the labels "
        f"{selection.in_words(labels)}{others}; the routes stay as they were",
        code="gate-canary-without-pods" if is_canary else "gate-stable-without-pods",
        path=f"{NAMESPACE}:mesh.services.{edit.name}.{'canary' if is_canary else 'stable'}",
        why=f"{share} would get 503",
        fix=f"deploy {service.subsets.get(subset, subset)} with these labels and wait until it is "
        "ready, then run `pulumi up` again",
    )


def _labels(destination_rule: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """The labels of the pods of each subset."""
    spec = destination_rule.get("spec") or {}
    return {subset["name"]: subset["labels"] for subset in spec.get("subsets") or ()}


def _shares(virtual_service: Mapping[str, Any]) -> dict[str, int]:
    """The weight of each subset; those of several routes are the same, or 0."""
    shares: dict[str, int] = {}
    for route in routes.routes_of(virtual_service):
        for destination in route.destinations:
            if destination.subset is not None and destination.weight is not None:
                most = max(shares.get(destination.subset, 0), destination.weight)
                shares[destination.subset] = most
    return shares


def _testers(virtual_service: Mapping[str, Any]) -> set[str]:
    """The subsets of routes without weights."""
    return {
        destination.subset
        for route in routes.routes_of(virtual_service)
        for destination in route.destinations
        if destination.subset is not None and destination.weight is None
    }
