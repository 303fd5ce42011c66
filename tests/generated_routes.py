"""Services and gateways that hypothesis makes up: most are good, some contradict themselves."""

import re
from typing import Any

from hypothesis import strategies as st

from components.manifests import Manifest, gateways, routes
from config import Mesh, checks
from config.sections import Sections
from lab import paths

Values = dict[str, Any]
_CHECKS = (*checks.services.CHECKS, *checks.gateways.CHECKS)
_HOSTS = ("a.example.com", "b.example.com")

_labels = st.sampled_from(["v1", "v2", "canary-3"])
_durations = st.sampled_from(["1ms", "250ms", "1.5s", "2m", "1h", "30s"])
_percents = st.one_of(st.integers(0, 100), st.sampled_from([0.1, 12.5, 99.99]))
_counts = st.integers(1, 2**31 - 1)
_words = st.text("abcXYZ09._-", min_size=1, max_size=8)


def _some(**fields: Any) -> st.SearchStrategy[Values]:
    """A mapping with some of the fields."""
    return st.fixed_dictionaries({}, optional=fields)


def _one(**fields: Any) -> st.SearchStrategy[Values]:
    """A mapping with one of the fields."""
    return st.one_of([st.fixed_dictionaries({key: value}) for key, value in fields.items()])


_texts = {
    "exact": _words,
    "prefix": _words,
    "regex": st.sampled_from(["(a|b)+", "v[0-9]x", "^a.*"]),
}
_paths = {
    "exact": _words.map("/{}".format),
    "prefix": _words.map("/{}".format),
    "regex": st.just("/beta/.+"),
}
_conditions = _one(
    header=st.builds(lambda name, text: {"name": name} | text, _words, _one(**_texts)),
    cookie=st.fixed_dictionaries({"name": _words, "value": _words}),
    uri=_one(**_paths),
)
_testers = st.builds(lambda match, subset: match | {"subset": subset}, _conditions, _labels)
_fault = st.builds(
    lambda parts: {"reason": "made up by a test"} | parts,
    _some(
        delay=st.fixed_dictionaries({"percent": _percents, "fixedDelay": _durations}),
        abort=st.fixed_dictionaries({"percent": _percents, "httpStatus": st.integers(400, 599)}),
    ),
)
_locality = st.one_of(
    st.just({"enabled": False}),
    st.just({"failover": [{"from": "oslo", "to": "bergen"}]}),
    st.just({"failoverPriority": ["topology.kubernetes.io/zone"]}),
    st.integers(1, 99).map(
        lambda near: {"distribute": [{"from": "a/*", "to": {"a/*": near, "b/c": 100 - near}}]}
    ),
)

services: st.SearchStrategy[Values] = st.fixed_dictionaries(
    {"namespace": st.just("shop"), "port": st.integers(1, 65535), "stable": _labels},
    optional={
        "canary": st.fixed_dictionaries({"subset": _labels, "weight": st.integers(0, 100)}),
        "protocol": st.sampled_from(["http", "http", "http", "grpc", "tcp"]),
        "hosts": st.lists(st.sampled_from(_HOSTS), max_size=2),
        "gateway": st.sampled_from(["web", "through"]),
        "inMesh": st.booleans(),
        "exportTo": st.sampled_from([["."], ["*"], [".", "istio-system"]]),
        "testers": st.lists(_testers, max_size=3),
        "mirror": st.fixed_dictionaries({"subset": _labels, "percent": _percents}),
        "personalData": st.booleans(),
        "timeout": _durations,
        "retries": _some(
            attempts=st.integers(0, 10),
            perTryTimeout=_durations,
            retryOn=st.sampled_from(["5xx", "reset,503", "unavailable, cancelled"]),
        ),
        "fault": _fault,
        "loadBalancer": st.sampled_from(["LEAST_REQUEST", "ROUND_ROBIN", "RANDOM"]),
        "affinity": _one(
            cookie=st.fixed_dictionaries(
                {"name": _words}, optional={"ttl": st.one_of(st.just("0s"), _durations)}
            ),
            header=_words,
            sourceIp=st.just(True),
        ),
        "connectionPool": _some(
            tcp=_some(maxConnections=_counts, connectTimeout=_durations),
            http=_some(
                http1MaxPendingRequests=_counts,
                http2MaxRequests=_counts,
                maxRequestsPerConnection=_counts,
                maxRetries=_counts,
                idleTimeout=_durations,
            ),
        ),
        "outlierDetection": _some(
            consecutive5xxErrors=_counts,
            consecutiveGatewayErrors=_counts,
            interval=_durations,
            baseEjectionTime=_durations,
            maxEjectionPercent=st.integers(1, 100),
            minHealthPercent=st.integers(0, 100),
        ),
        "locality": _locality,
    },
)


GATEWAYS: Values = {
    "web": {"hosts": ["a.example.com"], "tls": {"secret": "web-tls"}},
    "through": {"hosts": ["b.example.com"], "tls": {"mode": "PASSTHROUGH"}},
}


def mesh_of(service: Values) -> Values:
    """The section `mesh` with one service, and the gateways that it may name."""
    return {
        "namespaces": {"shop": {}},
        "gateways": GATEWAYS,
        "services": {"made-up": service},
    }


def understood(service: Values) -> Mesh | None:
    """The section `mesh` as a stack of it would have it; None where a preview would refuse it."""
    sections = Sections({"mesh": mesh_of(service), "istio": {"version": "1.16.5"}}, paths.PROJECT)
    refused = [problem for problem in sections.problems if problem.path[0] == "mesh"]
    found = (problem for check in _CHECKS for problem in check(sections))
    return None if refused or any(found) else sections.mesh


def objects(mesh: Mesh) -> list[Manifest]:
    """What the mesh's gateways and services become."""
    found = [gateways.gateway(name, gateway) for name, gateway in mesh.gateways.items()]
    for name, settings in mesh.services.items():
        gateway = mesh.gateways.get(settings.gateway or "")
        found += routes.subset_rules(name, settings)
        found.append(routes.destination_rule(name, settings))
        found.append(routes.virtual_service(name, settings, gateway))
    return found


def split(route: Manifest, protocol: str) -> Manifest:
    """The split of a VirtualService: the last of its routes to subsets."""
    found: Manifest = [
        rule
        for rule in route[protocol]
        if all("subset" in to["destination"] for to in rule["route"])
    ][-1]
    return found


def routes_at(route: Manifest, port: int, authority: str, *, proxy: str = "mesh") -> list[Manifest]:
    """The HTTP routes that Istio gives a proxy at a port: without any, it takes the Service's own.

    Istio 1.16, route.go: BuildHTTPRoutesForVirtualService. proxy: mesh for a sidecar, or a Gateway.
    Routes for another authority are left out.
    """

    def holds(match: Manifest) -> bool:
        return (
            match.get("port", port) == port
            and proxy in match.get("gateways", [proxy])
            and bool(re.fullmatch(match.get("authority", {}).get("regex", ".*"), authority))
        )

    if proxy not in route.get("gateways", ["mesh"]):
        return []
    return [rule for rule in route["http"] if any(map(holds, rule.get("match", [{}])))]
