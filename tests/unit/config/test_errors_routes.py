"""Invalid routes, gateways and resilience settings: each edit gives one error."""

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

GATEWAY = "mesh.gateways.web"
TESTERS = {"header": {"name": "x-tester", "exact": "yes"}, "subset": "v2"}
OTHER = {"namespace": "shop", "port": 80, "stable": "v1"}

PORTS = {f"{CHECKOUT}.port": GONE, f"{CHECKOUT}.ports": {"http": 8080, "admin": 9090}}
NO_DEMO = {"demo": {"enabled": False}}

WRONG = [
    # --- ports
    Wrong(
        "port and ports",
        {f"{CHECKOUT}.ports": {"http": 8080}},
        CHECKOUT,
        "service-port-count",
        ("port and ports are both", "set port for a single port"),
    ),
    Wrong(
        "neither port nor ports",
        {f"{CHECKOUT}.port": GONE},
        CHECKOUT,
        "service-port-count",
        ("port is missing", "name and number in ports"),
    ),
    Wrong(
        "no port named http",
        {**PORTS, f"{CHECKOUT}.ports": {"web": 8080, "admin": 9090}},
        CHECKOUT,
        "split-port-unknown",
        ("split is missing, and none of admin, web is", "set split to one of admin, web"),
    ),
    Wrong(
        "split of an unknown port",
        {**PORTS, f"{CHECKOUT}.split": "htpp"},
        CHECKOUT,
        "split-port-unknown",
        ("htpp is not a name in ports", "one of admin, http"),
    ),
    Wrong(
        "a service with its namespace",
        {"mesh.services.backend/cart": OTHER},
        'mesh.services["backend/cart"]',
        "service-name-namespace",
        ("is a namespace and a name", "use cart, and set namespace: backend", "set service: cart"),
    ),
    Wrong(
        "a Service with two entries",
        {"mesh.services.basket": {**OTHER, "namespace": "shop", "service": "checkout"}},
        "mesh.services.basket",
        "service-listed-twice",
        ("mesh.services.checkout is the Service shop/checkout too", "and remove basket"),
    ),
    Wrong(
        "the demo's entry for another Service",
        {f"{CHECKOUT}.service": "basket"},
        CHECKOUT,
        "demo-service",
        ("the demo needs the service checkout in shop",),
    ),
    Wrong(
        "a port of the sidecars",
        {**NO_DEMO, f"{CHECKOUT}.port": 15021},
        f"{CHECKOUT}.port",
        "service-port-reserved",
        ("15021 is a port of the sidecars", "use another port in the Service and here"),
    ),
    Wrong(
        "a named port of the sidecars",
        {**PORTS, **NO_DEMO, f"{CHECKOUT}.ports": {"http": 8080, "stats": 15090}},
        f"{CHECKOUT}.ports.stats",
        "service-port-reserved",
        ("15090 is a port of the sidecars",),
    ),
    Wrong(
        "two versions with one subset",
        {f"{CHECKOUT}.stable": "v1.2", f"{CHECKOUT}.canary": {"subset": "v1-2", "weight": 5}},
        f"{CHECKOUT}.canary.subset",
        "version-subset-duplicate",
        ("v1-2 and v1.2 are both the subset v1-2", "for example v1-2-2"),
    ),
    Wrong(
        "a version that no label can be",
        {f"{CHECKOUT}.stable": "v1+build 7"},
        f"{CHECKOUT}.stable",
        "version-format",
        ("'v1+build 7' cannot be the value of a label", "use v1-build-7"),
    ),
    Wrong(
        "a version label that proxies do not report",
        {f"{CHECKOUT}.versionLabel": "release"},
        f"{CHECKOUT}.versionLabel",
        "choice-unknown",
        ("'release' is not one of version, app.kubernetes.io/version",),
    ),
    Wrong(
        "split of the only port",
        {f"{CHECKOUT}.split": "http"},
        CHECKOUT,
        "split-without-ports",
        ("remove split",),
    ),
    Wrong(
        "a port with two names",
        {**PORTS, f"{CHECKOUT}.ports": {"http": 8080, "web": 8080}},
        f"{CHECKOUT}.ports",
        "service-port-duplicate",
        ("http and web are both port 8080",),
    ),
    Wrong(
        "a port out of range",
        {**PORTS, **NO_DEMO, f"{CHECKOUT}.ports": {"http": 8080, "admin": 90900}},
        f"{CHECKOUT}.ports.admin",
        "port-range",
        ("90900 is not a port",),
    ),
    Wrong(
        "protocol of an unknown port",
        {**PORTS, **NO_DEMO, f"{CHECKOUT}.protocols": {"amdin": "grpc"}},
        f"{CHECKOUT}.protocols.amdin",
        "port-protocol-unknown",
        ("amdin is not a name in ports", "use admin"),
    ),
    Wrong(
        "protocols of one port",
        {f"{CHECKOUT}.protocols": {"http": "grpc"}},
        f"{CHECKOUT}.protocols.http",
        "port-protocol-unknown",
        ("use protocol instead",),
    ),
    Wrong(
        "mirror of a split port that is opaque",
        {
            **NO_DEMO,
            f"{CHECKOUT}.port": GONE,
            f"{CHECKOUT}.ports": {"http": 8080, "tcp-cache": 6379},
            f"{CHECKOUT}.split": "tcp-cache",
            f"{CHECKOUT}.mirror": {"subset": "v2"},
            f"{CHECKOUT}.timeout": "3s",
        },
        f"{CHECKOUT}.mirror",
        "tcp-setting-without-effect",
        ("the protocol of port tcp-cache is tcp",),
    ),
    Wrong(
        "caller of an unknown port",
        {
            **PORTS,
            **NO_DEMO,
            f"{CHECKOUT}.callers": [{"serviceAccount": "shop/client", "ports": ["amdin"]}],
        },
        f"{CHECKOUT}.callers[0].ports[0]",
        "caller-port-unknown",
        ("amdin is not in mesh.services.checkout.ports", "use admin"),
    ),
    Wrong(
        "several ports of the demo",
        PORTS,
        f"{CHECKOUT}.ports",
        "demo-ports",
        ("must have one port, not several",),
    ),
    # --- versions
    Wrong(
        "a further version that is the canary",
        {f"{CHECKOUT}.versions": ["v3", "v2"]},
        f"{CHECKOUT}.versions[1]",
        "version-duplicate",
        ("v2 is already a version",),
    ),
    # --- testers
    Wrong(
        "testers without a condition",
        {f"{CHECKOUT}.testers": [{"subset": "v2"}]},
        f"{CHECKOUT}.testers[0]",
        "testers-condition-missing",
        ("every request would go to v2",),
    ),
    Wrong(
        "testers of an unknown version",
        {f"{CHECKOUT}.testers": [{**TESTERS, "subset": "v3"}]},
        f"{CHECKOUT}.testers[0].subset",
        "testers-subset-unknown",
        ("v3 is neither the stable subset, the canary nor", "503", "add versions: [v3]"),
    ),
    Wrong(
        "the same testers twice",
        {f"{CHECKOUT}.testers": [TESTERS, {**TESTERS, "subset": "v1"}]},
        f"{CHECKOUT}.testers[1]",
        "testers-duplicate",
        ("testers[0]", "first match wins"),
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
        "match-count",
        ("exact and prefix are", "set one of exact, prefix and regex"),
    ),
    Wrong(
        "header without a match",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x-tester"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header",
        "match-count",
        ("there is no text to match",),
    ),
    Wrong(
        "pseudo-header",
        {f"{CHECKOUT}.testers": [{"header": {"name": ":path", "exact": "/b"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.name",
        "header-name-format",
        ("':path' is not",),
    ),
    Wrong(
        "header with an empty value",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "exact": ""}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.exact",
        "match-text-format",
        ("empty", "requests without the header"),
    ),
    Wrong(
        "broken pattern",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": "(a"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.regex",
        "regex-syntax",
        ("'(a' is not a regular expression", "RE2"),
    ),
    Wrong(
        "pattern that RE2 does not support",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": "a(?!b)"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.regex",
        "regex-not-re2",
        ("uses (?!, which", "RE2"),
    ),
    *(
        Wrong(
            f"pattern that only Python reads: {pattern}",
            {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": pattern}, "subset": "v2"}]},
            f"{CHECKOUT}.testers[0].header.regex",
            "regex-not-re2",
            (f"uses {part}, which", "RE2"),
        )
        for pattern, part in (
            ("(?<=a)b", "(?<"),
            (r"(a)\1", r"\1"),
            ("(?P<x>a)(?P=x)", "(?P="),
            ("(a)?(?(1)b|c)", "(?("),
            ("a(?#why)", "(?#"),
            ("a++", "++"),
            ("(?>a)", "(?>"),
            ("(?x)a b", "(?x)"),
            (r"yes\Z", r"\Z"),
            (r"\u0061", r"\u"),
            ("a{,3}b", "{,3}"),
        )
    ),
    Wrong(
        "pattern with too many repetitions",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": "a{1,1001}"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.regex",
        "regex-not-re2",
        ("at most 1000 repetitions",),
    ),
    Wrong(
        "pattern that matches everything",
        {f"{CHECKOUT}.testers": [{"header": {"name": "x", "regex": ".*"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].header.regex",
        "regex-matches-empty",
        ("matches an empty text", "whatever the weight"),
    ),
    Wrong(
        "every path",
        {f"{CHECKOUT}.testers": [{"uri": {"prefix": "/"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].uri.prefix",
        "path-prefix-all",
        ("for example /beta",),
    ),
    Wrong(
        "every path by a pattern",
        {f"{CHECKOUT}.testers": [{"uri": {"regex": "/.*"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].uri.regex",
        "path-regex-all",
        ("matches the path /",),
    ),
    Wrong(
        "path with a query",
        {f"{CHECKOUT}.testers": [{"uri": {"exact": "/a?b=1"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].uri.exact",
        "request-path-format",
        ("no host, query or spaces",),
    ),
    Wrong(
        "path with two slashes",
        {f"{CHECKOUT}.testers": [{"uri": {"prefix": "//beta"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].uri.prefix",
        "path-not-normal",
        ("decode and merge slashes", "use /beta"),
    ),
    Wrong(
        "cookie with a space",
        {f"{CHECKOUT}.testers": [{"cookie": {"name": "a", "value": "b c"}, "subset": "v2"}]},
        f"{CHECKOUT}.testers[0].cookie.value",
        "cookie-value-format",
        ("'b c' is not",),
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
        "testers-cookie-twice",
        ("cookie and the header cookie are",),
    ),
    # --- mirror
    Wrong(
        "mirror to the stable version",
        {f"{CHECKOUT}.mirror": {"subset": "v1"}},
        f"{CHECKOUT}.mirror.subset",
        "mirror-subset-not-canary",
        ("v1 is neither the canary nor one of versions", "use v2"),
    ),
    Wrong(
        "mirror without a canary",
        {"mesh.services.pay": {**OTHER, "mirror": {"subset": "v2"}}},
        "mesh.services.pay.mirror.subset",
        "mirror-subset-not-canary",
        ("v2 is neither the canary nor one of versions", "add canary"),
    ),
    Wrong(
        "mirror above 100%",
        {f"{CHECKOUT}.mirror": {"subset": "v2", "percent": 101}},
        f"{CHECKOUT}.mirror.percent",
        "request-share-range",
        ("101 is not a", "for example 5 or 0.5"),
    ),
    # --- timeouts, retries, faults
    Wrong(
        "timeout without a unit",
        {f"{CHECKOUT}.timeout": 5},
        f"{CHECKOUT}.timeout",
        "duration-unit",
        ("5 has no unit", "use 5s or 5ms"),
    ),
    Wrong(
        "invalid timeout",
        {f"{CHECKOUT}.timeout": "5 seconds"},
        f"{CHECKOUT}.timeout",
        "duration-format",
        ("'5 seconds' is not a", "500ms"),
    ),
    Wrong(
        "timeout of 0",
        {f"{CHECKOUT}.timeout": "0s"},
        f"{CHECKOUT}.timeout",
        "duration-range",
        ("0s is outside 1ms to 8760h",),
    ),
    Wrong(
        "a try as long as the timeout",
        {f"{CHECKOUT}.timeout": "2s", f"{CHECKOUT}.retries": {"perTryTimeout": "2000ms"}},
        f"{CHECKOUT}.retries.perTryTimeout",
        "try-timeout-above-timeout",
        (
            "one try may take 2000ms",
            "all tries together may take 2s",
        ),
    ),
    Wrong(
        "too many retries",
        {f"{CHECKOUT}.retries": {"attempts": 50}},
        f"{CHECKOUT}.retries.attempts",
        "attempts-range",
        ("50 is not from 0 to 10",),
    ),
    Wrong(
        "misspelt condition",
        {f"{CHECKOUT}.retries": {"retryOn": "5xx,conect-failure"}},
        f"{CHECKOUT}.retries.retryOn",
        "retry-condition-unknown",
        ("'conect-failure' is not a", "use connect-failure"),
    ),
    Wrong(
        "fault without a reason",
        {f"{CHECKOUT}.fault": {"abort": {"percent": 10, "httpStatus": 503}}},
        f"{CHECKOUT}.fault.reason",
        "key-missing",
        ("reason is missing", "why requests should fail"),
    ),
    Wrong(
        "short reason",
        {f"{CHECKOUT}.fault": {"reason": "x", "abort": {"percent": 10, "httpStatus": 503}}},
        f"{CHECKOUT}.fault.reason",
        "fault-reason",
        ("'x' is not a reason",),
    ),
    Wrong(
        "empty fault",
        {f"{CHECKOUT}.fault": {"reason": "drill of 2027-01"}},
        f"{CHECKOUT}.fault",
        "fault-empty",
        ("delay, abort or both",),
    ),
    Wrong(
        "fault with a success status",
        {
            f"{CHECKOUT}.fault": {
                "reason": "drill of 2027-01",
                "abort": {"percent": 10, "httpStatus": 200},
            }
        },
        f"{CHECKOUT}.fault.abort.httpStatus",
        "error-status-range",
        ("200 is not from 400 to 599",),
    ),
    # --- choice of pods, circuit breaking, locality
    Wrong(
        "affinity by two attributes",
        {f"{CHECKOUT}.affinity": {"header": "x-user", "sourceIp": True}},
        f"{CHECKOUT}.affinity",
        "affinity-count",
        ("2 of cookie, header and sourceIp are", "set one of"),
    ),
    Wrong(
        "affinity without an attribute",
        {f"{CHECKOUT}.affinity": {}},
        f"{CHECKOUT}.affinity",
        "affinity-count",
        ("0 of cookie, header and sourceIp are",),
    ),
    Wrong(
        "affinity and load balancer",
        {f"{CHECKOUT}.affinity": {"sourceIp": True}, f"{CHECKOUT}.loadBalancer": "RANDOM"},
        f"{CHECKOUT}.loadBalancer",
        "load-balancer-with-affinity",
        ("RANDOM is",),
    ),
    Wrong(
        "unknown load balancer",
        {f"{CHECKOUT}.loadBalancer": "LEAST_CONN"},
        f"{CHECKOUT}.loadBalancer",
        "choice-unknown",
        ("of LEAST_REQUEST, ROUND_ROBIN, RANDOM",),
    ),
    Wrong(
        "circuit breaker without limits",
        {f"{CHECKOUT}.connectionPool": {"http": {}}},
        f"{CHECKOUT}.connectionPool",
        "connection-pool-empty",
        ("never opens",),
    ),
    Wrong(
        "limit of 0",
        {f"{CHECKOUT}.connectionPool": {"tcp": {"maxConnections": 0}}},
        f"{CHECKOUT}.connectionPool.tcp.maxConnections",
        "limit-count-range",
        ("0 is not from 1", "0 as not set"),
    ),
    Wrong(
        "ejection against health",
        {f"{CHECKOUT}.outlierDetection": {"maxEjectionPercent": 80, "minHealthPercent": 50}},
        f"{CHECKOUT}.outlierDetection",
        "outlier-shares-conflict",
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
        "distribute-sum",
        ("to 90", "to 100"),
    ),
    Wrong(
        "failover to itself",
        {
            f"{CHECKOUT}.locality": {"failover": [{"from": "oslo", "to": "oslo"}]},
            f"{CHECKOUT}.outlierDetection": {},
        },
        f"{CHECKOUT}.locality.failover[0]",
        "failover-same-region",
        (),
    ),
    Wrong(
        "failover between zones",
        {
            f"{CHECKOUT}.locality": {"failover": [{"from": "oslo/a", "to": "bergen"}]},
            f"{CHECKOUT}.outlierDetection": {},
        },
        f"{CHECKOUT}.locality.failover[0].from",
        "region-format",
        ("'oslo/a' is not a region", "use oslo"),
    ),
    Wrong(
        "failover without outlier detection",
        {f"{CHECKOUT}.locality": {"failover": [{"from": "oslo", "to": "bergen"}]}},
        f"{CHECKOUT}.locality.failover",
        "locality-without-outlier-detection",
        ("without outlierDetection", "outlierDetection: {}"),
    ),
    Wrong(
        "two locality settings",
        {
            f"{CHECKOUT}.locality": {
                "failover": [{"from": "oslo", "to": "bergen"}],
                "failoverPriority": ["topology.kubernetes.io/region"],
            },
            f"{CHECKOUT}.outlierDetection": {},
        },
        f"{CHECKOUT}.locality",
        "locality-ways-count",
        ("failover and failoverPriority are", "Istio"),
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
        "tcp-setting-without-effect",
        ("the protocol is tcp",),
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
        "tcp-setting-without-effect",
        ("the protocol is tcp", "remove canary.gate"),
    ),
    Wrong(
        "retries of TCP",
        {"mesh.services.db": {**OTHER, "protocol": "tcp", "retries": {}}},
        "mesh.services.db.retries",
        "tcp-setting-without-effect",
        ("the protocol is tcp",),
    ),
    Wrong(
        "cookies of TCP",
        {"mesh.services.db": {**OTHER, "protocol": "tcp", "affinity": {"header": "x-user"}}},
        "mesh.services.db.affinity",
        "tcp-setting-without-effect",
        ("the protocol is tcp", "affinity by sourceIp"),
    ),
    Wrong(
        "the demo as TCP",
        {f"{CHECKOUT}.protocol": "tcp"},
        f"{CHECKOUT}.protocol",
        "demo-protocol",
        ("must speak http, not tcp", "demo.enabled"),
    ),
    Wrong(
        "other labels of the demo's pods",
        {f"{CHECKOUT}.selector": {"app.kubernetes.io/name": "checkout"}},
        f"{CHECKOUT}.selector",
        "demo-selector",
        ("the label app: checkout", "remove selector", "demo.enabled"),
    ),
    Wrong(
        "an empty selector",
        {"mesh.services.db": {**OTHER, "selector": {}}},
        "mesh.services.db.selector",
        "selector-empty",
        ("the selector is empty", "every pod of the namespace"),
    ),
    # --- hosts and where routes apply
    Wrong(
        "URL as host",
        {f"{CHECKOUT}.hosts": ["https://Shop.example.com/"]},
        f"{CHECKOUT}.hosts[0]",
        "http-host-format",
        ("is not a host name", "without scheme, port or path", "use shop.example.com"),
    ),
    Wrong(
        "address as host",
        {f"{CHECKOUT}.hosts": ["192.0.2.1"]},
        f"{CHECKOUT}.hosts[0]",
        "http-host-address",
        ("192.0.2.1 is an address",),
    ),
    Wrong(
        "two services with the same host",
        {
            f"{CHECKOUT}.hosts": ["shop.example.com"],
            "mesh.services.pay": {**OTHER, "hosts": ["shop.example.com"]},
        },
        "mesh.services.pay.hosts[0]",
        "service-host-duplicate",
        ("shop.example.com is",),
    ),
    Wrong(
        "another service's own name",
        {"mesh.services.pay": {**OTHER, "hosts": ["checkout.shop.svc.cluster.local"]}},
        "mesh.services.pay.hosts[0]",
        "service-host-duplicate",
        (),
    ),
    Wrong(
        "routes that apply nowhere",
        {"mesh.services.pay": {**OTHER, "inMesh": False}},
        "mesh.services.pay.inMesh",
        "service-without-routes",
        ("the mesh nor at a gateway",),
    ),
    Wrong(
        "export to no namespace",
        {f"{CHECKOUT}.exportTo": ["shopp"]},
        f"{CHECKOUT}.exportTo[0]",
        "export-namespace-unknown",
        ("shopp is not in mesh.namespaces", "use shop, or"),
    ),
    Wrong(
        "export to all and some",
        {f"{CHECKOUT}.exportTo": ["*", "shop"]},
        f"{CHECKOUT}.exportTo",
        "export-all-and-others",
        (),
    ),
]

BEHIND = [
    Wrong(
        "unknown gateway",
        {f"{CHECKOUT}.gateway": "wep"},
        f"{CHECKOUT}.gateway",
        "service-gateway-unknown",
        ("there is no wep in mesh.gateways", "use web"),
    ),
    Wrong(
        "no host at the gateway",
        {f"{CHECKOUT}.hosts": GONE},
        f"{CHECKOUT}.hosts",
        "gateway-service-without-host",
        ("the gateway web", "set hosts: [shop.example.com]"),
    ),
    Wrong(
        "a host that the gateway does not accept",
        {f"{CHECKOUT}.hosts": ["shop.example.com", "www.example.org"]},
        f"{CHECKOUT}.hosts[1]",
        "gateway-host-not-accepted",
        ("the gateway web does not", "404"),
    ),
    Wrong(
        "routes not exported to the gateway",
        {f"{CHECKOUT}.exportTo": ["."]},
        f"{CHECKOUT}.exportTo",
        "export-without-gateway",
        ("the gateway's namespace istio-system is not", "404"),
    ),
    Wrong(
        "HTTP inside of TLS",
        {f"{GATEWAY}.tls": {"mode": "PASSTHROUGH"}},
        f"{CHECKOUT}.protocol",
        "gateway-passthrough-needs-tcp",
        ("the gateway web", "protocol: tcp, or"),
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
        "gateway-tcp-needs-passthrough",
        ("plain TCP", "PASSTHROUGH"),
    ),
    Wrong(
        "every host",
        {f"{GATEWAY}.hosts": ["*"]},
        GATEWAY,
        "any-host-reason-missing",
        ("the host *", "anyHost: <a reason>"),
    ),
    Wrong(
        "an unneeded reason",
        {f"{GATEWAY}.anyHost": "we take them all"},
        GATEWAY,
        "any-host-reason-unneeded",
        ("anyHost is",),
    ),
    Wrong(
        "no hosts",
        {f"{GATEWAY}.hosts": []},
        f"{GATEWAY}.hosts",
        "gateway-hosts-empty",
        ("for example shop.example.com",),
    ),
    Wrong(
        "unknown ingress gateway",
        {f"{GATEWAY}.ingressGateway": "istio-ingresgateway"},
        f"{GATEWAY}.ingressGateway",
        "ingress-gateway-unknown",
        ("there is no ingress gateway istio-ingresgateway", "use istio-ingressgateway"),
    ),
    Wrong(
        "a port that the ingress gateway does not have",
        {f"{GATEWAY}.httpsPort": 8443},
        f"{GATEWAY}.httpsPort",
        "gateway-port-not-open",
        ("port of istio-ingressgateway", "ports are 80, 443", "add a port 8443"),
    ),
    Wrong(
        "no ingress gateway at all",
        {"istio.profile": "minimal"},
        f"{GATEWAY}.ingressGateway",
        "ingress-gateway-unknown",
        ("none with profile minimal", "add istio-ingressgateway: {} to istio.ingressGateways"),
    ),
    Wrong(
        "gateway in another namespace",
        {f"{GATEWAY}.namespace": "edge"},
        f"{GATEWAY}.namespace",
        "gateway-namespace-unknown",
        ("the namespace edge is not in mesh.namespaces", "Secret"),
    ),
    Wrong(
        "two gateways with the same host",
        {"mesh.gateways.www": {"hosts": ["shop.example.com"]}},
        "mesh.gateways.www.hosts[0]",
        "gateway-host-duplicate",
        ("shop.example.com is a",),
    ),
    Wrong(
        "no secret",
        {f"{GATEWAY}.tls": {}},
        f"{GATEWAY}.tls",
        "gateway-secret-missing",
        ("secret is missing",),
    ),
    Wrong(
        "an unused secret",
        {f"{GATEWAY}.tls.mode": "PASSTHROUGH", f"{CHECKOUT}.gateway": GONE},
        f"{GATEWAY}.tls",
        "gateway-secret-with-passthrough",
        ("remove secret",),
    ),
    Wrong(
        "the secret itself",
        {f"{GATEWAY}.tls.secret": "-----BEGIN PRIVATE KEY-----\nhunter2\n"},
        f"{GATEWAY}.tls.secret",
        "secret-name-content",
        ("the content of a secret",),
    ),
    Wrong(
        "secret of another namespace",
        {f"{GATEWAY}.tls.secret": "shop/tls"},
        f"{GATEWAY}.tls.secret",
        "secret-name-format",
        ("'shop/tls' is not the name of a Secret", "the gateway's pods"),
    ),
    Wrong(
        "old TLS",
        {f"{GATEWAY}.tls.minVersion": "TLSV1_1"},
        f"{GATEWAY}.tls.minVersion",
        "choice-unknown",
        ("of TLSV1_2, TLSV1_3",),
    ),
    Wrong(
        "plain HTTP that is redirected and served",
        {f"{GATEWAY}.tls.plainHttp": True},
        f"{GATEWAY}.tls",
        "gateway-http-redirected-and-served",
        ("plainHttp is set, but plain HTTP is redirected", "httpsRedirect: false"),
    ),
    Wrong(
        "challenges without a redirect",
        {f"{GATEWAY}.tls.acme": {}, f"{GATEWAY}.tls.httpsRedirect": False},
        f"{GATEWAY}.tls",
        "gateway-acme-without-redirect",
        ("acme is set, but plain HTTP is not redirected",),
    ),
    Wrong(
        "a gateway with the name of another's challenges",
        {
            f"{GATEWAY}.tls.acme": {},
            "mesh.gateways.web-acme": {"hosts": ["other.example.com"]},
        },
        "mesh.gateways.web-acme",
        "gateway-acme-name",
        ("also the name of the Gateway for the challenges of web", "rename it"),
    ),
    Wrong(
        "a solver without its namespace",
        {f"{GATEWAY}.tls.acme": {"service": "solver"}},
        f"{GATEWAY}.tls.acme.service",
        "full-reference-format",
        ("is not a namespace and a name",),
    ),
    Wrong(
        "plain HTTP beside TLS that is passed through",
        {
            f"{GATEWAY}.tls": {"mode": "PASSTHROUGH", "httpsRedirect": False, "plainHttp": True},
        },
        f"{GATEWAY}.tls",
        "gateway-plain-http-with-passthrough",
        ("protocol tcp, and plain HTTP needs http",),
    ),
    Wrong(
        "two protocols on one port",
        {f"{GATEWAY}.httpsPort": 80},
        GATEWAY,
        "gateway-ports-equal",
        ("httpPort and httpsPort are both 80",),
    ),
]


@pytest.fixture
def gateway_stack(container_stack: Values) -> Values:
    """A stack that sets every section, with its service behind a gateway."""
    container_stack["mesh"]["gateways"] = {
        "web": {"hosts": ["shop.example.com"], "tls": {"secret": "shop-tls"}}
    }
    container_stack["mesh"]["services"]["checkout"] |= {
        "gateway": "web",
        "hosts": ["shop.example.com"],
    }
    return container_stack


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_an_invalid_route_is_refused(load: Load, container_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", BEHIND, ids=[wrong.name for wrong in BEHIND])
def test_an_invalid_gateway_is_refused(load: Load, gateway_stack: Values, wrong: Wrong) -> None:
    error = refusal(load, edited(gateway_stack, wrong.edit))
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
            "5% of the requests of checkout, which contain personal data, are copied to v2",
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
        (
            {
                f"{CHECKOUT}.testers": [
                    {
                        **TESTERS,
                        "fault": {
                            "reason": "drill of 2027-01",
                            "abort": {"percent": 100, "httpStatus": 503},
                        },
                    }
                ]
            },
            "testers[0].fault: their requests fail on purpose: drill of 2027-01",
        ),
        (
            {f"{GATEWAY}.tls.plainHttp": True, f"{GATEWAY}.tls.httpsRedirect": False},
            "mesh.gateways.web: clients outside may use plaintext, because plainHttp is set",
        ),
        ({f"{GATEWAY}.tls": GONE}, "mesh.gateways.web: clients outside use plaintext"),
        (
            {f"{GATEWAY}.hosts": ["*"], f"{GATEWAY}.anyHost": "a lab without names"},
            "it accepts requests for every host: a lab without names",
        ),
    ],
)
def test_risky_routes_give_one_warning(
    load: Load, gateway_stack: Values, edit: dict[str, object], line: str
) -> None:
    valid = load(gateway_stack)
    assert services.warnings(valid.mesh) == []
    warnings = services.warnings(load(edited(gateway_stack, edit)).mesh)
    assert len(warnings) == 1
    assert line in warnings[0]


def test_an_invalid_tester_hides_no_other_error(load: Load, container_stack: Values) -> None:
    edit: dict[str, object] = {
        f"{CHECKOUT}.testers": [{"subset": "v2"}, {**TESTERS, "subset": 3}],
        f"{CHECKOUT}.mirror": {"subset": "v9", "percent": "half"},
    }
    error = refusal(load, edited(container_stack, edit))
    assert sorted(problem.key for problem in error.problems) == [
        f"nordmesh:{CHECKOUT}.mirror.percent",
        f"nordmesh:{CHECKOUT}.mirror.subset",
        f"nordmesh:{CHECKOUT}.testers[0]",
        f"nordmesh:{CHECKOUT}.testers[1].subset",
    ]


def test_a_gateway_may_use_a_declared_ingress_gateway(load: Load, gateway_stack: Values) -> None:
    edit: dict[str, object] = {
        "istio.ingressGateways": {"edge": {}},
        f"{GATEWAY}.ingressGateway": "edge",
    }
    assert load(edited(gateway_stack, edit)).mesh.gateways["web"].ingress_gateway == "edge"
