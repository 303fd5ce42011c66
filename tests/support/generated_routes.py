"""Random services and gateways of a stack file, and Istio's selection among their routes."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple, get_args, get_type_hints

from components.manifests import Manifest, gateways, hosts, routes
from config import Canary, CanaryGate, Mesh, Section, Service, access, mtls
from config.scalars import durations, numbers
from config.services import canary
from config.services.ports import Protocol
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

_labels = pick("v1", "v2", "canary-3", "v1.2.0", "Release_2024")
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
    access.PodPort: pick(80, 443, 8080, "http", "admin"),
    durations.Drain: pick("1s", "20s", "90s"),
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
_segments = text("abcXYZ09_-")  # a dot alone is not a segment of a normalized path
_paths = {
    "exact": applied("/{}".format, _segments),
    "prefix": applied("/{}".format, _segments),
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
        ports=of(list[access.PodPort], SCALARS),
    ),
)
_FIELDS: dict[str, Draw[Any]] = {
    "port": whole(1, 65535),
    "ports": applied(
        lambda web, others: {"http": web} | others,
        pick(80, 8080),
        mapping({"admin": just(9090)}, **{"grpc-pay": just(7070), "tcp-db": just(5432)}),
    ),
    "split": pick("http", "admin", "grpc-pay", "tcp-db"),
    "protocols": mapping(admin=pick(*get_args(Protocol))),
    "stable": _labels,
    "canary": section(Canary, SCALARS, subset=_labels, gate=section(CanaryGate, SCALARS)),
    "gateway": pick("web", "through", "plain"),
    "exportTo": pick(["."], ["*"], [".", "istio-system"]),
    "testers": listed(
        applied(
            lambda match, fault, subset: match | fault | {"subset": subset},
            _conditions,
            mapping(
                fault=applied(
                    lambda faults: {"reason": "made up by a test"} | faults, _some_or_all(**_faults)
                )
            ),
            _labels,
        ),
        least=1,
        most=3,
    ),
    "versions": listed(pick("v3", "v4"), least=1),
    "paths": listed(
        applied(
            lambda path, settings: path | settings,
            _one(prefix=pick("/", "/api"), exact=pick("/api", "/old")),
            mapping(
                rewrite=pick("/", "/new"),
                timeout=just("9s"),
                retries=mapping(attempts=whole(0, 10)),
                headers=mapping(request=just({"set": {"x-from": "100%"}, "remove": ["x-a"]})),
                cors=just({"origins": ["https://*.web.example"], "maxAge": "1h"}),
            ),
        ),
        least=1,
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
        service=just(name),
        hosts=listed(hosts, least=1),
        selector=just({"app.kubernetes.io/name": name, "tier": "web"}),
        serviceAccount=just(f"{name}-account"),
        mtls=section(mtls.ServiceMtls, SCALARS, selector=just({"role": name})),
    )


def consistent_service(name: str, values: Values) -> Values:
    """Return the service without contradictions that a preview refuses."""
    service = deepcopy(values)
    _fit_ports(service)
    gateway, protocol = service.get("gateway"), _split_protocol(service)
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
    _fit_paths(service)
    _fit_requests(service)
    return service


def _fit_ports(service: Values) -> None:
    ports = service.get("ports", {})
    if not ports:
        service.setdefault("port", 8080)
        for key in ("ports", "split", "protocols"):
            service.pop(key, None)
    else:
        service.pop("port", None)
        if service.get("split") not in ports:
            service.pop("split", None)
    for caller in service.get("callers", []):
        if "ports" in caller:
            caller["ports"] = [port for port in caller["ports"] if port in {*ports, 80, 443, 8080}]


def _split_protocol(service: Values) -> str:
    return _protocol(service, service.get("split", "http") if service.get("ports") else "")


def _protocol(service: Values, name: str) -> str:
    default = service.get("protocol", "http")
    by_name = {"http": "http", "grpc-pay": "grpc", "tcp-db": "tcp"}
    declared: str = service.get("protocols", {}).get(name, by_name.get(name, default))
    return declared


def _fit_paths(service: Values) -> None:
    if "gateway" not in service or _split_protocol(service) == "tcp":
        service.pop("paths", None)
    paths = {
        json.dumps([entry.get("prefix"), entry.get("exact")]): entry
        for entry in service.get("paths", [])
    }
    if not paths:
        return
    service["paths"] = list(paths.values())
    for testers in service.get("testers", []):
        if "regex" in testers.get("uri", {}):
            testers["uri"] = {"prefix": "/beta"}


def _fit_callers(service: Values) -> None:
    callers = service.get("callers", [])
    names = service.get("ports") or [""]
    if all(_protocol(service, name) == "tcp" for name in names):
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
    if "versions" in service:
        service["versions"] = [name for name in service["versions"] if name not in known]
        known += service["versions"]
    by_condition: Values = {}
    for testers in service.get("testers", []):
        if testers["subset"] not in known:
            testers["subset"] = known[-1]
        own = {key: testers[key] for key in ("subset", "fault") if key in testers}
        condition = {key: value for key, value in testers.items() if key not in own}
        by_condition[json.dumps(condition)] = condition | own
    if by_condition:
        service["testers"] = list(by_condition.values())


def _fit_requests(service: Values) -> None:
    retries = service.get("retries", {})
    if "timeout" in service and "perTryTimeout" in retries:
        service["timeout"], retries["perTryTimeout"] = "5s", "1.5s"
    if _split_protocol(service) != "tcp":
        return
    service.pop("mirror", None)
    service.get("canary", {}).pop("gate", None)
    if any(_protocol(service, name) != "tcp" for name in service.get("ports", {})):
        return
    for key in ("testers", "timeout", "retries", "fault"):
        service.pop(key, None)
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
        if key == "paths":  # tests/unit/components/manifests/test_paths.py makes up its own
            continue
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
        if name not in mesh.by_path:
            manifests.append(routes.virtual_service(name, settings, gateway))
            continue
        manifests.append(hosts.split(name, settings))
        if settings.in_mesh:
            manifests.append(hosts.inside(name, settings))
    for (gateway_name, host), names in mesh.shared_hosts.items():
        sharing = {name: mesh.services[name] for name in names}
        gateway = mesh.gateways[gateway_name]
        manifests.append(hosts.at_gateway(gateway_name, gateway, host, sharing))
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
