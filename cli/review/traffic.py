"""The shares of requests that each version of a service gets, before and after."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from cli.review.access import Callers
from cli.review.markdown import Part, code, listed, plain, table
from cli.review.preview import Preview, Step, Values
from components.manifests.hosts import is_host, service_of
from components.manifests.routes import PROTOCOLS, routes_of
from config.scalars.names import ROOT_NAMESPACE, subset_name

_SUFFIX = ".svc.cluster.local"
_EVERYTHING = "all"
_UNNAMED_PATH = "as the path above it, or 404"
_COLUMNS = ("Service", "Requests", "Versions", "From", "To", "Who is affected", "Gate")

Split = Mapping[str, int]
"""Shares in percent by subset."""


def part(preview: Preview) -> Part | None:
    """Render the changed splits as a table; None without any."""
    callers = Callers(preview)
    rows = [
        row
        for step in preview.of_kind("VirtualService")
        if not step.is_rewritten
        for row in _rows_of(preview, step, callers)
    ]
    return table("Traffic", _COLUMNS, rows) if rows else None


def _rows_of(preview: Preview, step: Step, callers: Callers) -> Iterator[tuple[str, ...]]:
    metadata = step.now.get("metadata", {})
    if is_host(str(metadata.get("name"))):
        yield from _rows_of_host(step)
    elif metadata.get("namespace") != ROOT_NAMESPACE:  # others there are those of egress
        yield from _rows(preview, step, callers)


def _rows_of_host(step: Step) -> Iterator[tuple[str, ...]]:
    """The paths of a gateway's host that lead to another answer."""
    old, new = _answers(step.old), _answers(step.new)
    host = listed(map(code, (step.now.get("spec") or {}).get("hosts") or []))
    for requests in {**old, **new}:
        before, after = old.get(requests), new.get(requests)
        if before != after:
            yield (
                host,
                plain(requests),
                "",
                before or _UNNAMED_PATH,
                f"**{after or _UNNAMED_PATH}**",
                listed(_gateways(step.now)),
                "",
            )


def _answers(values: Values) -> dict[str, str]:
    """What answers the requests of each condition, and how they are handled, as Markdown."""
    answers: dict[str, str] = {}
    for route in _mappings((values.get("spec") or {}).get("http")):
        settings = [
            f"{key} {code(json.dumps(value, sort_keys=True))}"
            for key, value in sorted(route.items())
            if key not in ("match", "route", "delegate", "retries")
        ]
        for match in _mappings(route.get("match")):
            answers.setdefault(_condition(match), listed([*_answering(route), *settings]))
    return answers


def _answering(route: Values) -> Iterator[str]:
    delegate = route.get("delegate")
    if isinstance(delegate, Mapping):
        yield code(f"{delegate.get('namespace')}/{service_of(str(delegate.get('name')))}")
    for entry in _mappings(route.get("route")):
        to = entry.get("destination") or {}
        yield f"{code(_service(str(to.get('host'))))} {plain(to.get('subset'))}"


def _rows(preview: Preview, step: Step, callers: Callers) -> Iterator[tuple[str, ...]]:
    old, new = _splits(step.old), _splits(step.new)
    for key in {**old, **new}:
        before, after = old.get(key, {}), new.get(key, {})
        if before == after:
            continue
        service, requests = key
        versions = list({**before, **after})
        yield (
            code(service),
            requests if requests == _EVERYTHING else plain(requests),
            code("/".join(versions)),
            _shares(before, versions) or "no route",
            f"**{_shares(after, versions)}**" if after else "**no route**: any version, by pods",
            listed([*_gateways(step.now), *callers.of(service)]),
            _gate(preview, service, before, after),
        )
    if others := _other_changes(step):
        metadata = step.now["metadata"]
        service = f"{metadata.get('namespace')}/{metadata.get('name')}"
        yield code(service), f"also changes: {others}", "", "", "", "", ""


def _splits(values: Values) -> dict[tuple[str, str], Split]:
    """The shares by service and by the condition of the route."""
    splits: dict[tuple[str, str], Split] = {}
    for route in routes_of(values):
        shares: dict[str, int] = {}
        # A single destination needs no weight.
        default = 100 if len(route.destinations) == 1 else 0
        for to in route.destinations:
            subset = to.subset or "all versions"
            weight = default if to.weight is None else to.weight
            shares[subset] = shares.get(subset, 0) + weight
        if shares:
            key = _service(route.destinations[0].host), _requests(route.match)
            splits.setdefault(key, shares)
    return splits


def _service(host: str) -> str:
    name, _, namespace = host.removesuffix(_SUFFIX).partition(".")
    return f"{namespace}/{name}" if namespace else name


def _requests(match: Any) -> str:
    """The condition of a route in words."""
    # A route has the same condition for the mesh and for a gateway.
    conditions = dict.fromkeys(map(_condition, _mappings(match)))
    return " or ".join(filter(None, conditions)) or _EVERYTHING


def _condition(match: Values) -> str:
    conditions = [
        f"header {name} {_matcher(how)}" for name, how in (match.get("headers") or {}).items()
    ]
    if "uri" in match:
        conditions.append(f"path {_matcher(match['uri'])}")
    return " and ".join(conditions)


def _matcher(how: Any) -> str:
    if isinstance(how, Mapping) and how:
        ((kind, value), *_) = how.items()
        return f"{kind} {value}"
    return json.dumps(how)


def _shares(split: Split, versions: list[str]) -> str:
    return "/".join(str(split.get(version, 0)) for version in versions) if split else ""


def _gateways(values: Values) -> list[str]:
    gateways = values.get("spec", {}).get("gateways") or []
    return [f"callers through the gateway {code(name)}" for name in gateways if name != "mesh"]


def _gate(preview: Preview, service: str, before: Split, after: Split) -> str:
    settings = _settings(preview.section("mesh").get("services"), service)
    canary = settings.get("canary")
    if not isinstance(canary, Mapping):
        return "none"
    subset = subset_name(str(canary.get("subset")))
    if after.get(subset, 0) <= before.get(subset, 0):
        return "none: the canary's share does not grow"
    gate = canary.get("gate")
    if not isinstance(gate, Mapping):
        return "none"
    if not before.get(subset, 0):
        return "none yet: the canary had no requests to measure"
    return "measured first: " + listed(f"{key} {plain(value)}" for key, value in gate.items())


def _settings(services: Any, service: str) -> Values:
    """The entry of the Service namespace/name in mesh.services; {} without one."""
    entries = services if isinstance(services, Mapping) else {}
    return next(
        (
            entry
            for name, entry in entries.items()
            if isinstance(entry, Mapping)
            and f"{entry.get('namespace')}/{entry.get('service') or name}" == service
        ),
        {},
    )


def _other_changes(step: Step) -> str:
    """The names of a route's fields other than its split."""
    old, new = (_besides(values) for values in (step.old, step.new))
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if step.op != "update" or not names:
        return ""
    words = [
        f"**{name}**" if name in ("fault", "mirror") and new.get(name) else name for name in names
    ]
    return listed(words)


def _besides(values: Values) -> dict[str, Any]:
    spec = values.get("spec") or {}
    found: dict[str, Any] = {key: value for key, value in spec.items() if key not in PROTOCOLS}
    for protocol in PROTOCOLS:
        for route in _mappings(spec.get(protocol)):
            for key, value in route.items():
                if key not in ("route", "match"):
                    found.setdefault(key, []).append((_requests(route.get("match")), value))
    return found


def _mappings(value: Any) -> list[Values]:
    return [item for item in value or [] if isinstance(item, Mapping)]
