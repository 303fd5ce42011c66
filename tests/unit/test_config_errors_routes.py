"""Wrong routes, gateways and resilience: each one edit of a good stack, with one clear error."""

import pytest

from config.services import checks as services
from tests.unit.test_config_errors import (
    CHECKOUT,
    GONE,
    Load,
    Values,
    Wrong,
    edited,
    expect,
    refused,
)

GATEWAY = "mesh.gateways.web"
TESTERS = {"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}
OTHER = {"namespace": "shop", "port": 80, "stable": "v1"}

WRONG = [
    # --- testers
    Wrong(
        "testers told by nothing",
        {f"{CHECKOUT}.testers": [{"subset": "v2"}]},
        f"{CHECKOUT}.testers[0]",
        ("nothing says who the testers are", "every request would go to v2"),
    ),
    Wrong(
        "testers of a version that is not there",
        {f"{CHECKOUT}.testers": [{**TESTERS, "subset": "v3"}]},
        f"{CHECKOUT}.testers[0].subset",
        ("v3 is neither the stable subset nor the canary", "503", "one of v1, v2"),
    ),
    Wrong(
        "the same testers twice",
        {f"{CHECKOUT}.testers": [TESTERS, {**TESTERS, "subset": "v1"}]},
        f"{CHECKOUT}.testers[1]",
        ("the condition of testers[0]", "first match wins"),
    ),
    Wrong(
        "header matched in two ways",
        {
            f"{CHECKOUT}.testers": [
                TESTERS,
                {"header": {"name": "a", "exact": "b", "prefix": "b"}, "subset": "v2"},
            ]
        },
        f"{CHECKOUT}.testers[1].header",
        ("exact and prefix are here", "write one of exact, prefix and regex"),
    ),
    Wrong(
        "header matched in no way",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x-tester"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header",
        ("there is no text to match",),
    ),
    Wrong(
        "pseudo-header",
        {f"{CHECKOUT}.testers": [{"header": {"name": ":path", "exact": "/b"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.name",
        ("':path' is not the name of a header", "uri for the path"),
    ),
    Wrong(
        "header with an empty value",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "exact": ""}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.exact",
        ("empty", "requests without the header too"),
    ),
    Wrong(
        "broken pattern",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": "(a"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.regex",
        ("'(a' is not a regular expression", "RE2"),
    ),
    Wrong(
        "pattern that RE2 does not have",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": "a(?!b)"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.regex",
        ("looks ahead", "RE2"),
    ),
    Wrong(
        "pattern that matches everything",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": ".*"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.regex",
        ("matches an empty text", "whatever the weight"),
    ),
    Wrong(
        "every path",
        {f"{CHECKOUT}.testers": [{"uri": {"prefix": "/"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].uri.prefix",
        ("/ is the beginning of every path", "such as /beta"),
    ),
    Wrong(
        "every path by a pattern",
        {f"{CHECKOUT}.testers": [{"uri": {"regex": "/.*"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].uri.regex",
        ("matches the path /",),
    ),
    Wrong(
        "path with a query",
        {f"{CHECKOUT}.testers": [{"uri": {"exact": "/a?b=1"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].uri.exact",
        ("is not the path of a request", "no host, query or spaces"),
    ),
    Wrong(
        "cookie with a space",
        {f"{CHECKOUT}.testers": [{"cookie": {"name": "a", "value": "b c"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].cookie.value",
        ("'b c' is not the value of a cookie",),
    ),
    Wrong(
        "cookie and the header cookie",
        {
            f"{CHECKOUT}.testers": [
                {
                    "cookie": {"name": "a", "value": "b"},
                    "header": {"name": "Cookie", "exact": "a=b"},
                    "subset": "v2",
                }
            ]
        },
        f"{CHECKOUT}.testers[0]",
        ("cookie and the header cookie are both here",),
    ),
    # --- mirror
    Wrong(
        "mirror to the stable version",
        {f"{CHECKOUT}.mirror": {"subset": "v1"}},
        f"{CHECKOUT}.mirror.subset",
        ("v1 is not the canary", "all work twice", "write v2"),
    ),
    Wrong(
        "mirror without a canary",
        {"mesh.services.pay": {**OTHER, "mirror": {"subset": "v2"}}},
        "mesh.services.pay.mirror.subset",
        ("v2 is not the canary", "add canary"),
    ),
    Wrong(
        "mirror of more than all",
        {f"{CHECKOUT}.mirror": {"subset": "v2", "percent": 101}},
        f"{CHECKOUT}.mirror.percent",
        ("101 is not a share in percent", "such as 5 or 0.5"),
    ),
    # --- timeouts, retries, faults
    Wrong(
        "timeout without a unit",
        {f"{CHECKOUT}.timeout": 5},
        f"{CHECKOUT}.timeout",
        ("5 has no unit", "write 5s or 5ms"),
    ),
    Wrong(
        "timeout that is none",
        {f"{CHECKOUT}.timeout": "5 seconds"},
        f"{CHECKOUT}.timeout",
        ("'5 seconds' is not a length of time", "500ms"),
    ),
    Wrong(
        "timeout of nothing",
        {f"{CHECKOUT}.timeout": "0s"},
        f"{CHECKOUT}.timeout",
        ("0s is shorter than 1ms",),
    ),
    Wrong(
        "one try as long as all",
        {f"{CHECKOUT}.timeout": "2s", f"{CHECKOUT}.retries": {"perTryTimeout": "2000ms"}},
        f"{CHECKOUT}.retries.perTryTimeout",
        ("one try may take 2000ms", "all of them together 2s", "no time for another"),
    ),
    Wrong(
        "too many retries",
        {f"{CHECKOUT}.retries": {"attempts": 50}},
        f"{CHECKOUT}.retries.attempts",
        ("50 is not from 0 to 10", "adds to the load"),
    ),
    Wrong(
        "misspelt condition",
        {f"{CHECKOUT}.retries": {"retryOn": "5xx,conect-failure"}},
        f"{CHECKOUT}.retries.retryOn",
        ("'conect-failure' is not a condition", "write connect-failure"),
    ),
    Wrong(
        "fault without a reason",
        {f"{CHECKOUT}.fault": {"abort": {"percent": 10, "httpStatus": 503}}},
        f"{CHECKOUT}.fault.reason",
        ("reason is missing", "why requests are made to fail"),
    ),
    Wrong(
        "short reason",
        {f"{CHECKOUT}.fault": {"reason": "x", "abort": {"percent": 10, "httpStatus": 503}}},
        f"{CHECKOUT}.fault.reason",
        ("'x' is not a reason",),
    ),
    Wrong(
        "fault that is none",
        {f"{CHECKOUT}.fault": {"reason": "drill of 2027-01"}},
        f"{CHECKOUT}.fault",
        ("there is no fault here", "delay, abort or both"),
    ),
    Wrong(
        "fault that is no error",
        {
            f"{CHECKOUT}.fault": {
                "reason": "drill of 2027-01",
                "abort": {"percent": 10, "httpStatus": 200},
            }
        },
        f"{CHECKOUT}.fault.abort.httpStatus",
        ("200 is not from 400 to 599",),
    ),
    # --- choice of pods, circuit breaking, locality
    Wrong(
        "affinity by two marks",
        {f"{CHECKOUT}.affinity": {"header": "x-user", "sourceIp": True}},
        f"{CHECKOUT}.affinity",
        ("2 of cookie, header and sourceIp is here", "write one of"),
    ),
    Wrong(
        "affinity by nothing",
        {f"{CHECKOUT}.affinity": {}},
        f"{CHECKOUT}.affinity",
        ("none of cookie, header and sourceIp is here",),
    ),
    Wrong(
        "affinity and load balancer",
        {f"{CHECKOUT}.affinity": {"sourceIp": True}, f"{CHECKOUT}.loadBalancer": "RANDOM"},
        f"{CHECKOUT}.loadBalancer",
        ("RANDOM is here, and affinity too",),
    ),
    Wrong(
        "unknown load balancer",
        {f"{CHECKOUT}.loadBalancer": "LEAST_CONN"},
        f"{CHECKOUT}.loadBalancer",
        ("'LEAST_CONN' is none of LEAST_REQUEST, ROUND_ROBIN, RANDOM",),
    ),
    Wrong(
        "circuit breaker without limits",
        {f"{CHECKOUT}.connectionPool": {"http": {}}},
        f"{CHECKOUT}.connectionPool",
        ("there is no limit here", "never opens"),
    ),
    Wrong(
        "limit of nothing",
        {f"{CHECKOUT}.connectionPool": {"tcp": {"maxConnections": 0}}},
        f"{CHECKOUT}.connectionPool.tcp.maxConnections",
        ("0 is not from 1", "takes 0 as not set"),
    ),
    Wrong(
        "ejection against health",
        {f"{CHECKOUT}.outlierDetection": {"maxEjectionPercent": 80, "minHealthPercent": 50}},
        f"{CHECKOUT}.outlierDetection",
        ("maxEjectionPercent 80 and minHealthPercent 50", "maxEjectionPercent: 50 or less"),
    ),
    Wrong(
        "shares by locality that do not add up",
        {
            f"{CHECKOUT}.locality": {
                "distribute": [{"from": "oslo/*", "to": {"oslo/*": 80, "bergen/*": 10}}]
            }
        },
        f"{CHECKOUT}.locality.distribute[0]",
        ("add to 90", "add to 100"),
    ),
    Wrong(
        "failover to itself",
        {
            f"{CHECKOUT}.locality": {"failover": [{"from": "oslo", "to": "oslo"}]},
            f"{CHECKOUT}.outlierDetection": {},
        },
        f"{CHECKOUT}.locality.failover[0]",
        ("oslo is to stand in for itself",),
    ),
    Wrong(
        "failover between zones",
        {
            f"{CHECKOUT}.locality": {"failover": [{"from": "oslo/a", "to": "bergen"}]},
            f"{CHECKOUT}.outlierDetection": {},
        },
        f"{CHECKOUT}.locality.failover[0].from",
        ("'oslo/a' is not a region", "write oslo"),
    ),
    Wrong(
        "failover that nothing sets off",
        {f"{CHECKOUT}.locality": {"failover": [{"from": "oslo", "to": "bergen"}]}},
        f"{CHECKOUT}.locality.failover",
        ("failover is here without outlierDetection", "outlierDetection: {}"),
    ),
    Wrong(
        "two ways of locality",
        {
            f"{CHECKOUT}.locality": {
                "failover": [{"from": "oslo", "to": "bergen"}],
                "failoverPriority": ["topology.kubernetes.io/region"],
            },
            f"{CHECKOUT}.outlierDetection": {},
        },
        f"{CHECKOUT}.locality",
        ("failover and failoverPriority are here", "Istio takes one way"),
    ),
    # --- protocol
    Wrong(
        "testers of TCP",
        {
            "mesh.services.db": {
                **OTHER,
                "protocol": "tcp",
                "canary": {"subset": "v2", "weight": 1},
                "testers": [TESTERS],
            }
        },
        "mesh.services.db.testers",
        ("testers is here, and the protocol is tcp", "connections and no requests"),
    ),
    Wrong(
        "a gate of TCP, which counts requests",
        {
            "mesh.services.db": {
                **OTHER,
                "protocol": "tcp",
                "canary": {"subset": "v2", "weight": 1, "gate": {}},
            }
        },
        "mesh.services.db.canary.gate",
        ("canary.gate is here, and the protocol is tcp", "remove canary.gate"),
    ),
    Wrong(
        "retries of TCP",
        {"mesh.services.db": {**OTHER, "protocol": "tcp", "retries": {}}},
        "mesh.services.db.retries",
        ("retries is here, and the protocol is tcp",),
    ),
    Wrong(
        "cookies of TCP",
        {"mesh.services.db": {**OTHER, "protocol": "tcp", "affinity": {"header": "x-user"}}},
        "mesh.services.db.affinity",
        ("affinity is here, and the protocol is tcp", "affinity by sourceIp"),
    ),
    Wrong(
        "the demo as TCP",
        {f"{CHECKOUT}.protocol": "tcp"},
        f"{CHECKOUT}.protocol",
        ("speaks http, not tcp", "demo.enabled"),
    ),
    Wrong(
        "other labels of the demo's pods",
        {f"{CHECKOUT}.selector": {"app.kubernetes.io/name": "checkout"}},
        f"{CHECKOUT}.selector",
        ("has the label app: checkout", "remove selector", "demo.enabled"),
    ),
    Wrong(
        "an empty selector",
        {"mesh.services.db": {**OTHER, "selector": {}}},
        "mesh.services.db.selector",
        ("the selector is empty", "every pod of the namespace"),
    ),
    # --- hosts and where routes hold
    Wrong(
        "URL as host",
        {f"{CHECKOUT}.hosts": ["https://Shop.example.com/"]},
        f"{CHECKOUT}.hosts[0]",
        ("is not a host name", "without scheme, port or path", "write shop.example.com"),
    ),
    Wrong(
        "address as host",
        {f"{CHECKOUT}.hosts": ["192.0.2.1"]},
        f"{CHECKOUT}.hosts[0]",
        ("192.0.2.1 is an address",),
    ),
    Wrong(
        "one host of two services",
        {
            f"{CHECKOUT}.hosts": ["shop.example.com"],
            "mesh.services.pay": {**OTHER, "hosts": ["shop.example.com"]},
        },
        "mesh.services.pay.hosts[0]",
        ("shop.example.com is answered by checkout already",),
    ),
    Wrong(
        "another service's own name",
        {"mesh.services.pay": {**OTHER, "hosts": ["checkout.shop.svc.cluster.local"]}},
        "mesh.services.pay.hosts[0]",
        ("is answered by checkout already",),
    ),
    Wrong(
        "routes that hold nowhere",
        {"mesh.services.pay": {**OTHER, "inMesh": False}},
        "mesh.services.pay.inMesh",
        ("neither in the mesh nor at a gateway",),
    ),
    Wrong(
        "export to no namespace",
        {f"{CHECKOUT}.exportTo": ["shopp"]},
        f"{CHECKOUT}.exportTo[0]",
        ("shopp is not in mesh.namespaces", "write shop, or"),
    ),
    Wrong(
        "export to all and some",
        {f"{CHECKOUT}.exportTo": ["*", "shop"]},
        f"{CHECKOUT}.exportTo",
        ("* is here beside other namespaces",),
    ),
]

BEHIND = [
    Wrong(
        "no such gateway",
        {f"{CHECKOUT}.gateway": "wep"},
        f"{CHECKOUT}.gateway",
        ("there is no wep in mesh.gateways", "write web"),
    ),
    Wrong(
        "no host at the gateway",
        {f"{CHECKOUT}.hosts": GONE},
        f"{CHECKOUT}.hosts",
        ("behind the gateway web without a host", "write hosts: [shop.example.com]"),
    ),
    Wrong(
        "a host that the gateway does not take",
        {f"{CHECKOUT}.hosts": ["shop.example.com", "www.example.org"]},
        f"{CHECKOUT}.hosts[1]",
        ("the gateway web does not take www.example.org", "404"),
    ),
    Wrong(
        "routes that the gateway cannot see",
        {f"{CHECKOUT}.exportTo": ["."]},
        f"{CHECKOUT}.exportTo",
        ("the gateway's namespace istio-system is not here", "404"),
    ),
    Wrong(
        "HTTP inside of TLS",
        {f"{GATEWAY}.tls": {"mode": "PASSTHROUGH"}},
        f"{CHECKOUT}.protocol",
        ("the gateway web hands TLS through", "write protocol: tcp, or mode: SIMPLE"),
    ),
    Wrong(
        "plain TCP at a gateway",
        {
            f"{CHECKOUT}.gateway": GONE,
            f"{CHECKOUT}.hosts": GONE,
            "mesh.services.db": {
                **OTHER,
                "protocol": "tcp",
                "gateway": "web",
                "hosts": ["shop.example.com"],
            },
        },
        "mesh.services.db.gateway",
        ("plain TCP names no host", "mode: PASSTHROUGH"),
    ),
    Wrong(
        "every host",
        {f"{GATEWAY}.hosts": ["*"]},
        GATEWAY,
        ("the host * is here without a reason", "anyHost: <a reason>"),
    ),
    Wrong(
        "a reason for nothing",
        {f"{GATEWAY}.anyHost": "we take them all"},
        GATEWAY,
        ("anyHost is here, and the host * is not",),
    ),
    Wrong(
        "no hosts",
        {f"{GATEWAY}.hosts": []},
        f"{GATEWAY}.hosts",
        ("there is no host here", "such as shop.example.com"),
    ),
    Wrong(
        "unknown ingress gateway",
        {f"{GATEWAY}.ingressGateway": "istio-ingresgateway"},
        f"{GATEWAY}.ingressGateway",
        ("there is no ingress gateway istio-ingresgateway", "write istio-ingressgateway"),
    ),
    Wrong(
        "a port that the ingress gateway has not",
        {f"{GATEWAY}.httpsPort": 8443},
        f"{GATEWAY}.httpsPort",
        ("8443 is no port of istio-ingressgateway", "its ports are 80, 443", "add a port 8443"),
    ),
    Wrong(
        "no ingress gateway at all",
        {"istio.profile": "minimal"},
        f"{GATEWAY}.ingressGateway",
        ("none with profile minimal", "add istio-ingressgateway: {} to istio.ingressGateways"),
    ),
    Wrong(
        "gateway in a strange namespace",
        {f"{GATEWAY}.namespace": "edge"},
        f"{GATEWAY}.namespace",
        ("the namespace edge is not in mesh.namespaces", "Secret"),
    ),
    Wrong(
        "one host at two gateways",
        {"mesh.gateways.www": {"hosts": ["shop.example.com"]}},
        "mesh.gateways.www.hosts[0]",
        ("shop.example.com is a host of web already",),
    ),
    Wrong(
        "no secret",
        {f"{GATEWAY}.tls": {}},
        f"{GATEWAY}.tls",
        ("secret is missing", "needs certificate and key"),
    ),
    Wrong(
        "a secret that nobody reads",
        {f"{GATEWAY}.tls.mode": "PASSTHROUGH", f"{CHECKOUT}.gateway": GONE},
        f"{GATEWAY}.tls",
        ("TLS is handed through", "remove secret"),
    ),
    Wrong(
        "the secret itself",
        {f"{GATEWAY}.tls.secret": "-----BEGIN PRIVATE KEY-----\nhunter2\n"},
        f"{GATEWAY}.tls.secret",
        ("the content of a secret is here, not its name", "in git"),
    ),
    Wrong(
        "secret of another namespace",
        {f"{GATEWAY}.tls.secret": "shop/tls"},
        f"{GATEWAY}.tls.secret",
        ("'shop/tls' is not the name of a Secret", "beside the gateway's pods"),
    ),
    Wrong(
        "old TLS",
        {f"{GATEWAY}.tls.minVersion": "TLSV1_1"},
        f"{GATEWAY}.tls.minVersion",
        ("'TLSV1_1' is none of TLSV1_2, TLSV1_3",),
    ),
    Wrong(
        "two protocols on one port",
        {f"{GATEWAY}.httpsPort": 80},
        GATEWAY,
        ("httpPort and httpsPort are both 80",),
    ),
]


@pytest.fixture
def gateway_stack(container_stack: Values) -> Values:
    """The stack with everything, and its service behind a gateway."""
    container_stack["mesh"]["gateways"] = {
        "web": {"hosts": ["shop.example.com"], "tls": {"secret": "shop-tls"}}
    }
    container_stack["mesh"]["services"]["checkout"] |= {
        "gateway": "web",
        "hosts": ["shop.example.com"],
    }
    return container_stack


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_wrong_routes(load: Load, container_stack: Values, wrong: Wrong) -> None:
    expect(refused(load, edited(container_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", BEHIND, ids=[wrong.name for wrong in BEHIND])
def test_wrong_gateways(load: Load, gateway_stack: Values, wrong: Wrong) -> None:
    error = refused(load, edited(gateway_stack, wrong.edit))
    expect(error, wrong)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize(
    ("edit", "line"),
    [
        (
            {
                f"{CHECKOUT}.mirror": {"subset": "v2", "percent": 5},
                f"{CHECKOUT}.personalData": True,
            },
            "5% of the requests of checkout, which hold personal data, are copied to v2",
        ),
        (
            {
                f"{CHECKOUT}.fault": {
                    "reason": "drill of 2027-01",
                    "abort": {"percent": 1, "httpStatus": 503},
                }
            },
            "requests fail on purpose: drill of 2027-01",
        ),
        (
            {f"{CHECKOUT}.timeout": "2s", f"{CHECKOUT}.retries": {"perTryTimeout": "1s"}},
            "3 tries of 1s do not fit into the timeout of 2s",
        ),
        ({f"{GATEWAY}.tls": GONE}, "clients outside talk to it in plaintext"),
        (
            {f"{GATEWAY}.hosts": ["*"], f"{GATEWAY}.anyHost": "a lab without names"},
            "it answers to every host: a lab without names",
        ),
    ],
)
def test_every_preview_tells_of(
    load: Load, gateway_stack: Values, edit: dict[str, object], line: str
) -> None:
    quiet = load(gateway_stack)
    assert services.warnings(quiet.mesh) == []
    warnings = services.warnings(load(edited(gateway_stack, edit)).mesh)
    assert len(warnings) == 1
    assert line in warnings[0]


def test_a_wrong_tester_hides_no_other_error(load: Load, container_stack: Values) -> None:
    edit: dict[str, object] = {
        f"{CHECKOUT}.testers": [{"subset": "v2"}, {**TESTERS, "subset": 3}],
        f"{CHECKOUT}.mirror": {"subset": "v9", "percent": "half"},
    }
    error = refused(load, edited(container_stack, edit))
    assert sorted(problem.key for problem in error.problems) == [
        f"nordmesh:{CHECKOUT}.mirror.percent",
        f"nordmesh:{CHECKOUT}.mirror.subset",
        f"nordmesh:{CHECKOUT}.testers[0]",
        f"nordmesh:{CHECKOUT}.testers[1].subset",
    ]


def test_a_gateway_of_the_stack_file_takes_hosts(load: Load, gateway_stack: Values) -> None:
    edit: dict[str, object] = {
        "istio.ingressGateways": {"edge": {}},
        f"{GATEWAY}.ingressGateway": "edge",
    }
    assert load(edited(gateway_stack, edit)).mesh.gateways["web"].ingress_gateway == "edge"
