"""Random services and gateways of a stack file, and Istio's selection among their routes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, get_args, get_type_hints

from components.manifests import Manifest, gateways, routes
from config import Canary, CanaryGate, Mesh, Section, Service, access, mtls
from config.scalars import durations, numbers
from config.services import Protocol, canary
from tests.support.generated import (
    Draw,
    Scalars,
    Values,
    applied,
    just,
    listed,
    mapping,
    of,
    one_of,
    pick,
    section,
    text,
    whole,
)

REFERENCES = ("one", "shop/one", "back/two", "shop/three")
"""What callers may name; a mesh must have the services."""

_labels = pick("v1", "v2", "canary-3")
_durations = pick("1ms", "250ms", "1.5s", "2m", "1h", "30s")
_percents = one_of(whole(0, 100), pick(0.1, 12.5, 99.99))
_counts = whole(1, 2**31 - 1)
_words = text("abcXYZ09._-")

SCALARS: Scalars = {
    numbers.Port: pick(80, 443, 8080, 9090),
    numbers.Weight: whole(0, 100),
    access.AccountReference: pick("shop/client", "back/client"),
    access.ServiceReference: pick(*REFERENCES),
    access.Method: pick("GET", "POST"),
    access.HttpPath: pick("/", "/pay/*", "/healthz"),
    durations.Window: pick("10s", "1m"),
    durations.Latency: pick("250ms", "2s"),
    canary.Steps: pick([5, 25, 50, 100], [1], []),
    canary.SuccessRate: pick(99, 99.9, 100),
    numbers.RequestCount: whole(1, 1000),
}


def _one(**fields: Any) -> Draw[Values]:
    """Draw a mapping with one of the fields."""
    return one_of(*(mapping({key: value}) for key, value in fields.items()))


def _some_or_all(**fields: Any) -> Draw[Values]:
    """Draw a mapping with at least one of the fields."""
    return one_of(_one(**fields), mapping(fields))


_texts = {
    "exact": _words,
    "prefix": _words,
    "regex": pick("(a|b)+", "v[0-9]x", "^a.*"),
}
_paths = {
    "exact": applied("/{}".format, _words),
    "prefix": applied("/{}".format, _words),
    "regex": just("/beta/.+"),
}
_conditions = _some_or_all(
    header=applied(lambda name, text: {"name": name} | text, _words, _one(**_texts)),
    cookie=mapping({"name": _words, "value": _words}),
    uri=_one(**_paths),
)
_faults = {
    "delay": mapping({"percent": _percents, "fixedDelay": _durations}),
    "abort": mapping({"percent": _percents, "httpStatus": whole(400, 599)}),
}
_callers = applied(
    lambda name, limits: name | limits,
    _one(
        service=SCALARS[access.ServiceReference],
        serviceAccount=SCALARS[access.AccountReference],
        gateway=just("istio-ingressgateway"),
    ),
    mapping(
        methods=of(list[access.Method], SCALARS),
        paths=of(list[access.HttpPath], SCALARS),
        ports=of(list[numbers.Port], SCALARS),
    ),
)
_FIELDS: dict[str, Draw[Any]] = {
    "port": whole(1, 65535),
    "stable": _labels,
    "canary": section(Canary, SCALARS, subset=_labels, gate=section(CanaryGate, SCALARS)),
    "gateway": pick("web", "through", "plain"),
    "exportTo": pick(["."], ["*"], [".", "istio-system"]),
    "testers": listed(
        applied(lambda match, subset: match | {"subset": subset}, _conditions, _labels),
        least=1,
        most=3,
    ),
    "mirror": mapping({"subset": _labels}, percent=_percents),
    "timeout": _durations,
    "retries": mapping(
        attempts=whole(0, 10),
        perTryTimeout=_durations,
        retryOn=pick("5xx", "reset,503", "unavailable, cancelled"),
    ),
    "fault": applied(
        lambda faults: {"reason": "made up by a test"} | faults, _some_or_all(**_faults)
    ),
    "affinity": _one(
        cookie=mapping({"name": _words}, ttl=one_of(just("0s"), _durations)),
        header=_words,
        sourceIp=just(True),
    ),
    "connectionPool": _some_or_all(
        tcp=_some_or_all(maxConnections=_counts, connectTimeout=_durations),
        http=_some_or_all(
            http1MaxPendingRequests=_counts,
            http2MaxRequests=_counts,
            maxRequestsPerConnection=_counts,
            maxRetries=_counts,
            idleTimeout=_durations,
        ),
    ),
    "outlierDetection": mapping(
        consecutive5xxErrors=_counts,
        consecutiveGatewayErrors=_counts,
        interval=_durations,
        baseEjectionTime=_durations,
        maxEjectionPercent=whole(1, 100),
        minHealthPercent=whole(0, 100),
    ),
    "locality": one_of(
        just({"enabled": False}),
        just({"failover": [{"from": "oslo", "to": "bergen"}]}),
        just({"failoverPriority": ["topology.kubernetes.io/zone"]}),
        applied(
            lambda near: {"distribute": [{"from": "a/*", "to": {"a/*": near, "b/c": 100 - near}}]},
            whole(1, 99),
        ),
    ),
    "callers": listed(_callers, most=2),
}

GATEWAYS: Values = {
    "web": {"hosts": ["*.web.example"], "tls": {"secret": "web-tls"}},
    "through": {"hosts": ["*.through.example"], "tls": {"mode": "PASSTHROUGH"}},
    "plain": {"hosts": ["*.plain.example"]},
}


def free_services(name: str, namespace: str) -> Draw[Values]:
    """Draw services whose keys may contradict each other."""
    hosts = pick(f"{name}.web.example", f"*.{name}.web.example")
    return section(
        Service,
        SCALARS,
        **_FIELDS,
        namespace=just(namespace),
        hosts=listed(hosts, least=1),
        selector=just({"app.kubernetes.io/name": name, "tier": "web"}),
        serviceAccount=just(f"{name}-account"),
        mtls=section(mtls.ServiceMtls, SCALARS, selector=just({"role": name})),
    )


def consistent_service(name: str, values: Values) -> Values:
    """Return the service without contradictions that a preview refuses."""
    service = deepcopy(values)
    gateway, protocol = service.get("gateway"), service.get("protocol")
    if service.get("affinity"):
        service.pop("loadBalancer", None)
    if service.get("locality", {}).keys() & {"failover", "failoverPriority"}:
        service.setdefault("outlierDetection", {})
    detection = service.get("outlierDetection", {})
    if detection.get("maxEjectionPercent", 50) + detection.get("minHealthPercent", 1) > 101:
        detection["maxEjectionPercent"] = 101 - detection["minHealthPercent"]
    if gateway is None:
        service.pop("inMesh", None)
    else:
        gateway = "through" if protocol == "tcp" else gateway.replace("through", "web")
        hosts = service.get("hosts", [f"{name}.web.example"])
        service["gateway"] = gateway
        service["hosts"] = [host.replace(".web.", f".{gateway}.") for host in hosts]
        if service.get("exportTo") == ["."]:
            service["exportTo"] = [".", "istio-system"]
    if "mtls" in service and not service["mtls"].get("ports"):
        service["mtls"].setdefault("mode", "PERMISSIVE")
    if "callers" in service and service.get("mtls", {}).get("mode") == "DISABLE":
        service["mtls"]["mode"] = "STRICT"
    _fit_callers(service)
    _fit_subsets(service)
    _fit_requests(service)
    return service


def _fit_callers(service: Values) -> None:
    callers = service.get("callers", [])
    if service.get("protocol") == "tcp":
        for caller in callers:
            caller.pop("methods", None)
            caller.pop("paths", None)
    entry = {"gateway": "istio-ingressgateway"}
    if "callers" in service and "gateway" in service and entry not in callers:
        callers.append(entry)
    if any("gateway" not in caller for caller in callers) and "exportTo" in service:
        service["exportTo"] = ["*"]


def _fit_subsets(service: Values) -> None:
    known = [service["stable"]]
    if "canary" not in service:
        service.pop("mirror", None)
    else:
        trial = service["canary"]
        if trial["subset"] in known:
            trial["subset"] = "v4"
        known.append(trial["subset"])
        if "mirror" in service:
            service["mirror"]["subset"] = trial["subset"]
            if trial["weight"] == 100:
                service["mirror"]["percent"] = 0
    by_condition: Values = {}
    for testers in service.get("testers", []):
        subset = testers.pop("subset")
        by_condition[json.dumps(testers)] = testers | {
            "subset": subset if subset in known else known[-1]
        }
    if by_condition:
        service["testers"] = list(by_condition.values())


def _fit_requests(service: Values) -> None:
    retries = service.get("retries", {})
    if "timeout" in service and "perTryTimeout" in retries:
        service["timeout"], retries["perTryTimeout"] = "5s", "1.5s"
    if service.get("protocol") != "tcp":
        return
    for key in ("testers", "mirror", "timeout", "retries", "fault"):
        service.pop(key, None)
    service.get("canary", {}).pop("gate", None)
    if "affinity" in service:
        service["affinity"] = {"sourceIp": True}
    if "connectionPool" in service:
        service["connectionPool"].pop("http", None)
        service["connectionPool"].setdefault("tcp", {"maxConnections": 7})


# --- variety -------------------------------------------------------------------------------------


def shape(service: Service) -> frozenset[str]:
    """Return the keys of a service, two levels deep, and its protocol."""
    values = service.model_dump(by_alias=True, exclude_defaults=True, exclude={"protocol"})
    return frozenset({f"protocol: {service.protocol}", *_keys(values)})


def _keys(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        yield key
        for below in value if isinstance(value, list | tuple) else [value]:
            if isinstance(below, Mapping) and key != "selector":
                yield from (f"{key}.{name}" for name in below)


def _features() -> Iterator[str]:
    hints = get_type_hints(Service)
    for name, field in Service.model_fields.items():
        key = field.alias or name
        if key != "protocol":
            yield key
        for model in _sections(hints[name]):
            yield from (f"{key}.{at.alias or to}" for to, at in model.model_fields.items())
    yield from (f"protocol: {protocol}" for protocol in get_args(Protocol))


def _sections(hint: Any) -> Iterator[type[Section]]:
    if isinstance(hint, type) and issubclass(hint, Section):
        yield hint
    for argument in get_args(hint):
        yield from _sections(argument)


FEATURES = frozenset(_features())
"""Every key that a service can have, as `shape` names it."""


def assert_varied(made_up: Iterable[Service], *, shapes: int, of_each: int) -> None:
    """Check that the services are varied enough to be a useful sample.

    shapes: the minimum number of distinct shapes. of_each: the minimum number with each feature.
    """
    distinct = {shape(service) for service in made_up}
    assert len(distinct) >= shapes, f"{len(distinct)} different services"
    counts = Counter(feature for features in distinct for feature in features)
    rare = {feature: counts[feature] for feature in FEATURES if counts[feature] < of_each}
    assert not rare, f"too few services have {rare}"


# --- manifests -----------------------------------------------------------------------------------


def objects(mesh: Mesh) -> list[Manifest]:
    """Render the objects of all gateways and services of a mesh."""
    manifests = [gateways.gateway(name, gateway) for name, gateway in mesh.gateways.items()]
    for name, gateway_settings in mesh.gateways.items():
        manifests += gateways.challenges(name, gateway_settings)
    for name, settings in mesh.services.items():
        gateway = mesh.gateways.get(settings.gateway or "")
        manifests += routes.subset_rules(name, settings)
        manifests.append(routes.destination_rule(name, settings))
        manifests.append(routes.virtual_service(name, settings, gateway))
    return manifests


def split(route: Manifest, protocol: str) -> Manifest:
    """Return the split of a VirtualService: the last of its routes to subsets."""
    last: Manifest = [
        rule
        for rule in route[protocol]
        if all("subset" in to["destination"] for to in rule["route"])
    ][-1]
    return last


class Request(NamedTuple):
    """Headers and path of a request."""

    headers: Mapping[str, str]
    path: str


def routes_at(
    route: Manifest,
    port: int,
    authority: str,
    *,
    proxy: str = "mesh",
    request: Request | None = None,
) -> list[Manifest]:
    """Return the HTTP routes that Istio sends to a proxy for a port and host.

    Without any, the proxy uses the default route of the Service. Istio 1.16, route.go:
    BuildHTTPRoutesForVirtualService. proxy: mesh for a sidecar, or a Gateway. Routes for another
    authority are omitted, and those that the request does not match.
    """

    def holds(match: Manifest) -> bool:
        return (
            match.get("port", port) == port
            and proxy in match.get("gateways", [proxy])
            and bool(re.fullmatch(match.get("authority", {}).get("regex", ".*"), authority))
            and (request is None or _matches(match, request))
        )

    if proxy not in route.get("gateways", ["mesh"]):
        return []
    return [rule for rule in route["http"] if any(map(holds, rule.get("match", [{}])))]


def _matches(match: Manifest, request: Request) -> bool:
    headers = match.get("headers", {})
    return text_matches(match.get("uri", {}), request.path) and all(
        name in request.headers and text_matches(condition, request.headers[name])
        for name, condition in headers.items()
    )


def text_matches(condition: Mapping[str, str], text: str) -> bool:
    """Return whether a text matches a condition of Istio: exact, prefix or regex."""
    return (
        condition.get("exact", text) == text
        and text.startswith(condition.get("prefix", ""))
        and ("regex" not in condition or bool(re.fullmatch(condition["regex"], text)))
    )
