"""Hosts that services share by path: which service, version and path a request gets."""

import re
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.manifests import Manifest, hosts
from config import Mesh
from tests.support.generated_routes import Request, objects, routes_at, text_matches
from tests.support.mocked import run
from tests.unit.conftest import Load, Values

GATEWAYS: Values = {"public": {"hosts": ["shop.example.com", "*.example.com"]}}
HOST = "shop.example.com"
SPLIT = {"stable": "v1", "canary": {"subset": "v2", "weight": 10}}
TESTERS = {"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}


def at(*paths: Values, **more: Any) -> Values:
    """Return a service of the host, with these paths."""
    behind = {"namespace": "shop", "port": 8080, "gateway": "public", "hosts": [HOST]}
    service = {**behind, **SPLIT, "paths": list(paths), **more}
    return {key: value for key, value in service.items() if value is not None}


def mesh_of(**services: Values) -> Mesh:
    return Mesh.model_validate({"gateways": GATEWAYS, "services": services})


class Answer(NamedTuple):
    """Where a request goes: the service, the shares of its versions, its port and path."""

    service: str
    versions: dict[str, int]
    port: int
    path: str


class Gateway:
    """The routes of a mesh at its gateway, merged as Istio merges delegates."""

    def __init__(self, mesh: Mesh) -> None:
        manifests = [m for m in objects(mesh) if m["kind"] == "VirtualService"]
        self.objects = {
            (m["metadata"]["namespace"], m["metadata"]["name"]): m["spec"] for m in manifests
        }

    def rule(self, path: str, host: str = HOST, **headers: str) -> Manifest | None:
        """Return the first route that a request matches, with the path that it matched."""
        (spec,) = (s for s in self.objects.values() if host in s.get("hosts", []))
        matching = routes_at(
            spec, 80, host, proxy="istio-system/public", request=Request(headers, path)
        )
        if not matching:
            return None
        rule = dict(matching[0])
        uris = (match["uri"] for match in rule["match"])
        (uri, *_) = (uri for uri in uris if text_matches(uri, path))
        rule["matched"] = next(iter(uri.values()))
        if "delegate" in rule:
            target = rule.pop("delegate")
            (split,) = self.objects[target["namespace"], target["name"]]["http"]
            assert "match" not in split
            rule |= split
        return rule

    def answer(self, path: str, host: str = HOST, **headers: str) -> Answer | None:
        rule = self.rule(path, host, **headers)
        if rule is None:
            return None
        targets = [to["destination"] for to in rule["route"]]
        (service,) = {to["host"].partition(".")[0] for to in targets}
        (port,) = {to["port"]["number"] for to in targets}
        versions = {to["destination"]["subset"]: to.get("weight", 100) for to in rule["route"]}
        rewritten = path
        if "rewrite" in rule:
            rewritten = rule["rewrite"]["uri"] + path.removeprefix(rule["matched"])
        return Answer(service, versions, port, rewritten)


BOTH = {"v1": 90, "v2": 10}
SHOP_AND_API = mesh_of(
    shop=at(),
    api=at(
        {"prefix": "/api", "rewrite": "/"},
        {"prefix": "/api/v2", "rewrite": "/new/"},
        {"exact": "/health", "port": "admin", "rewrite": "/healthz"},
        port=None,
        ports={"http": 8080, "admin": 9090},
    ),
)


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("/", Answer("shop", BOTH, 8080, "/")),
        ("/apiary", Answer("shop", BOTH, 8080, "/apiary")),
        ("/api", Answer("api", BOTH, 8080, "/")),
        ("/api/", Answer("api", BOTH, 8080, "/")),
        ("/api/carts/7", Answer("api", BOTH, 8080, "/carts/7")),
        ("/api/v2", Answer("api", BOTH, 8080, "/new")),
        ("/api/v2/carts", Answer("api", BOTH, 8080, "/new/carts")),
        ("/health", Answer("api", {"v1": 100}, 9090, "/healthz")),
        ("/health/x", Answer("shop", BOTH, 8080, "/health/x")),
    ],
)
def test_the_most_specific_path_wins(path: str, answer: Answer) -> None:
    assert Gateway(SHOP_AND_API).answer(path) == answer


def test_a_prefix_that_is_an_exact_path_too_has_no_rule_that_is_never_reached() -> None:
    exact = at({"exact": "/api"})
    prefix = at({"prefix": "/api", "rewrite": "/new"}, canary=None, subset=None)
    gateway = Gateway(mesh_of(checkout=exact, cart=prefix))
    (rules,) = (spec["http"] for spec in gateway.objects.values() if HOST in spec.get("hosts", []))
    uris = [uri for rule in rules for uri in (match["uri"] for match in rule["match"])]
    assert uris == [{"exact": "/api"}, {"prefix": "/api/"}]
    answers = [gateway.answer(path) for path in ("/api", "/api/1")]
    assert [answer and answer.service for answer in answers] == ["checkout", "cart"]


def test_a_path_of_no_service_has_no_route() -> None:
    gateway = Gateway(mesh_of(api=at({"prefix": "/api"})))
    assert gateway.answer("/") is None
    assert gateway.answer("/apis") is None


@pytest.mark.parametrize(
    ("condition", "reached", "missed"),
    [
        ({}, {"/api": "/", "/api/x": "/x"}, []),
        ({"uri": {"prefix": "/api/beta"}}, {"/api/beta/x": "/beta/x"}, ["/api", "/api/x"]),
        ({"uri": {"prefix": "/a"}}, {"/api": "/", "/api/x": "/x"}, []),
        ({"uri": {"exact": "/api/beta"}}, {"/api/beta": "/beta"}, ["/api/beta/x", "/api"]),
        ({"uri": {"prefix": "/beta"}}, {}, ["/api", "/api/beta"]),
    ],
)
def test_testers_reach_their_version_below_a_path(
    condition: Values, reached: dict[str, str], missed: list[str]
) -> None:
    api = at({"prefix": "/api", "rewrite": "/"}, testers=[TESTERS | condition])
    gateway = Gateway(mesh_of(api=api))
    for path, rewritten in reached.items():
        answer = gateway.answer(path, **{"x-tester": "yes"})
        assert answer == Answer("api", {"v2": 100}, 8080, rewritten)
        normal = gateway.answer(path)
        assert normal is not None
        assert normal.versions == BOTH
    for path in missed:
        answer = gateway.answer(path, **{"x-tester": "yes"})
        assert answer is not None
        assert answer.versions == BOTH


@pytest.mark.parametrize(("own", "versions"), [("/health", {"v2": 100}), ("/other", BOTH)])
def test_testers_reach_their_version_at_an_exact_path(own: str, versions: Values) -> None:
    api = at({"exact": "/health"}, testers=[TESTERS | {"uri": {"exact": own}}])
    answer = Gateway(mesh_of(api=api)).answer("/health", **{"x-tester": "yes"})
    assert answer is not None
    assert answer.versions == versions


def test_testers_match_a_pattern_where_all_paths_are_the_services() -> None:
    mesh = mesh_of(
        shop=at(testers=[TESTERS | {"uri": {"regex": "/be.+"}}]), api=at({"exact": "/x"})
    )
    answer = Gateway(mesh).answer("/beta", **{"x-tester": "yes"})
    assert answer == Answer("shop", {"v2": 100}, 8080, "/beta")


def weight_edit(weight: int) -> dict[tuple[str, str, str], Manifest]:
    api = at({"prefix": "/api"}, canary={"subset": "v2", "weight": weight})
    manifests = objects(mesh_of(shop=at(), api=api))
    return {(m["kind"], m["metadata"]["namespace"], m["metadata"]["name"]): m for m in manifests}


def test_a_weight_is_in_one_object_only() -> None:
    before, after = weight_edit(10), weight_edit(25)
    assert before.keys() == after.keys()
    assert [key for key in before if before[key] != after[key]] == [
        ("VirtualService", "shop", "api.split")
    ]


def test_a_path_has_its_own_timeout_retries_headers_and_cors() -> None:
    own = {
        "prefix": "/api",
        "timeout": "7s",
        "retries": {"attempts": 1, "retryOn": "503"},
        "headers": {
            "request": {"set": {"X-From": "100%"}, "add": {"x-a": "b"}, "remove": ["x-debug"]},
            "response": {"set": {"cache-control": "no-store"}},
        },
        "cors": {
            "origins": ["https://shop.example.com", "https://*.example.com:8443"],
            "methods": ["GET"],
            "headers": ["x-csrf"],
            "exposeHeaders": ["x-total"],
            "maxAge": "1h",
            "credentials": True,
        },
    }
    api = at(own, {"prefix": "/slow"}, timeout="3s", testers=[TESTERS])
    gateway = Gateway(mesh_of(api=api))
    for headers in ({}, {"x-tester": "yes"}):
        rule = gateway.rule("/api/x", **headers)
        assert rule is not None
        assert (rule["timeout"], rule["retries"]) == ("7s", {"attempts": 1, "retryOn": "503"})
        assert rule["headers"] == {
            # Envoy reads % as the begin of a variable.
            "request": {"set": {"x-from": "100%%"}, "add": {"x-a": "b"}, "remove": ["x-debug"]},
            "response": {"set": {"cache-control": "no-store"}},
        }
        cors = dict(rule["corsPolicy"])
        exact, pattern = cors.pop("allowOrigins")
        assert exact == {"exact": "https://shop.example.com"}
        assert re.fullmatch(pattern["regex"], "https://a.example.com:8443")
        assert not re.fullmatch(pattern["regex"], "https://a.example.com:8443.evil.example")
        assert not re.fullmatch(pattern["regex"], "https://aXexample.com:8443")
        assert cors == {
            "allowMethods": ["GET"],
            "allowCredentials": True,
            "allowHeaders": ["x-csrf"],
            "exposeHeaders": ["x-total"],
            "maxAge": "3600s",
        }
    slow = gateway.rule("/slow")
    assert slow is not None
    assert slow["timeout"] == "3s"
    assert "headers" not in slow
    assert "corsPolicy" not in slow


def test_faults_of_testers_apply_to_paths() -> None:
    fault = {"reason": "drill of 2027-01", "abort": {"percent": 100, "httpStatus": 418}}
    gateway = Gateway(mesh_of(api=at({"prefix": "/api"}, testers=[TESTERS | {"fault": fault}])))
    rule, normal = gateway.rule("/api/x", **{"x-tester": "yes"}), gateway.rule("/api/x")
    assert rule is not None
    assert rule["fault"]["abort"]["httpStatus"] == 418
    assert normal is not None
    assert "fault" not in normal


def test_a_redirect_is_answered_by_the_gateway() -> None:
    redirect = {"host": "new.example.com", "scheme": "https", "path": "/carts", "status": 308}
    rule = Gateway(mesh_of(api=at({"prefix": "/old", "redirect": redirect}))).rule("/old/x")
    assert rule is not None
    assert rule["redirect"] == {
        "authority": "new.example.com",
        "scheme": "https",
        "uri": "/carts",
        "redirectCode": 308,
    }
    assert not {"route", "delegate", "retries"} & rule.keys()


def test_each_host_has_one_object_at_its_gateway() -> None:
    mesh = mesh_of(shop=at(hosts=[HOST, "*.example.com"]), api=at({"prefix": "/api"}, inMesh=False))
    gateway = Gateway(mesh)
    bound = {key: spec["hosts"] for key, spec in gateway.objects.items() if spec.get("gateways")}
    assert bound == {
        ("istio-system", "public.host.shop.example.com"): [HOST],
        ("istio-system", "public.below.example.com"): ["*.example.com"],
    }
    # In the mesh, a service has its own name only.
    assert gateway.objects["shop", "shop"]["hosts"] == ["shop.shop.svc.cluster.local"]
    assert ("shop", "api") not in gateway.objects
    answer = gateway.answer("/api", host="*.example.com")
    assert answer is not None
    assert answer.service == "shop"


def test_no_request_is_without_a_route_while_a_host_becomes_shared(
    load: Load, container_stack: Values
) -> None:
    """The object that had all routes of the service changes after the new ones exist."""
    sections = container_stack["mesh"]
    sections["gateways"] = GATEWAYS
    sections["services"]["api"] = at({"prefix": "/api"})
    recorder, _ = run(load(container_stack | {"demo": {"enabled": False}}))

    def needs(name: str) -> set[str]:
        return set(recorder.options[f"VirtualService {name}"]["depends_on"])

    split, host = "VirtualService shop/api.split", "VirtualService istio-system/public.host."
    assert needs("shop/api.split") >= {"DestinationRule shop/api.v1", "DestinationRule shop/api.v2"}
    assert needs(f"istio-system/public.host.{HOST}") >= {split, "Gateway istio-system/public"}
    assert needs("shop/api") >= {split, f"{host}{HOST}"}


def test_a_service_without_paths_and_with_its_own_host_is_one_object() -> None:
    mesh = mesh_of(shop=at(hosts=["other.example.com"]), api=at({"prefix": "/api"}))
    assert mesh.by_path == {"api"}


@pytest.mark.parametrize(
    ("names", "exported"),
    [
        ([], None),
        (["*"], ["*"]),
        ([".", "istio-system"], [".", "istio-system"]),
        (["shop", "istio-system"], ["shop", "istio-system"]),
        (["istio-system"], ["istio-system", "."]),
    ],
)
def test_a_split_is_visible_to_the_routes_of_its_service(
    names: list[str], exported: list[str] | None
) -> None:
    """Istio ignores a delegate that is not exported to the namespace of the route."""
    mesh = mesh_of(api=at({"prefix": "/api"}, exportTo=names))
    assert hosts.split("api", mesh.services["api"])["spec"].get("exportTo") == exported


def test_a_split_names_its_service() -> None:
    service = SHOP_AND_API.services["api"]
    assert hosts.service_of(hosts.split("api", service)["metadata"]["name"]) == "api"
    assert hosts.service_of(hosts.inside("api", service)["metadata"]["name"]) == "api"


@pytest.mark.parametrize("host", ["*", "*.example.com", "shop.example.com", "a.split"])
def test_only_the_routes_of_a_host_are_named_as_such(host: str) -> None:
    any_host = {"anyHost": "a lab without its own names"} if host == "*" else {}
    gateways: Values = {"public": {"hosts": [host], **any_host}}
    mesh = Mesh.model_validate({"gateways": gateways, "services": {"api": at(hosts=[host])}})
    routes = hosts.at_gateway("public", mesh.gateways["public"], host, mesh.services)
    assert hosts.is_host(routes["metadata"]["name"])
    for name in ("api", "api.split", "public.acme", "egress-partner"):
        assert not hosts.is_host(name)


segments = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda s: "/" + "/".join(s))
entries = st.tuples(st.sampled_from(["prefix", "exact"]), segments)


def expected(path: str, owners: dict[tuple[str, str], str]) -> str | None:
    """Return the service of the most specific entry that a path matches."""
    if ("exact", path) in owners:
        return owners["exact", path]
    while True:
        if ("prefix", path) in owners:
            return owners["prefix", path]
        if path == "/":
            return None
        path = path.rpartition("/")[0] or "/"


@settings(max_examples=200)
@given(
    st.dictionaries(entries, st.sampled_from(["one", "two", "three"]), min_size=1, max_size=8),
    st.lists(segments, min_size=1, max_size=6),
)
def test_every_request_gets_the_service_of_its_most_specific_path(
    owners: dict[tuple[str, str], str], requests: list[str]
) -> None:
    services = {
        name: at(*({kind: path} for (kind, path), owner in owners.items() if owner == name))
        for name in set(owners.values())
    }
    gateway = Gateway(mesh_of(**services))
    for path in [*requests, *(path for _, path in owners)]:
        answer = gateway.answer(path)
        assert (answer and answer.service) == expected(path, owners)
