"""Mistakes from stack files that people wrote, each in a file that is otherwise good."""

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from tests.support.remedies import followed
from tests.unit.config.test_errors import GONE, Load, Values, edited, refusal
from tests.unit.config.test_errors_remedies import problems_of
from tests.unit.config.test_every_key import STACKS

CHECKOUT = "mesh.services.checkout"
SEARCH = "mesh.services.search"
BANK = "mesh.egress.hosts.bank"
HOSTS = f"{SEARCH}.hosts"
PATHS = "mesh.services.pages.paths"
SECOND = "mesh.gateways.second"
ISSUER = {"issuer": "https://login.example.no", "audiences": ["shop"]}

Edit = dict[str, object]


def bought(edit: Edit) -> Values:
    return edited(deepcopy(STACKS["bought"]), edit)


def matched(regex: str) -> Edit:
    return {f"{SEARCH}.testers": [{"header": {"name": "x", "regex": regex}, "subset": "v1"}]}


def called_at(path: str) -> Edit:
    """A path that a caller of checkout may request."""
    return {f"{CHECKOUT}.callers": [{"gateway": "istio-ingressgateway", "paths": [path]}]}


def shared(*origins: str, **more: object) -> Edit:
    return {PATHS: [{"prefix": "/api", "cors": {"origins": [*origins], **more}}]}


def redirected(redirect: Mapping[str, object], *others: Edit, prefix: str = "/api") -> Edit:
    return {PATHS: [{"prefix": prefix, "redirect": redirect}, *others]}


REFUSED: list[tuple[Any, str, str]] = [
    # --- null
    ({f"{CHECKOUT}.callers": None}, f"{CHECKOUT}.callers", "value-missing"),
    ({f"{CHECKOUT}.outlierDetection": None}, f"{CHECKOUT}.outlierDetection", "value-missing"),
    ({f"{CHECKOUT}.canary.gate": None}, f"{CHECKOUT}.canary.gate", "value-missing"),
    ({"mesh.gateways.public.tls": None}, "mesh.gateways.public.tls", "value-missing"),
    ({"mesh": None}, "mesh", "mapping-expected"),
    # --- a misspelt name, as `pulumi config set --path` makes it
    (
        {"mesh.services.chekout": {"canary": {"weight": 0}}},
        "mesh.services.chekout",
        "name-unknown",
    ),
    # --- sizes
    (
        {"istio.pilot": {"limits": {"cpu": "200m", "memory": "4Gi"}}},
        "istio.pilot.limits.cpu",
        "pilot-limit-below-profile",
    ),
    (
        {"istio.pilot": {"limits": {"cpu": "1", "memory": "512Mi"}}},
        "istio.pilot.limits.memory",
        "pilot-limit-below-profile",
    ),
    # --- callers
    (
        {
            f"{SEARCH}.protocol": "tcp",
            f"{SEARCH}.callers": [{"service": "cart", "methods": ["GET"]}],
        },
        f"{SEARCH}.callers[0].methods",
        "caller-limits-with-tcp",
    ),
    (
        {f"{SEARCH}.protocol": "tcp", f"{SEARCH}.callers": [{"service": "cart", "paths": ["/a"]}]},
        f"{SEARCH}.callers[0].paths",
        "caller-limits-with-tcp",
    ),
    ({f"{CHECKOUT}.callers": []}, f"{CHECKOUT}.callers", "gateway-not-a-caller"),
    (
        {f"{CHECKOUT}.callers": [{"service": "cart"}]},
        f"{CHECKOUT}.callers",
        "gateway-not-a-caller",
    ),
    (
        {f"{CHECKOUT}.callers": [{"gateway": "inner"}]},
        f"{CHECKOUT}.callers",
        "gateway-not-a-caller",
    ),
    (
        {f"{SEARCH}.exportTo": ["backend"], f"{SEARCH}.callers": [{"service": "cart"}]},
        f"{SEARCH}.exportTo",
        "export-without-caller",
    ),
    (
        {
            f"{SEARCH}.exportTo": ["."],
            f"{SEARCH}.callers": [{"serviceAccount": "backend/reports"}],
        },
        f"{SEARCH}.exportTo",
        "export-without-caller",
    ),
    # --- hosts
    ({HOSTS: ["checkout.shop"]}, f"{HOSTS}[0]", "service-host-duplicate"),
    ({HOSTS: ["checkout.shop.svc"]}, f"{HOSTS}[0]", "service-host-duplicate"),
    ({HOSTS: ["search.shop"]}, f"{HOSTS}[0]", "service-host-duplicate"),
    ({HOSTS: ["*.svc.cluster.local"]}, f"{HOSTS}[0]", "service-host-duplicate"),
    ({HOSTS: ["*.shop"]}, f"{HOSTS}[0]", "service-host-duplicate"),
    ({HOSTS: ["*.backend.svc.cluster.local"]}, f"{HOSTS}[0]", "service-host-inside"),
    ({HOSTS: ["kubernetes.default"]}, f"{HOSTS}[0]", "service-host-inside"),
    ({HOSTS: ["other.shop.svc"]}, f"{HOSTS}[0]", "service-host-inside"),
    ({HOSTS: ["catalog-v2"]}, f"{HOSTS}[0]", "service-host-inside"),
    (
        {HOSTS: ["*.pay.example.com", "a.pay.example.com"]},
        f"{HOSTS}[1]",
        "service-host-covered",
    ),
    (
        {HOSTS: ["a.pay.example.com", "*.example.com"]},
        f"{HOSTS}[1]",
        "service-host-covered",
    ),
    ({HOSTS: ["api.bank.example"]}, f"{HOSTS}[0]", "service-host-outside"),
    ({HOSTS: ["*.bank.example"]}, f"{HOSTS}[0]", "service-host-outside"),
    ({HOSTS: ["a.acquirer.example"]}, f"{HOSTS}[0]", "service-host-outside"),
    # --- what Istio refuses while it is applied
    ({f"{SEARCH}.timeout": "1.0005s"}, f"{SEARCH}.timeout", "duration-fraction"),
    ({f"{SEARCH}.timeout": "1.0005ms"}, f"{SEARCH}.timeout", "duration-fraction"),
    ({f"{SEARCH}.timeout": "100000000h"}, f"{SEARCH}.timeout", "duration-range"),
    (
        {f"{CHECKOUT}.affinity.cookie.ttl": "10000h"},
        f"{CHECKOUT}.affinity.cookie.ttl",
        "cookie-ttl-range",
    ),
    *(
        (
            {f"{SEARCH}.retries": {"retryOn": conditions}},
            f"{SEARCH}.retries.retryOn",
            "retry-condition-unknown",
        )
        for conditions in ("499", "599", "503,499", "5xx,", "")
    ),
    *(
        (matched(regex), f"{SEARCH}.testers[0].header.regex", "regex-not-re2")
        for regex in (r"ab\Z", "(?#c)ab", "a{1,2000}", "(?x)a b", r"\u0041b", "(?>ab)c", "a{,3}b")
    ),
    *(
        (matched(regex), f"{SEARCH}.testers[0].header.regex", "regex-not-re2")
        for regex in (
            "(a{1000}){1000}",
            "((a{100}){100}){100}",
            "(?:b{30}|a{3})x{9}(?i:c{500}){3}",
            "((a{2}){3}b{900}){2}",
            "(a{2,}){501}",
            "(?P<é>x)",
            "[[:foo:]]",
        )
    ),
    (matched("[[:alpha:]]*"), f"{SEARCH}.testers[0].header.regex", "regex-matches-empty"),
    (
        {f"{SEARCH}.testers": [{"uri": {"regex": "/[[:alpha:]]*"}, "subset": "v1"}]},
        f"{SEARCH}.testers[0].uri.regex",
        "path-regex-all",
    ),
    (
        shared("https://a.example.com", maxAge="1.5s"),
        f"{PATHS}[0].cors.maxAge",
        "duration-fraction",
    ),
    (shared("https://a.example.com", maxAge="500ms"), f"{PATHS}[0].cors.maxAge", "max-age-range"),
    # --- what no client sends
    (called_at("/users/{id}"), f"{CHECKOUT}.callers[0].paths[0]", "caller-path-template"),
    (called_at("/blåbær"), f"{CHECKOUT}.callers[0].paths[0]", "path-encoding"),
    (called_at("/two words"), f"{CHECKOUT}.callers[0].paths[0]", "path-encoding"),
    (called_at("/100%"), f"{CHECKOUT}.callers[0].paths[0]", "path-encoding"),
    ({PATHS: [{"prefix": "/users/{id}"}]}, f"{PATHS}[0].prefix", "path-template"),
    ({PATHS: [{"exact": "/blåbær"}]}, f"{PATHS}[0].exact", "path-encoding"),
    *(
        (shared(origin), f"{PATHS}[0].cors.origins[0]", "cors-origin-format")
        for origin in (
            "https://A.example.com",
            "https://a.example.com:443",
            "http://a.example.com:80",
            "a.example.com",
            "null",
        )
    ),
    # --- redirects for ever, and hosts that no port serves
    *(
        (redirected(redirect), f"{PATHS}[0].redirect", "redirect-to-itself")
        for redirect in (
            {"path": "/api"},
            {"path": "/api/v2"},
            {"host": "pages.example.com"},
            {"scheme": "https"},
            {"scheme": "http"},
        )
    ),
    (
        redirected({"path": "/app"}, {"prefix": "/app/x"}, prefix="/"),
        f"{PATHS}[0].redirect",
        "redirect-to-itself",
    ),
    (
        {SECOND: {"hosts": ["a.example.org"], "httpPort": 443}},
        f"{SECOND}.httpPort",
        "gateway-port-protocol",
    ),
    # --- mirrors
    (
        {f"{CHECKOUT}.canary.weight": 100, f"{CHECKOUT}.canary.steps": []},
        f"{CHECKOUT}.mirror",
        "mirror-of-the-canary",
    ),
    # --- addresses
    *(
        (
            {"istio.ingressGateways.outer.expose.addresses": [address]},
            "istio.ingressGateways.outer.expose.addresses[0]",
            code,
        )
        for address, code in (
            ("10.96.0.1", "address-in-cluster-network"),
            ("10.244.7.8", "address-in-cluster-network"),
            ("169.254.1.1", "ipv4-not-a-host"),
            ("240.0.0.1", "ipv4-not-a-host"),
        )
    ),
    ({"kubernetes.podCidr": "10.244.0.0"}, "kubernetes.podCidr", "network-size-missing"),
    *(
        ({f"kubernetes.{key}": network}, f"kubernetes.{key}", "network-not-for-hosts")
        for key in ("podCidr", "serviceCidr")
        for network in ("127.0.0.0/16", "169.254.0.0/16", "224.0.0.0/16", "0.0.0.0/12")
    ),
    ({"kubernetes.endpoint": "localhost"}, "kubernetes.endpoint", "endpoint-inside"),
    ({"kubernetes.endpoint": "api.localhost"}, "kubernetes.endpoint", "endpoint-inside"),
    ({"kubernetes.endpoint": "kubernetes.default.svc"}, "kubernetes.endpoint", "endpoint-inside"),
    ({"kubernetes.endpoint": "a.svc.cluster.local"}, "kubernetes.endpoint", "endpoint-inside"),
    ({"kubernetes.endpoint": "cp-1"}, "kubernetes.endpoint", "endpoint-node-name"),
    *(
        ({"kubernetes.endpoint": host}, "kubernetes.endpoint", "endpoint-of-another-host")
        for host in ("s3.example.no", "login.example.no", "ntp.example.internal")
    ),
    (
        {"artifacts.mirror": "http://api.prod.example.internal:8080"},
        "kubernetes.endpoint",
        "endpoint-of-another-host",
    ),
    ({"kubernetes.publicEndpoint": "localhost"}, "kubernetes.publicEndpoint", "host-name-loopback"),
    ({"host.timeServers": ["localhost"]}, "host.timeServers[0]", "host-name-loopback"),
    # --- logins whose password has a slash, and ports that do not exist
    *(
        ({f"artifacts.{key}": "http://robot:hun/ter2@host:80"}, f"artifacts.{key}", code)
        for key, code in (("mirror", "http-url-login"), ("registry", "http-url-login"))
    ),
    (
        {"artifacts.proxy.url": "http://robot:hun/ter2@host:80"},
        "artifacts.proxy.url",
        "proxy-login",
    ),
    ({"artifacts.mirror": "http://host:99999"}, "artifacts.mirror", "http-url-format"),
    ({"artifacts.mirror": "https://blåbær.no"}, "artifacts.mirror", "http-url-format"),
    *(
        ({"access.oidc.issuerUrl": url}, "access.oidc.issuerUrl", "oidc-issuer-format")
        for url in (
            "https://robot:hun/ter2@login.example.no",
            "https://login.example.no:99999",
            "https://[::1",
        )
    ),
    *(
        (
            {"mesh.gateways.public.jwt.issuers": [{**ISSUER, "jwksUri": url}]},
            "mesh.gateways.public.jwt.issuers[0].jwksUri",
            "jwks-uri-format",
        )
        for url in (
            "https://robot:hun/ter2@login.example.no/jwks.json",
            "https://login.example.no:99999/jwks.json",
            "https://[::1/jwks.json",
            "http://login.example.no/jwks.json",
        )
    ),
    ({f"{BANK}.host": "cart.shop"}, f"{BANK}.host", "egress-host-of-service"),
    # --- namespaces that cannot join, or are not there
    *(
        ({f"{BANK}.namespaces": [name]}, f"{BANK}.namespaces[0]", "namespace-not-in-mesh")
        for name in ("kube-system", "kube-public", "agent")  # agents has no sidecars
    ),
    (
        {"access.roles.viewer": [{"users": ["kari"], "namespaces": ["kube-system"]}]},
        "access.roles.viewer[0].namespaces[0]",
        "access-namespace-unknown",
    ),
    (
        {
            "machines.nodes.worker-1.bastion.address": "10.244.3.4",
            "host.firewall.sshFrom": ["192.0.2.0/24", "10.244.3.4/32"],
        },
        "machines.nodes.worker-1.bastion.address",
        "address-in-cluster-network",
    ),
    # --- settings of kubelet and kube-proxy
    ({"kubernetes.kubelet": {"maxPod": 200}}, "kubernetes.kubelet.maxPod", "component-key-unknown"),
    (
        {"kubernetes.kubelet": {"maxPods": "200"}},
        "kubernetes.kubelet.maxPods",
        "component-value-kind",
    ),
    (
        {"kubernetes.kubelet": {"failSwapOn": 0}},
        "kubernetes.kubelet.failSwapOn",
        "component-value-kind",
    ),
    (
        {"kubernetes.kubeProxy": {"conntrak": {}}},
        "kubernetes.kubeProxy.conntrak",
        "component-key-unknown",
    ),
    (
        {"kubernetes.kubeProxy": {"mode": "ipvz"}},
        "kubernetes.kubeProxy.mode",
        "kube-proxy-mode-unknown",
    ),
    *(
        ({f"kubernetes.{key}": value}, f"kubernetes.{path}", code)
        for key, value, path, code in (
            (
                "kubelet",
                {"evictionHard": {"memory.availble": "5%"}},
                'kubelet.evictionHard["memory.availble"]',
                "component-key-unknown",
            ),
            (
                "kubelet",
                {"logging": {"formt": "json"}},
                "kubelet.logging.formt",
                "component-key-unknown",
            ),
            (
                "kubeProxy",
                {"conntrack": {"maxPerCor": 1}},
                "kubeProxy.conntrack.maxPerCor",
                "component-key-unknown",
            ),
            (
                "kubelet",
                {"cpuManagerPolicy": "Static"},
                "kubelet.cpuManagerPolicy",
                "component-choice-unknown",
            ),
            (
                "kubelet",
                {"tlsMinVersion": "1.2"},
                "kubelet.tlsMinVersion",
                "component-choice-unknown",
            ),
            (
                "kubelet",
                {"shutdownGracePeriod": "5 min"},
                "kubelet.shutdownGracePeriod",
                "component-duration",
            ),
            (
                "kubeProxy",
                {"configSyncPeriod": "30"},
                "kubeProxy.configSyncPeriod",
                "component-duration",
            ),
        )
    ),
    # --- settings of Istio
    *(
        (
            {"istio.tracing.collector": f"zipkin:{port}"},
            "istio.tracing.collector",
            "collector-format",
        )
        for port in (0, 65536, 99999)
    ),
    ({"istio.values": {"pilto": {}}}, "istio.values.pilto", "istio-key-unknown"),
    ({"istio.overlay": {"meshConfg": {}}}, "istio.overlay.meshConfg", "istio-key-unknown"),
    (
        {"istio.overlay": {"meshConfig": {"accesLogFormat": "x"}}},
        "istio.overlay.meshConfig.accesLogFormat",
        "istio-key-unknown",
    ),
    (
        {"istio.overlay": {"meshConfig": {"defaultConfig": {"drainTime": "5s"}}}},
        "istio.overlay.meshConfig.defaultConfig.drainTime",
        "istio-key-unknown",
    ),
    # --- egress
    ({f"{BANK}.host": "kubernetes.default"}, f"{BANK}.host", "egress-host-inside"),
    ({f"{BANK}.host": "coredns.kube-system"}, f"{BANK}.host", "egress-host-inside"),
    (
        {"mesh.egress.hosts.ledger.addresses": ["169.254.169.254"]},
        "mesh.egress.hosts.ledger.addresses[0]",
        "ipv4-not-a-host",
    ),
    *(
        ({f"{BANK}.country": country}, f"{BANK}.country", "country-format")
        for country in ("ZZ", "UK", "EU", "EL", "NOR", "")
    ),
    *(
        ({f"{BANK}.legalBasis": text}, f"{BANK}.legalBasis", "egress-legal-basis")
        for text in ("xxxxxxxxxx", "n/a n/a n/a", "todo, later", "..........", "ababababab")
    ),
]


@pytest.mark.parametrize(("edit", "path", "code"), REFUSED, ids=lambda value: str(value)[:80])
def test_a_mistake_is_refused(load: Load, edit: Edit, path: str, code: str) -> None:
    problems = refusal(load, bought(edit)).problems
    assert [(problem.key, problem.code) for problem in problems] == [(f"nordmesh:{path}", code)]


@pytest.mark.parametrize("edit", [edit for edit, _, _ in REFUSED], ids=lambda edit: str(edit)[:80])
def test_what_an_error_proposes_is_accepted(load: Load, edit: Edit) -> None:
    values = bought(edit)
    for problem in refusal(load, values).problems:
        for corrected in followed(values, problem):
            left = [
                other
                for other in problems_of(load, corrected)
                if other.path[: len(problem.path)] == problem.path
            ]
            assert left == [], f"{problem.fix}\n{left[0]}"


ACCEPTED: list[Any] = [
    {"mesh.namespaces.backend": None},
    {f"{CHECKOUT}.mirror": {"subset": "v2"}},
    {f"{SEARCH}.retries": {"retryOn": 503}},
    {f"{SEARCH}.retries": {"retryOn": "connect-failure,511"}},
    {f"{SEARCH}.protocol": "tcp", f"{SEARCH}.callers": [{"service": "cart", "ports": [8080]}]},
    {f"{SEARCH}.exportTo": ["."], f"{SEARCH}.callers": [{"service": "cart"}]},
    {f"{SEARCH}.timeout": "1.5ms2.5ms"},
    {f"{SEARCH}.timeout": "1.5s"},
    {HOSTS: ["*.example.com"]},
    {HOSTS: ["partner.shop"]},
    {f"{BANK}.host": "partner.shop"},
    {f"{BANK}.country": "SE"},
    {f"{BANK}.country": "AX"},  # Åland
    {f"{BANK}.caSecret": "bank.ca"},
    {
        "mesh.gateways.public.jwt.issuers": [
            {**ISSUER, "jwksUri": "https://login.example.no:443/jwks.json?v=1"}
        ]
    },
    {"istio.tracing.collector": "zipkin:65535"},
    {"artifacts.mirror": "http://[fd00::1]:8080/path/"},
    {"artifacts.proxy.direct": ["localhost", "example.internal"]},
    {"backup.s3.host": "127.0.0.1"},  # a gateway to other storage on each control plane
    {f"{BANK}.legalBasis": "avtale av 2026"},
    {f"{CHECKOUT}.canary": {"subset": "v2", "weight": 100}, f"{CHECKOUT}.mirror.percent": 0},
    {"istio.pilot": {"limits": {"cpu": "500m", "memory": "2Gi"}}},
    {"istio.profile": "demo", "istio.pilot": {"limits": {"cpu": "200m", "memory": "512Mi"}}},
    {"kubernetes.endpoint": "cp-1.prod.example.internal"},
    {"host.firewall.sshFrom": ["0.0.0.0/0"]},
    {"istio.overlay": {"meshConfig": {"default_config": {}, "access_log_format": "x"}}},
    {"istio.values": {"istio_cni": {"enabled": False}, "global": {"logAsJson": True}}},
    {"kubernetes.kubelet": {"maxPods": None, "shutdownGracePeriod": "30s", "kubeReserved": {}}},
    {"kubernetes.kubeProxy": {"mode": "ipvs", "ipvs": {"scheduler": "rr"}}},
    *(
        matched(regex)
        for regex in (r"a\.b\d+[\w-]", "(?i)ab", "(?P<name>a)b", "a{2,1000}?", "[]a]b")
    ),
    *(
        matched(regex)
        for regex in (
            "(a{10}){100}",
            "(?:a{40}|b{3}){25}",
            r"[(]{1000}\({1000}",
            "[[:alpha:]][^[:space:][:digit:]_-]*",
            "((a)){1000}",
        )
    ),
    shared("https://a.example.com", "http://a.example.com:8080", maxAge="1h"),
    called_at("/a(b)/c%20d*"),
    redirected({"path": "/new"}),
    redirected({"host": "new.example.com"}),
    redirected({"scheme": "https", "path": "/new"}),
    redirected({"path": "/app"}, {"prefix": "/app"}, prefix="/"),
    {**redirected({"scheme": "https"}), "mesh.gateways.public.tls": GONE},
    {SECOND: {"hosts": ["a.example.org"], "httpPort": 8081}},
    {SECOND: {"hosts": ["a.example.org"], "tls": {"mode": "PASSTHROUGH"}}},
]


@pytest.mark.parametrize("edit", ACCEPTED, ids=lambda value: str(value)[:80])
def test_a_good_file_is_accepted(load: Load, edit: Edit) -> None:
    assert load(bought(edit))


@pytest.mark.parametrize("version", ["1.5.2", "1.11.4", "1.12.2", "1.23.1", "2.0.0"])
@pytest.mark.parametrize("kubernetes", ["1.23.15", "1.23.17"])
def test_the_proposal_for_an_unknown_istio_fits_the_cluster(
    load: Load, version: str, kubernetes: str
) -> None:
    edit: Edit = {"kubernetes.version": kubernetes, "istio.version": version}
    edit["istio.allowUnsupported"] = GONE
    edit["observability.kiali.enabled"] = False
    (problem,) = refusal(load, bought(edit)).problems
    assert problem.code == "version-not-in-catalogue"
    assert load(bought({**edit, "istio.version": problem.fix.removeprefix("use ")}))


def test_an_unknown_istio_is_one_error(load: Load) -> None:
    edit: Edit = {"istio.version": "1.5.2", "observability.kiali.enabled": True}
    (problem,) = refusal(load, bought(edit)).problems
    assert problem.code == "version-not-in-catalogue"


def test_a_misspelt_name_names_the_other(load: Load) -> None:
    edit: Edit = {"mesh.services.chekout": {"canary": {"weight": 0}}}
    (problem,) = refusal(load, bought(edit)).problems
    assert problem.fix == "move it to checkout, or add namespace, stable"


@pytest.mark.parametrize("name", ["worker-7", "something"])
def test_a_new_name_is_not_taken_for_another(load: Load, name: str) -> None:
    problems = refusal(load, bought({f"machines.nodes.{name}": {}})).problems
    assert "name-unknown" not in {problem.code for problem in problems}


@pytest.mark.parametrize(
    ("edit", "proposal"),
    [
        ({HOSTS: ["blåbær.example.no"]}, "xn--blbr-roah.example.no"),
        ({HOSTS: ["*.Blåbær.no"]}, "*.xn--blbr-roah.no"),
        ({HOSTS: ["https://Kjøp.example.no:8080/x"]}, "xn--kjp-1na.example.no"),
        ({HOSTS: ["a.example.com."]}, "a.example.com"),
        ({f"{BANK}.host": "API.Bank.example."}, "api.bank.example"),
        ({"backup.s3.host": "S3.example.no"}, "s3.example.no"),
        ({"kubernetes.endpoint": "API.example.no"}, "api.example.no"),
        ({f"{BANK}.caSecret": "istio-system/bank-ca"}, "bank-ca"),
        ({"mesh.namespaces.Kjøp": {}}, "kjop"),
        ({f"{SEARCH}.protocol": "https"}, "tcp"),
        ({"machines.nodes.worker-1.architecture": "x86_64"}, "amd64"),
        ({"machines.nodes.worker-1.role": "master"}, "control-plane"),
        ({"mesh.gateways.public.tls.minVersion": "1.2"}, "TLSV1_2"),
        ({f"{CHECKOUT}.retries.retryOn": "5XX"}, "5xx"),
        (called_at("two words"), "/two%20words"),
        (shared("https://A.Example.com/x"), "https://a.example.com"),
    ],
    ids=str,
)
def test_what_people_write_gets_what_they_mean(load: Load, edit: Edit, proposal: str) -> None:
    (problem,) = refusal(load, bought(edit)).problems
    assert problem.fix == f"use {proposal}"


@pytest.mark.parametrize("password", ["hun/ter2", "hun@ter2", "hun:ter2"])
def test_no_password_in_a_url_is_shown(load: Load, password: str) -> None:
    for key in ("istio.hub", f"{BANK}.host", f"{PATHS}[0].cors.origins"):
        edit: Edit = {key: f"https://robot:{password}@host.example/x"}
        if key.startswith(PATHS):
            edit = shared(str(edit[key]))
        text = str(refusal(load, bought(edit)))
        assert not [part for part in re.split("[/@:]", password) if part in text]


@pytest.mark.parametrize(
    ("edit", "fix"),
    [
        (
            {f"{CHECKOUT}.callers": ["cart"]},
            "use a mapping, for example {service: cart}",
        ),
        ({f"{CHECKOUT}.retries": 3}, "use a mapping, for example {attempts: 2}, or remove it"),
        (
            {f"{CHECKOUT}.mtls.ports": [9090]},
            'use a mapping, for example {"9090": PERMISSIVE}, or remove it',
        ),
        (
            {f"{BANK}.ports": [443]},
            "use a mapping, for example {number: 443, protocol: HTTPS}",
        ),
    ],
)
def test_a_list_or_text_in_place_of_a_mapping_gets_an_example(
    load: Load, edit: Edit, fix: str
) -> None:
    (problem,) = refusal(load, bought(edit)).problems
    assert problem.fix == fix


@pytest.mark.parametrize(
    "path", [f"{BANK}.country", f"{BANK}.legalBasis", "machines.nodes.cp-1.hostKey"]
)
def test_no_example_is_proposed_for_a_statement_or_a_host_key(load: Load, path: str) -> None:
    (problem,) = refusal(load, bought({path: GONE})).problems
    key = path.split(".")[-1]
    assert not problem.fix.startswith((f"add {key}: NO", f"add {key}: GDPR", "add hostKey"))


def test_an_entry_without_a_value_in_a_list_does_not_open_it(load: Load) -> None:
    (problem,) = refusal(load, bought({"host.firewall.sshFrom": [None]})).problems
    assert problem.fix.endswith("with an empty list, every network reaches the nodes' SSH")


def test_an_entry_with_a_wildcard_names_the_service_that_it_covers(load: Load) -> None:
    (problem,) = refusal(load, bought({HOSTS: ["*.svc.cluster.local"]})).problems
    assert problem.what.startswith("*.svc.cluster.local covers ")
