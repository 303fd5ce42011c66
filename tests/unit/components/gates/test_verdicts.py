"""The canary and STRICT gates with scripted proxies: which edits pass and which fail."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from components.gates import canary, plaintext, scope, stats
from components.gates.inventory import (
    BarePod,
    Inventory,
    Peers,
    Pod,
    Proxy,
    inventory_of,
    parse_peers,
)
from components.manifests.mtls import Modes
from config import Mesh
from config.errors import NordmeshError

CLUSTER = "outbound|8080|v2|checkout.shop.svc.cluster.local"


pytestmark = pytest.mark.usefixtures("clock")

CANARY = Pod(
    name="canary", labels={"app": "shop-checkout", "version": "v2"}, has_proxy=True, is_ready=True
)


@dataclass
class FakeApi:
    """Proxies with one scripted text for each reading, and other pods. The last text repeats."""

    proxies: Sequence[Proxy]
    texts: Mapping[str, Sequence[str | None]]
    peers_of: Mapping[str, Peers | None] = field(default_factory=dict)
    without_sidecar: Mapping[str, str] = field(default_factory=dict)
    other_pods: Sequence[Pod] = (CANARY,)
    bare: Sequence[BarePod] = ()
    objects: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    services: Mapping[str, Any] = field(default_factory=dict)
    _readings: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def inventory(self) -> Inventory:
        return Inventory(
            proxies=self.proxies,
            bare=self.bare,
            without_sidecar=self.without_sidecar,
            with_sidecar={"10.0.0.9": "shop/cart"},
            nodes={"10.0.1.0/24": "worker-1"},
        )

    def items(self, path: str) -> Sequence[Any]:
        return self.objects.get(path.rpartition("/")[2], ())

    def selector(self, namespace: str, service: str) -> Mapping[str, str]:
        return {"app": f"{namespace}-{service}"}

    def service(self, _namespace: str, service: str) -> Mapping[str, Any] | None:
        return self.services.get(service)

    def pods(self, namespace: str) -> list[Pod]:
        proxies = (proxy for proxy in self.proxies if proxy.namespace == namespace)
        return [
            *(Pod(name=p.pod, labels=p.labels, has_proxy=True, is_ready=True) for p in proxies),
            *self.other_pods,
        ]

    def stats(self, proxies: Sequence[Proxy], _filter: str) -> dict[str, str]:
        at = next(self._readings)
        texts = {p.key: self.texts[p.pod][min(at, len(self.texts[p.pod]) - 1)] for p in proxies}
        return {key: text for key, text in texts.items() if text is not None}

    def peers(self, proxy: Proxy, _seconds: int) -> Peers | None:
        return self.peers_of.get(proxy.pod, Peers())


def proxy(pod: str, *, namespace: str = "shop", sidecar: bool = True, **labels: str) -> Proxy:
    return Proxy(
        namespace=namespace,
        pod=pod,
        workload=f"{namespace}/{pod}",
        labels=labels or {"app": pod},
        sidecar=sidecar,
    )


def ignore_progress(_line: str) -> None:
    """Ignore progress."""


# --- statistics ----------------------------------------------------------------------------------


def request_statistics(
    *, ok: int = 0, failed: int = 0, retried: int = 0, slow: int = 0, timeouts: int = 0
) -> str:
    name = f'cluster_name="{CLUSTER}"'
    done = ok + failed + slow
    return f"""\
# TYPE envoy_cluster_upstream_rq_completed counter
envoy_cluster_upstream_rq_completed{{{name}}} {done}
envoy_cluster_upstream_rq_completed{{cluster_name="outbound|8080|v1|other"}} 99999
envoy_cluster_upstream_rq{{response_code_class="5xx",{name}}} {failed}
envoy_cluster_upstream_rq_retry{{{name}}} {retried}
envoy_cluster_upstream_rq_timeout{{{name}}} {timeouts}
envoy_cluster_upstream_rq_time_bucket{{{name},le="10"}} {ok}
envoy_cluster_upstream_rq_time_bucket{{{name},le="25"}} {ok + failed}
envoy_cluster_upstream_rq_time_bucket{{{name},le="100"}} {done}
envoy_cluster_upstream_rq_time_bucket{{{name},le="+Inf"}} {done}
"""


def grpc_statistics(**statuses: int) -> str:
    """gRPC statistics of the canary's sidecar: s14=3 for three responses UNAVAILABLE."""
    lines = [
        f'envoy_cluster_grpc_{name.removeprefix("s")}{{cluster_name="inbound|9090||"}} {count}\n'
        for name, count in statuses.items()
    ]
    outbound = 'envoy_cluster_grpc_14{cluster_name="outbound|9090|v2|else.shop.svc"} 77\n'
    return "".join([*lines, outbound])


def inbound_statistics(
    *, mtls: int = 0, plain: int = 0, is_open: int = 0, tcp: int = 0, port: int = 8080
) -> str:
    handshakes = mtls
    return f"""\
envoy_http_inbound_0_0_0_0_{port}_downstream_cx_total{{}} {mtls + plain}
envoy_http_inbound_0_0_0_0_{port}_downstream_cx_ssl_total{{}} {mtls}
envoy_http_inbound_0_0_0_0_{port}_downstream_cx_active{{}} {is_open}
envoy_http_inbound_0_0_0_0_{port}_downstream_cx_ssl_active{{}} 0
envoy_http_outbound_0_0_0_0_80_downstream_cx_total{{}} 77
envoy_tcp_downstream_cx_total{{tcp_prefix="inbound|9090||"}} {tcp}
envoy_listener_downstream_cx_total{{listener_address="0.0.0.0_15006"}} {mtls + plain + tcp}
envoy_listener_ssl_handshake{{listener_address="0.0.0.0_15006"}} {handshakes}
"""


def test_both_formats_of_port_statistics_are_parsed() -> None:
    by_label = """\
envoy_http_downstream_cx_total{http_conn_manager_prefix="inbound_0.0.0.0_8080"} 5
envoy_http_downstream_cx_ssl_total{http_conn_manager_prefix="inbound_0.0.0.0_8080"} 2
envoy_http_downstream_cx_total{http_conn_manager_prefix="InboundPassthroughClusterIpv4"} 4
envoy_listener_downstream_cx_total{listener_address="0.0.0.0_15006"} 9
"""
    inbound = stats.inbound(by_label)
    assert inbound is not None
    assert inbound.since_start == {"8080": 3, stats.OTHER_PORTS: 4}
    inbound = stats.inbound(inbound_statistics(mtls=3, plain=2, tcp=4))
    assert inbound is not None
    assert inbound.since_start == {"8080": 2, stats.TCP: 4}
    assert inbound.tcp_ports == {"9090"}


def test_missing_statistics_do_not_mean_no_plaintext() -> None:
    assert stats.inbound("envoy_server_live{} 1\n") is None


def test_p99_is_interpolated_in_its_bucket() -> None:
    counters = {"ms<=10": 90, "ms<=20": 98, "ms<=50": 100, "ms<=inf": 100}
    assert stats.quantile(counters, 0.99) == pytest.approx(35)
    assert stats.quantile(counters, 0.5) == pytest.approx(50 / 9)
    assert stats.quantile({"ms<=10": 0, "ms<=inf": 5}, 0.99) == 10
    assert stats.quantile({"ms<=10": 0, "ms<=inf": 0}, 0.99) is None


def test_each_failed_attempt_counts_once() -> None:
    text = request_statistics(ok=94, failed=4, retried=2, timeouts=3)
    metrics = stats.metrics(stats.requests(text, CLUSTER))
    assert (metrics.attempts, metrics.failures) == (100, 6)
    assert metrics.success_rate == pytest.approx(94)
    assert str(metrics).startswith("100 requests, 94% of them succeeded (2 retried, 3 timeouts, ")


def test_counters_of_a_restarted_proxy_start_at_0() -> None:
    assert stats.increase({"completed": 50}, {"completed": 7}) == {"completed": 7}
    assert stats.increase({"completed": 5}, {"completed": 7, "5xx": 1}) == {
        "completed": 2,
        "5xx": 1,
    }


# --- the canary gate -----------------------------------------------------------------------------

GATE = {"minSuccessRate": 95, "maxP99": "50ms", "minRequests": 20, "window": "10s"}


def mesh(**checkout: object) -> Mesh:
    service = {"namespace": "shop", "port": 8080, "stable": "v1", **checkout}
    return Mesh.model_validate(
        {
            "namespaces": {"shop": {}, "legacy": {"mtls": "PERMISSIVE"}},
            "mtlsGate": {"window": "10s"},
            "services": {"checkout": service},
        }
    )


def route(weight: int) -> dict[str, Any]:
    split = [
        {"destination": {"subset": "v1"}, "weight": 100 - weight},
        {"destination": {"subset": "v2"}, "weight": weight},
    ]
    testers = [{"destination": {"subset": "v2"}}]
    return {"spec": {"http": [{"match": [{}], "route": testers}, {"route": split}]}}


def edit(before: int, after: int, gate: object = GATE) -> canary.Raise | None:
    service = mesh(canary={"subset": "v2", "weight": after, "gate": gate}).services["checkout"]
    return canary.raised("checkout", service, route(before), route(after))


def canary_check(readings: Sequence[str | None], *, before: int = 10) -> str:
    change = edit(before, 25)
    assert change is not None
    api: Any = FakeApi([proxy("client")], {"client": readings})
    return canary.check(api, change, ignore_progress)


def grpc_check(client_statistics: str, pod_statistics: str, *, version: str = "v2") -> str:
    """Check a gRPC canary. pod_statistics: those of a pod of the version."""
    trial = {"subset": "v2", "weight": 25, "gate": GATE}
    service = mesh(protocol="grpc", canary=trial).services["checkout"]
    change = canary.raised("checkout", service, route(10), route(25))
    assert change is not None
    labels = {"app": "shop-checkout", "version": version, "pod-template-hash": "5d4f9"}
    pod = replace(proxy("pod"), labels=labels)
    texts = {
        "client": [request_statistics(), client_statistics],
        "pod": [grpc_statistics(), pod_statistics],
    }
    api: Any = FakeApi([proxy("client"), pod], texts)
    return canary.check(api, change, ignore_progress)


@pytest.mark.parametrize(("before", "after"), [(25, 25), (25, 10), (10, 0)])
def test_a_weight_that_is_not_raised_is_not_measured(before: int, after: int) -> None:
    assert edit(before, after) is None


def test_a_canary_without_a_gate_is_not_measured() -> None:
    assert edit(5, 25, None) is None


def test_a_good_canary_passes() -> None:
    measured = canary_check(
        [request_statistics(ok=1000, failed=500), request_statistics(ok=1200, failed=501)]
    )
    assert measured.startswith("canary gate, shop/checkout: v2 had 201 requests, 99.5% of them")


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (request_statistics(ok=90, failed=10), "10 of 100 failed: gate.minSuccessRate is 95%"),
        (request_statistics(ok=90, retried=10), "10 of 100 failed"),
        (request_statistics(ok=98, slow=2), "p99 is 62.5 ms: gate.maxP99 is 50ms"),
        (request_statistics(ok=19), "19 requests are too few: gate.minRequests is 20"),
    ],
)
def test_a_bad_canary_is_refused(after: str, words: str) -> None:
    with pytest.raises(NordmeshError) as caught:
        canary_check([request_statistics(), after])
    text = " ".join(str(caught.value).split())
    assert words in text
    assert "the weight stays 10" in text
    assert "nordmesh canary abort checkout" in text


@pytest.mark.parametrize(
    ("client_statistics", "pod_statistics", "words"),
    [
        (
            request_statistics(ok=100),
            grpc_statistics(s0=80, s13=20),
            "20 of 100 failed: gate.minSuccessRate is 95%",
        ),
        (
            request_statistics(ok=100),
            grpc_statistics(s0=80, s13=20),
            "80% of them succeeded (20 gRPC INTERNAL)",
        ),
        (request_statistics(ok=90, retried=10), grpc_statistics(s0=90, s14=10), "10 of 100 failed"),
        (request_statistics(ok=90, failed=10), grpc_statistics(s0=80, s2=10), "20 of 100 failed"),
        (request_statistics(), grpc_statistics(s0=80, s14=20), "20 of 100 failed"),
        (
            request_statistics(ok=100),
            grpc_statistics(),
            "no proxy counts the gRPC statuses of v2 of shop/checkout, which had 100 requests",
        ),
    ],
)
def test_grpc_errors_in_a_response_200_count_as_failures(
    client_statistics: str, pod_statistics: str, words: str
) -> None:
    with pytest.raises(NordmeshError) as caught:
        grpc_check(client_statistics, pod_statistics)
    assert words in " ".join(str(caught.value).split())


def test_grpc_errors_of_the_caller_are_not_failures() -> None:
    measured = grpc_check(request_statistics(ok=100), grpc_statistics(s0=50, s3=20, s5=20, s16=10))
    assert "100 requests, 100% of them succeeded" in measured


def test_grpc_statistics_of_other_pods_are_ignored() -> None:
    with pytest.raises(NordmeshError, match="no proxy counts the gRPC statuses"):
        grpc_check(request_statistics(ok=100), grpc_statistics(s0=100, s14=50), version="v1")


def test_a_canary_at_weight_0_needs_no_requests() -> None:
    assert "0 requests" in canary_check([request_statistics()], before=0)


def test_requests_of_testers_count_at_weight_0() -> None:
    with pytest.raises(NordmeshError, match="2 of 3 failed"):
        canary_check([request_statistics(), request_statistics(ok=1, failed=2)], before=0)


def test_a_canary_without_statistics_is_refused() -> None:
    with pytest.raises(NordmeshError, match="no proxy of the mesh counts requests to v2"):
        canary_check(["envoy_server_live{} 1\n"])


def test_a_missed_reading_loses_no_requests() -> None:
    readings = [request_statistics(ok=100), None, None, request_statistics(ok=150)]
    assert "v2 had 50 requests" in canary_check(readings)


# --- the STRICT gate -----------------------------------------------------------------------------


def policy(mode: str | None, **ports: str) -> Modes:
    numbers = {name.removeprefix("p"): value for name, value in ports.items()}
    return Modes(mode=mode, ports=numbers)


def change(
    namespace: str = "shop",
    name: str = "default",
    before: Modes | None = None,
    after: Modes | None = None,
) -> scope.Change:
    return scope.Change(
        namespace=namespace,
        name=name,
        before=before or policy("PERMISSIVE"),
        after=after or policy("STRICT"),
    )


def strict_check(api: FakeApi, edit_of_modes: scope.Change, config: Mesh) -> str:
    return plaintext.check(api, edit_of_modes, config, ignore_progress)  # type: ignore[arg-type]


def refusal(api: FakeApi, edit_of_modes: scope.Change, config: Mesh) -> str:
    with pytest.raises(NordmeshError) as caught:
        strict_check(api, edit_of_modes, config)
    return " ".join(str(caught.value).split())


def test_plaintext_is_reported_with_workload_and_client() -> None:
    api = FakeApi(
        [proxy("checkout"), proxy("client")],
        {
            "checkout": [
                inbound_statistics(mtls=5, plain=40),
                inbound_statistics(mtls=9, plain=43),
            ],
            "client": [inbound_statistics(mtls=1, plain=7)],
        },
        {"checkout": Peers(connected=frozenset({"10.0.0.9", "10.0.0.7", "10.0.1.1", "8.8.8.8"}))},
        {"10.0.0.7": "old/importer"},
    )
    text = refusal(api, change(), mesh())
    assert "mesh.namespaces.shop.mtls [gate-plaintext]" in text
    assert "1 of 2 workloads received plaintext in 10s; the mode stays" in text
    assert "shop/checkout: 3 connections to port 8080, from" in text
    assert "old/importer, which has no sidecar" in text
    assert "node worker-1" in text
    assert "8.8.8.8, outside the cluster" in text
    assert "nordmesh:mesh.mtlsGate.override" in text


def test_each_workload_with_plaintext_has_a_line() -> None:
    texts = [inbound_statistics(), inbound_statistics(plain=1)]
    api = FakeApi([proxy("a"), proxy("b")], {"a": texts, "b": texts})
    with pytest.raises(NordmeshError) as caught:
        strict_check(api, change(), mesh())
    indented = [line for line in str(caught.value).splitlines() if line.startswith(" " * 10)]
    assert [line.split()[0] for line in indented[:2]] == ["shop/a:", "shop/b:"]


def test_a_client_with_a_sidecar_that_calls_a_pods_address_is_named() -> None:
    """Its proxy knows no service at that address, so it sends what the application wrote."""
    texts = [inbound_statistics(), inbound_statistics(plain=2)]
    peers = Peers(connected=frozenset({"10.0.0.9"}), recent=frozenset({"10.0.0.7"}))
    api = FakeApi(
        [proxy("checkout")], {"checkout": texts}, {"checkout": peers}, {"10.0.0.7": "old/importer"}
    )
    text = refusal(api, change(), mesh())
    assert "2 connections to port 8080, possibly from shop/cart, whose sidecar sends" in text


def test_short_lived_clients_are_reported_as_possible() -> None:
    api = FakeApi(
        [proxy("checkout")],
        {"checkout": [inbound_statistics(), inbound_statistics(plain=1)]},
        {"checkout": Peers(recent=frozenset({"10.0.0.7", "10.0.1.1"}))},
        {"10.0.0.7": "old/importer"},
    )
    text = refusal(api, change(), mesh())
    assert "1 connection to port 8080, too short to see the client; possibly old/importer" in text
    assert text.count("old/importer") == 1
    assert "node worker-1" not in text


def test_a_connection_opened_before_the_window_counts() -> None:
    api = FakeApi(
        [proxy("checkout")],
        {"checkout": [inbound_statistics(plain=1, is_open=1), inbound_statistics(plain=1)]},
    )
    assert "1 connection to port 8080, from an unknown client" in refusal(api, change(), mesh())


def test_no_plaintext_passes() -> None:
    api = FakeApi(
        [proxy("checkout")],
        {"checkout": [inbound_statistics(plain=7), inbound_statistics(mtls=9, plain=7)]},
    )
    assert "no plaintext to 1 workload in 10s" in strict_check(api, change(), mesh())


def test_an_unfinished_tcp_handshake_is_not_plaintext() -> None:
    during = inbound_statistics(tcp=3).replace("ssl_handshake{", 'ssl_handshake{x="",')
    done = inbound_statistics(mtls=3).replace('inbound|9090||"} 0', 'inbound|9090||"} 3')
    done = done.replace("8080_downstream_cx_total{} 3", "8080_downstream_cx_total{} 0")
    done = done.replace("8080_downstream_cx_ssl_total{} 3", "8080_downstream_cx_ssl_total{} 0")
    api = FakeApi([proxy("db")], {"db": [inbound_statistics()] + [during] * 4 + [done]})
    assert "no plaintext" in strict_check(api, change(), mesh())


def test_plaintext_to_a_tcp_port_counts() -> None:
    api = FakeApi([proxy("db")], {"db": [inbound_statistics(), inbound_statistics(tcp=3)]})
    assert "shop/db: 3 connections to TCP" in refusal(api, change(), mesh())


def test_an_idle_plaintext_connection_to_a_tcp_port_counts() -> None:
    quiet_db = inbound_statistics(tcp=1)
    peers = Peers(open=frozenset({"10.0.0.7", "10.0.0.9"}), connected=frozenset({"10.0.0.7"}))
    api = FakeApi(
        [proxy("db")],
        {"db": [quiet_db]},
        {"db": peers},
        without_sidecar={"10.0.0.7": "old/importer"},
    )
    assert "shop/db: 1 connection to TCP, from old/importer" in refusal(api, change(), mesh())
    with_sidecar = Peers(open=frozenset({"10.0.0.9"}))
    api = FakeApi([proxy("db")], {"db": [quiet_db]}, {"db": with_sidecar})
    assert "no plaintext" in strict_check(api, change(), mesh())


def test_gateways_and_other_namespaces_are_not_in_scope() -> None:
    proxies = [proxy("gw", sidecar=False), proxy("x", namespace="other")]
    api = FakeApi(proxies, {"gw": [""], "x": [""]})
    assert "no running pod in its scope" in strict_check(api, change(), mesh())


def test_the_mesh_mode_excludes_namespaces_with_their_own_mode() -> None:
    proxies = [proxy("a"), proxy("b", namespace="legacy"), proxy("c", namespace="unlisted")]
    texts = [inbound_statistics(), inbound_statistics(plain=1)]
    api = FakeApi(proxies, {"a": texts, "b": texts, "c": texts})
    text = refusal(api, change("istio-system"), mesh())
    assert "2 of 2 workloads" in text
    assert "nordmesh:mesh.mtls [gate-plaintext]" in text
    assert "legacy/b" not in text


def test_ports_with_their_own_mode_are_excluded() -> None:
    config = mesh(mtls={"ports": {8080: "PERMISSIVE"}})
    api = FakeApi(
        [proxy("checkout")], {"checkout": [inbound_statistics(), inbound_statistics(plain=2)]}
    )
    assert "no plaintext" in strict_check(api, change(), config)


def test_a_single_port_becomes_strict() -> None:
    config = mesh(mtls={"ports": {8080: "STRICT"}, "selector": {"app": "checkout"}})
    edit_of_modes = change(name="checkout", before=policy(None), after=policy(None, p8080="STRICT"))
    assert edit_of_modes.makes_strict
    texts = {
        port: [inbound_statistics(port=port), inbound_statistics(plain=2, port=port)]
        for port in (8080, 8081)
    }
    api = FakeApi([proxy("checkout"), proxy("other")], {"checkout": texts[8080], "other": [""]})
    text = refusal(api, edit_of_modes, config)
    assert "mesh.services.checkout.mtls [gate-plaintext]" in text
    assert "1 of 1 workload " in text
    api = FakeApi([proxy("checkout")], {"checkout": texts[8081]})
    assert "no plaintext" in strict_check(api, edit_of_modes, config)


def test_an_unmeasurable_edit_is_refused() -> None:
    api = FakeApi([proxy("checkout")], {"checkout": ["envoy_server_live{} 1\n"]})
    assert "[gate-proxy-outdated]" in refusal(api, change(), mesh())
    api = FakeApi([proxy("checkout")], {"checkout": [None]})
    assert "[gate-proxy-unreadable]" in refusal(api, change(), mesh())


@pytest.mark.parametrize(
    ("before", "after", "strict"),
    [
        (policy("PERMISSIVE"), policy("STRICT"), True),
        (policy(None), policy("STRICT"), True),
        (policy("STRICT"), policy("STRICT"), False),
        (policy("STRICT"), policy("PERMISSIVE"), False),
        (policy("STRICT", p80="PERMISSIVE"), policy("STRICT"), True),
        (policy("STRICT"), policy("STRICT", p80="PERMISSIVE"), False),
    ],
)
def test_edits_that_make_a_mode_strict(before: Modes, after: Modes, strict: bool) -> None:
    assert change(before=before, after=after).makes_strict is strict


def test_disable_to_strict_needs_two_steps() -> None:
    with pytest.raises(NordmeshError, match="write PERMISSIVE and run"):
        plaintext.refuse_from_disable(change(before=policy("DISABLE")))
    plaintext.refuse_from_disable(change())


# --- names of clients ----------------------------------------------------------------------------


def test_addresses_of_the_kernel_are_parsed() -> None:
    peers = parse_peers(
        "open 0901F40A\nended 0000000000000000FFFF00000C01F40A\nrecent 10.244.1.9\n\n"
        "ended B80D0120000000000000000001000000\n"
    )
    assert peers.connected == {"10.244.1.9", "10.244.1.12", "2001:db8::1"}
    assert peers.open == {"10.244.1.9"}
    assert peers.recent == {"10.244.1.9"}


def test_a_workload_is_named_by_the_owner_of_its_pods() -> None:
    def pod(name: str, ip: str, *, args: list[str] | None = None, **spec: Any) -> dict[str, Any]:
        containers: list[dict[str, Any]] = [{"name": "app"}]
        if args:
            containers.append({"name": "istio-proxy", "args": args})
        labels = {"pod-template-hash": "5b7f"}
        owners = [{"name": name.rsplit("-", 1)[0]}]
        return {
            "metadata": {
                "namespace": "shop", "name": name, "labels": labels, "ownerReferences": owners,
            },
            "spec": {"containers": containers, **spec},
            "status": {"podIPs": [{"ip": ip}]},
        }  # fmt: skip

    inventory = inventory_of(
        [
            pod("checkout-v1-5b7f-x2", "10.0.0.2", args=["proxy", "sidecar"]),
            pod("gw-5b7f-y", "10.0.0.3", args=["proxy", "router"]),
            pod("importer-5b7f-z", "10.0.0.4"),
            pod("agent-q", "192.0.2.21", hostNetwork=True),
        ],
        [
            {
                "metadata": {"name": "worker-1"},
                "spec": {"podCIDRs": ["10.0.0.0/24"]},
                "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.21"}]},
            }
        ],
    )
    assert [(p.workload, p.sidecar) for p in inventory.proxies] == [
        ("shop/checkout-v1", True),
        ("shop/gw", False),
    ]
    assert inventory.owner("10.0.0.4") == "shop/importer, which has no sidecar"
    assert inventory.owner("10.0.0.2") is None
    assert inventory.owner("192.0.2.21") == ("node worker-1 (kubelet, or a pod with hostNetwork)")
    assert inventory.owner("10.0.0.1") == inventory.owner("192.0.2.21")
    assert inventory.owner("127.0.0.6") is None
