"""Invalid paths of services at a gateway: each edit gives one error."""

from typing import Any

import pytest

from config.services import checks as services
from tests.unit.config.test_errors import (
    CHECKOUT,
    GONE,
    Load,
    Values,
    Wrong,
    edited,
    expect,
    refusal,
)

HOST = "shop.example.com"
PATHS, FIRST = f"{CHECKOUT}.paths", f"{CHECKOUT}.paths[0]"
TESTERS = {"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}
NO_DEMO: dict[str, object] = {"demo": {"enabled": False}}


def other(*paths: Values, **more: Any) -> Values:
    """Return another service of the host. more: other keys; None removes one."""
    behind = {"namespace": "shop", "port": 80, "stable": "v1", "gateway": "web", "hosts": [HOST]}
    service = {**behind, **({"paths": list(paths)} if paths else {}), **more}
    return {key: value for key, value in service.items() if value is not None}


def one(**path: Any) -> dict[str, object]:
    return {PATHS: [path]}


WRONG = [
    Wrong(
        "paths without a gateway",
        {PATHS: [{"prefix": "/api"}], f"{CHECKOUT}.gateway": GONE},
        PATHS,
        "paths-without-gateway",
        ("set gateway to one of mesh.gateways",),
    ),
    Wrong(
        "any host without a gateway",
        {f"{CHECKOUT}.hosts": ["*"], f"{CHECKOUT}.gateway": GONE},
        f"{CHECKOUT}.hosts[0]",
        "any-host-without-gateway",
        ("every request in the mesh",),
    ),
    Wrong(
        "any host at a gateway that lists names",
        {f"{CHECKOUT}.hosts": ["*"]},
        f"{CHECKOUT}.hosts[0]",
        "gateway-host-not-accepted",
        ("the gateway web does not accept *",),
    ),
    Wrong(
        "a path without a path",
        one(timeout="3s"),
        FIRST,
        "path-match-count",
        ("the path is missing", "set prefix: /api"),
    ),
    Wrong(
        "prefix and exact",
        one(prefix="/api", exact="/api"),
        FIRST,
        "path-match-count",
        ("prefix and exact are both",),
    ),
    Wrong(
        "a wildcard in a path",
        one(prefix="/static*"),
        f"{FIRST}.prefix",
        "path-wildcard",
        ("'/static*' contains a *", "use prefix: /static"),
    ),
    Wrong(
        "a path without a slash",
        one(prefix="api"),
        f"{FIRST}.prefix",
        "request-path-format",
        ("'api' is not a request path",),
    ),
    Wrong(
        "a redirect of requests that go to the service",
        one(prefix="/old", redirect={"path": "/new"}, timeout="3s", rewrite="/new"),
        FIRST,
        "redirect-with-route",
        ("rewrite and timeout is set together with redirect",),
    ),
    Wrong(
        "a redirect to the same URL",
        one(prefix="/old", redirect={"status": 302}),
        f"{FIRST}.redirect",
        "redirect-empty",
        ("set host, scheme or path",),
    ),
    Wrong(
        "a redirect with another status",
        one(prefix="/old", redirect={"path": "/new", "status": 200}),
        f"{FIRST}.redirect.status",
        "choice-unknown",
        ("301, 302, 303, 307, 308",),
    ),
    Wrong(
        "cookies for every page",
        one(prefix="/", cors={"origins": ["*"], "credentials": True}),
        f"{FIRST}.cors",
        "cors-any-origin-with-credentials",
        ("any web page could act as the user",),
    ),
    Wrong(
        "no origin",
        one(prefix="/", cors={"origins": []}),
        f"{FIRST}.cors",
        "cors-origins-empty",
        ("remove cors",),
    ),
    Wrong(
        "an origin without a scheme",
        one(prefix="/", cors={"origins": ["shop.example.com"]}),
        f"{FIRST}.cors.origins[0]",
        "cors-origin-format",
        ("use https://shop.example.com",),
    ),
    Wrong(
        "a header value of two lines",
        one(prefix="/", headers={"response": {"set": {"x-a": "b\nset-cookie: c"}}}),
        f"{FIRST}.headers.response.set.x-a",
        "header-value-format",
        ("one line of ASCII",),
    ),
    Wrong(
        "an unknown port",
        one(prefix="/admin", port="admin"),
        f"{FIRST}.port",
        "path-port-unknown",
        ("admin is not a name in ports",),
    ),
    Wrong(
        "an opaque port",
        {
            **NO_DEMO,
            f"{CHECKOUT}.port": GONE,
            f"{CHECKOUT}.ports": {"http": 8080, "tcp-db": 5432},
            **one(prefix="/db", port="tcp-db"),
        },
        f"{FIRST}.port",
        "path-port-opaque",
        ("the protocol of port tcp-db is tcp",),
    ),
    Wrong(
        "the same path twice",
        {PATHS: [{"prefix": "/api"}, {"exact": "/api"}, {"prefix": "/api/"}]},
        f"{PATHS}[2]",
        "path-duplicate",
        ("prefix: /api is already a path of checkout", "would never be used"),
    ),
    Wrong(
        "the same path of two services",
        {**one(prefix="/api"), "mesh.services.pay": other({"prefix": "/api", "rewrite": "/"})},
        "mesh.services.pay.paths[0]",
        "path-duplicate",
        ("is already a path of checkout at shop.example.com",),
    ),
    Wrong(
        "two services for all paths of a host",
        {"mesh.services.pay": other({"prefix": "/pay"}), "mesh.services.shop": other()},
        "mesh.services.shop.hosts[0]",
        "service-host-duplicate",
        ("shop.example.com is already a host of checkout", "give one of them paths"),
    ),
    Wrong(
        "a host shared with a service that has no gateway",
        {**one(prefix="/api"), "mesh.services.pay": other(gateway=None)},
        "mesh.services.pay.hosts[0]",
        "service-host-duplicate",
        ("at the same gateway",),
    ),
    Wrong(
        "a pattern of testers below a path",
        {**one(prefix="/api"), f"{CHECKOUT}.testers": [{**TESTERS, "uri": {"regex": "/b.+"}}]},
        f"{CHECKOUT}.testers[0].uri.regex",
        "testers-regex-with-paths",
        ("prefix: /api", "use prefix or exact"),
    ),
    Wrong(
        "tries that do not fit into the path's timeout",
        {**one(prefix="/api", timeout="1s"), f"{CHECKOUT}.retries": {"perTryTimeout": "2s"}},
        FIRST,
        "path-try-timeout-above-timeout",
        ("one try may take 2s, but all tries together may take 1s",),
    ),
    Wrong(
        "paths of connections",
        {
            **NO_DEMO,
            "mesh.gateways.web.tls": {"mode": "PASSTHROUGH"},
            f"{CHECKOUT}.protocol": "tcp",
            **one(prefix="/api"),
        },
        PATHS,
        "tcp-setting-without-effect",
        ("paths is set, but the protocol is tcp",),
    ),
]


@pytest.fixture
def shared_stack(container_stack: Values) -> Values:
    """A stack with a service behind a gateway."""
    container_stack["mesh"]["gateways"] = {"web": {"hosts": [HOST], "tls": {"secret": "shop-tls"}}}
    container_stack["mesh"]["services"]["checkout"] |= {"gateway": "web", "hosts": [HOST]}
    return container_stack


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_an_invalid_path_is_refused(load: Load, shared_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(shared_stack, wrong.edit)), wrong)


def test_services_share_a_host_by_path(load: Load, shared_stack: Values) -> None:
    edit: dict[str, object] = {
        "mesh.services.api": other({"prefix": "/api"}),
        "mesh.services.pay": other({"prefix": "/api/pay"}, {"exact": "/api"}),
    }
    mesh = load(edited(shared_stack, edit)).mesh
    assert mesh.shared_hosts == {("web", HOST): ["checkout", "api", "pay"]}
    assert mesh.by_path == {"checkout", "api", "pay"}


def test_a_host_hides_a_path_of_a_wildcard(load: Load, shared_stack: Values) -> None:
    edit: dict[str, object] = {
        "mesh.gateways.web.hosts": [HOST, "*.example.com"],
        "mesh.services.api": other({"prefix": "/api"}, hosts=["*.example.com"]),
    }
    assert services.warnings(load(edited(shared_stack, edit)).mesh) == [
        "mesh.services.api.paths: prefix: /api does not apply to shop.example.com, which is a host "
        "of checkout; to apply it, add the host to api"
    ]
    edit["mesh.services.api"] = other({"prefix": "/api"}, hosts=[HOST, "*.example.com"])
    assert services.warnings(load(edited(shared_stack, edit)).mesh) == []
