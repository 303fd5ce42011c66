"""The gates at exactly their limits, and with proxies that restart, come, go or fail."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.gates import canary, plaintext, stats
from components.gates.inventory import Inventory, Peers, Pod, Proxy, inventory_of, pods_of
from components.manifests import hosts
from components.manifests.mtls import Modes
from config.errors import NordmeshError
from tests.unit.components.gates.test_verdicts import (
    CANARY,
    CLUSTER,
    FakeApi,
    change,
    edit,
    grpc_statistics,
    ignore_progress,
    inbound_statistics,
    mesh,
    policy,
    proxy,
    request_statistics,
    route,
)

pytestmark = pytest.mark.usefixtures("clock")

State = Mapping[str, str | None]


@dataclass
class TimedApi:
    """Pods and the statistics of their proxies as a function of time. None: no answer.

    broken: whether the API server fails at a time. ending: pods that are being deleted. down: why
    the proxy of a pod is down. peers_of: the peers of a pod, by default no peers; None if exec is
    refused.
    """

    state: Callable[[float], State]
    broken: Callable[[float], bool] = lambda _now: False
    ending: frozenset[str] = frozenset()
    down: Mapping[str, str] = field(default_factory=dict)
    peers_of: Mapping[str, Peers | None] = field(default_factory=dict)
    without_sidecar: Mapping[str, str] = field(default_factory=dict)
    read_at: list[float] = field(default_factory=list)
    looked: list[tuple[str, int]] = field(default_factory=list)

    def inventory(self) -> Inventory:
        self.read_at.append(time.monotonic())
        if self.broken(time.monotonic()):
            raise NordmeshError("the API server gave no answer", code="gate-no-api-server")
        return Inventory(
            proxies=[
                Proxy(
                    namespace="shop",
                    pod=name,
                    workload=f"shop/{name}",
                    labels={"app": name},
                    sidecar=True,
                    is_ending=name in self.ending,
                    down=self.down.get(name, ""),
                )
                for name in self.state(time.monotonic())
            ],
            without_sidecar=self.without_sidecar,
        )

    def items(self, _path: str) -> list[Any]:
        return []

    def selector(self, namespace: str, service: str) -> Mapping[str, str]:
        return {"app": f"{namespace}-{service}"}

    def pods(self, _namespace: str) -> list[Pod]:
        return [CANARY]

    def stats(self, proxies: list[Proxy], _filter: str) -> dict[str, str]:
        state = self.state(time.monotonic())
        return {p.key: text for p in proxies if (text := state[p.pod]) is not None}

    def peers(self, proxy: Proxy, seconds: int) -> Peers | None:
        self.looked.append((proxy.pod, seconds))
        return self.peers_of.get(proxy.pod, Peers())


def canary_summary(state: Callable[[float], State], before: int = 10, **api: Any) -> str:
    """Run the canary gate with a window from 0 to 10 s. Return its summary."""
    raised = edit(before, 25, {"minSuccessRate": 1.01, "minRequests": 1, "window": "10s"})
    assert raised is not None
    summary = canary.check(TimedApi(state, **api), raised, ignore_progress)  # type: ignore[arg-type]
    return summary.partition("v2 had ")[2]


def assert_requests(state: Callable[[float], State], number: int, **api: Any) -> None:
    assert canary_summary(state, **api).startswith(f"{number} requests")


def strict_summary(state: Callable[[float], State], **options: Any) -> str:
    """Run the STRICT gate with a window from 0 to 10 s. Return its summary."""
    return plaintext.check(TimedApi(state, **options), change(), mesh(), ignore_progress)  # type: ignore[arg-type]


def refusal(check: Callable[..., object], *args: Any, **api: Any) -> str:
    with pytest.raises(NordmeshError) as caught:
        check(*args, **api)
    return " ".join(str(caught.value).split())


# --- the canary gate's limits --------------------------------------------------------------------


def passes(metrics: stats.Metrics, before: int = 10, **gate: object) -> bool:
    """Whether the gate accepts a higher weight with these metrics."""
    raised = edit(before, 25, gate)
    assert raised is not None
    try:
        canary.judge(raised, metrics, known=True)
    except NordmeshError:
        return False
    return True


def metrics(attempts: int, failures: int = 0, p99: float | None = None) -> stats.Metrics:
    return stats.Metrics(attempts=attempts, failures=failures, p99=p99, grpc=0)


@pytest.mark.parametrize(
    ("least", "attempts", "failures"),
    [(95, 100, 5), (99, 100, 1), (99.9, 1000, 1), (94.7, 1000, 53), (93.2, 1000, 68), (100, 9, 0)],
)
def test_a_success_rate_at_the_limit_passes(least: float, attempts: int, failures: int) -> None:
    assert passes(metrics(attempts, failures), minSuccessRate=least, minRequests=1)
    assert not passes(metrics(attempts, failures + 1), minSuccessRate=least, minRequests=1)


def test_a_number_of_requests_at_the_limit_passes() -> None:
    assert passes(metrics(20), minRequests=20)
    assert not passes(metrics(19), minRequests=20)
    assert not passes(metrics(19), before=1, minRequests=20)
    assert passes(metrics(19), before=0, minRequests=20)


def test_a_latency_at_the_limit_passes() -> None:
    assert passes(metrics(100, p99=50.0), maxP99="50ms")
    assert not passes(metrics(100, p99=50.0001), maxP99="50ms")
    assert passes(metrics(100, p99=1e9))
    assert passes(metrics(0, p99=None), before=0, maxP99="50ms")


@pytest.mark.parametrize("of_hundred", [1, 3, 7, 10, 1234])
def test_a_quantile_at_a_bucket_bound_is_exact(of_hundred: int) -> None:
    within = {"ms<=10": 0, "ms<=50": 99 * of_hundred, "ms<=inf": 100 * of_hundred}
    assert stats.quantile(within, 0.99) == 50
    beyond = within | {"ms<=50": 99 * of_hundred - 1, "ms<=100": 100 * of_hundred}
    quantile = stats.quantile(beyond, 0.99)
    assert quantile is not None
    assert quantile > 50


@pytest.mark.parametrize("kind", ["http", "tcp", "tls"])
@pytest.mark.parametrize(
    ("before", "after", "is_measured"),
    [(10, 11, True), (10, 10, False), (10, 9, False), (0, 1, True), (99, 100, True)],
)
def test_a_weight_raised_by_one_percent_is_measured(
    kind: str, before: int, after: int, is_measured: bool
) -> None:
    """Also if the service was a TCP service before."""
    service = mesh(canary={"subset": "v2", "weight": after, "gate": {}}).services["checkout"]
    old = {"spec": {kind: route(before)["spec"]["http"]}}
    raised = canary.raised("checkout", service, old, route(after))
    assert (raised is not None) is is_measured
    if raised is not None:
        assert (raised.before, raised.after) == (before, after)


def test_only_the_weight_of_the_canary_counts() -> None:
    """The weight of the stable subset rises when the weight of the canary falls."""
    service = mesh(canary={"subset": "v2", "weight": 5, "gate": {}}).services["checkout"]
    assert canary.raised("checkout", service, route(50), route(5)) is None
    route_of_v3 = {"spec": {"http": [{"route": [{"destination": {"subset": "v3"}, "weight": 9}]}]}}
    raised = canary.raised("checkout", service, route_of_v3, route(5))
    assert raised is not None
    assert raised.before == 0


@pytest.mark.parametrize(("before", "after"), [(10, 25), (25, 25), (25, 10)])
def test_a_weight_raised_while_a_host_becomes_shared_is_measured(before: int, after: int) -> None:
    """The weight moves to another object, the split of the service."""
    service = mesh(canary={"subset": "v2", "weight": after, "gate": {}}).services["checkout"]
    delegating = hosts.inside("checkout", service)
    raised = canary.raised("checkout", service, route(before), delegating)
    assert (raised and (raised.before, raised.after)) == ((10, 25) if after > before else None)
    assert canary.raised("checkout", service, delegating, delegating) is None


def test_only_requests_in_the_window_count() -> None:
    """10 requests per second: 100 in 10 s, read every 2.5 s."""
    assert_requests(lambda now: {"client": request_statistics(ok=1000 + int(10 * now))}, 100)


def test_a_long_window_is_read_every_5_s() -> None:
    api = TimedApi(lambda _now: {"client": request_statistics(ok=1)})
    raised = edit(0, 25, {"window": "1m"})
    assert raised is not None
    assert " in 1m" in canary.check(api, raised, ignore_progress)  # type: ignore[arg-type]
    assert api.read_at == [5.0 * step for step in range(13)]


# --- the canary gate: restarts, new and deleted proxies ------------------------------------------


def test_a_restarted_proxy_counts_from_0() -> None:
    """500 requests before the window, 30 in it before the restart and 40 after it."""
    assert_requests(
        lambda now: {"client": request_statistics(ok=500 + 30 * (now > 0) if now < 5 else 40)}, 70
    )


def test_any_counter_that_drops_means_a_restart() -> None:
    """After the restart there are more requests than before it, but fewer failures."""
    after = request_statistics(ok=600, failed=2)
    before = request_statistics(ok=500, failed=9)
    assert canary_summary(lambda now: {"client": before if now < 5 else after}).startswith(
        "602 requests, 99.67% of them succeeded (2 5xx)"
    )


def test_new_or_unchanged_counters_do_not_mean_a_restart() -> None:
    assert stats.increase({"a": 5, "b": 0}, {"a": 5, "c": 2}) == {"a": 0, "c": 2}
    assert stats.increase({"a": 5}, {}) == {}


def test_a_proxy_started_in_the_window_counts_from_0() -> None:
    old = request_statistics(ok=900)
    assert_requests(
        lambda now: {"old": old} | ({"new": request_statistics(ok=33)} if now >= 5 else {}), 33
    )


def test_a_new_proxy_with_a_late_answer_counts_from_0() -> None:
    old = {"old": request_statistics(ok=900)}
    late: dict[float, State] = {0.0: old, 2.5: {**old, "new": None}}
    assert_requests(lambda now: late.get(now, {**old, "new": request_statistics(ok=33)}), 33)


def test_the_last_reading_of_a_deleted_proxy_counts() -> None:
    others = {"rest": request_statistics(ok=900)}
    assert_requests(
        lambda now: others | ({"gone": request_statistics(ok=int(now))} if now < 8 else {}), 7
    )


def test_requests_of_all_proxies_are_added() -> None:
    assert_requests(
        lambda now: {
            "a": request_statistics(ok=int(now)),
            "b": request_statistics(ok=2 * int(now)),
        },
        30,
    )


# --- the canary gate: unreadable proxies and API server ------------------------------------------


@pytest.mark.parametrize(
    "is_blind", [lambda _now: True, lambda now: now >= 5, lambda now: now < 60]
)
def test_an_unreadable_proxy_stops_the_canary(is_blind: Callable[[float], bool]) -> None:
    def state(now: float) -> State:
        text_of_seen = request_statistics(ok=int(10 * now))
        return {
            "seen": text_of_seen,
            "hidden": None if is_blind(now) else request_statistics(ok=10),
        }

    text = refusal(canary_summary, state)
    assert "shop/hidden cannot be read; the weight stays 10" in text
    assert "shop/seen" not in text
    assert "port 15090" in text


@pytest.mark.parametrize("is_blind", [lambda now: now < 3, lambda now: 10 <= now < 13])
def test_a_short_proxy_failure_does_not_stop_the_canary(is_blind: Callable[[float], bool]) -> None:
    """The window begins with the first complete reading."""
    window_start = [0.0]

    def state(now: float) -> State:
        if is_blind(now):
            return {"client": None}
        window_start[0] = window_start[0] or now
        return {"client": request_statistics(ok=1000 if now == window_start[0] else 1077)}

    assert_requests(state, 77)


def test_an_outdated_proxy_stops_the_canary() -> None:
    text = refusal(
        canary_summary, lambda now: {"new": request_statistics(ok=int(10 * now)), "old": "\n"}
    )
    assert "shop/old do not keep" in text
    assert "the weight stays 10" in text
    assert "kubectl rollout restart" in text


def test_an_ending_pod_counts_from_its_first_answer() -> None:
    def state(now: float) -> State:
        text = request_statistics(ok=500 + int(now)) if 3 <= now < 9 else None
        return {"client": request_statistics(ok=int(now)), "leaving": text}

    assert_requests(state, 10 + 2, ending=frozenset({"leaving"}))


def test_a_proxy_that_is_down_is_reported_as_not_measured() -> None:
    """It carries no requests, so the gate does not wait for it."""
    text = canary_summary(
        lambda now: {"client": request_statistics(ok=int(now)), "lost": None, "new": None},
        down={"lost": "node worker-2 is not ready", "new": "its proxy is not ready"},
    )
    assert text.startswith("10 requests")
    assert text.endswith(
        "; not measured: shop/lost (node worker-2 is not ready), shop/new (its proxy is not ready)"
    )
    assert time.monotonic() == 10


def test_a_proxy_that_recovers_counts_from_its_first_answer() -> None:
    """Without a reading at the start, its earlier requests may be older than the window."""

    def state(now: float) -> State:
        text = request_statistics(ok=500 + int(now)) if now > 3 else None
        return {"client": request_statistics(ok=int(now)), "back": text}

    assert_requests(state, 10 + 5, down={"back": "its proxy is not ready"})


def test_a_proxy_that_is_down_but_answers_counts() -> None:
    text = canary_summary(
        lambda now: {"client": request_statistics(ok=int(now))}, down={"client": "not ready"}
    )
    assert text.startswith("10 requests")
    assert "not measured" not in text


@pytest.mark.parametrize("ending", [False, True])
def test_a_proxy_that_is_down_stops_the_strict_gate_unless_its_pod_is_ending(
    *, ending: bool
) -> None:
    """Its pod would refuse plaintext, and its plaintext clients are unknown."""
    pods = {"web": inbound_statistics(), "lost": None}
    api: dict[str, Any] = {"down": {"lost": "node worker-2 is not ready"}}
    if ending:
        assert "no plaintext" in strict_summary(
            lambda _now: pods, ending=frozenset({"lost"}), **api
        )
    else:
        assert "shop/lost cannot be read" in refusal(strict_summary, lambda _now: pods, **api)


def test_only_the_first_unreadable_proxies_are_named() -> None:
    hidden: State = {f"hidden-{number}": None for number in range(7)}
    text = refusal(canary_summary, lambda _now: hidden)
    names = ", ".join(f"shop/hidden-{number}" for number in range(5))
    assert f"the proxies of {names} and 2 more cannot be read" in text


def breaks_once(at: float) -> tuple[list[float], Callable[[float], bool]]:
    """The times at which an API server failed, and whether it fails now: once, at this time."""
    failed: list[float] = []

    def broken(now: float) -> bool:
        if now == at and not failed:
            failed.append(now)
            return True
        return False

    return failed, broken


@pytest.mark.parametrize("at", [0.0, 2.5, 10.0])
def test_the_canary_gate_retries_the_api_server_once(at: float) -> None:
    failed, broken = breaks_once(at)
    assert_requests(
        lambda now: {"client": request_statistics(ok=7 * (now > 2.5))}, 7, broken=broken
    )
    assert failed


@pytest.mark.parametrize("since", [0, 5])
def test_an_api_server_that_keeps_failing_stops_the_canary(since: int) -> None:
    text = refusal(
        canary_summary,
        lambda now: {"client": request_statistics(ok=int(now))},
        broken=lambda now: now >= since,
    )
    assert "the API server gave no answer" in text
    assert time.monotonic() < 30


# --- the STRICT gate -----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2.5, 10.0])
def test_one_connection_in_the_window_is_plaintext(at: float) -> None:
    text = refusal(strict_summary, lambda now: {"web": inbound_statistics(plain=7 + (now >= at))})
    assert "shop/web: 1 connection to port 8080" in text


def test_a_connection_after_the_window_does_not_count() -> None:
    assert "no plaintext" in strict_summary(lambda now: {"web": inbound_statistics(plain=now > 10)})


def test_plaintext_after_a_restart_counts_from_0() -> None:
    text = refusal(
        strict_summary, lambda now: {"web": inbound_statistics(plain=7 if now < 5 else 2)}
    )
    assert "2 connections to port 8080" in text


def test_plaintext_to_a_new_pod_counts_from_0() -> None:
    others = {"web": inbound_statistics()}
    text = refusal(
        strict_summary,
        lambda now: others | ({"new": inbound_statistics(plain=4)} if now >= 5 else {}),
    )
    assert "shop/new: 4 connections" in text
    assert "1 of 2 workloads" in text


def test_plaintext_to_a_new_pod_with_a_late_answer_counts_from_0() -> None:
    others: State = {"web": inbound_statistics()}
    late: dict[float, State] = {0.0: others, 2.5: {**others, "new": None}}
    text = refusal(
        strict_summary, lambda now: late.get(now, {**others, "new": inbound_statistics(plain=4)})
    )
    assert "shop/new: 4 connections" in text


def test_plaintext_to_a_deleted_pod_is_ignored() -> None:
    restarted = {"old": inbound_statistics(plain=9)}
    assert "no plaintext" in strict_summary(
        lambda now: (
            {"web": inbound_statistics()}
            | ({"old": inbound_statistics()} if now < 1 else restarted if now < 4 else {})
        )
    )


def test_open_mtls_connections_are_not_plaintext() -> None:
    with_mtls = inbound_statistics(mtls=5, is_open=2).replace("ssl_active{} 0", "ssl_active{} 2")
    assert "no plaintext" in strict_summary(lambda _now: {"web": with_mtls})


def test_an_open_connection_without_mtls_is_plaintext() -> None:
    one_without = inbound_statistics(mtls=5, is_open=3).replace("ssl_active{} 0", "ssl_active{} 2")
    assert "1 connection to port 8080" in refusal(strict_summary, lambda _now: {"web": one_without})


@pytest.mark.parametrize(
    "is_blind", [lambda _now: True, lambda now: now >= 5, lambda now: now < 60]
)
def test_an_unreadable_pod_stays_permissive(is_blind: Callable[[float], bool]) -> None:
    text = refusal(
        strict_summary,
        lambda now: {"web": inbound_statistics(), "x": None if is_blind(now) else ""},
    )
    assert "shop/x" in text
    assert "shop/web" not in text
    assert "mesh.namespaces.shop.mtls [gate-" in text
    assert "the mode stays as it was" in text


def test_outdated_proxies_are_named() -> None:
    text = refusal(
        strict_summary, lambda _now: {"web": inbound_statistics(), "old": "envoy_server_live{} 1"}
    )
    assert "shop/old do not keep" in text
    assert time.monotonic() < 10


@pytest.mark.parametrize("plain", [0, 1])
@pytest.mark.parametrize("at", [0.0, 2.5, 10.0])
def test_the_strict_gate_retries_the_api_server_once(at: float, plain: int) -> None:
    failed, broken = breaks_once(at)

    def state(now: float) -> State:
        return {"web": inbound_statistics(plain=3 + (plain if now > 2.5 else 0))}

    if plain:
        assert "1 connection" in refusal(strict_summary, state, broken=broken)
    else:
        assert "no plaintext" in strict_summary(state, broken=broken)
    assert failed


@pytest.mark.parametrize("since", [0, 5])
def test_an_api_server_that_keeps_failing_stops_the_strict_gate(since: int) -> None:
    text = refusal(
        strict_summary, lambda _now: {"web": inbound_statistics()}, broken=lambda now: now >= since
    )
    assert "the API server gave no answer" in text


# --- the STRICT gate: idle TCP -------------------------------------------------------------------

STRANGER = Peers(open=frozenset({"10.0.0.7"}), connected=frozenset({"10.0.0.7"}))
IMPORTER = {"10.0.0.7": "old/importer"}
QUIET_DB = inbound_statistics(tcp=1)


def test_peers_of_every_tcp_pod_are_read() -> None:
    """Also with more pods than can be read at once."""
    pods = {f"db-{number}": QUIET_DB for number in range(100)}
    api = TimedApi(lambda _now: pods, peers_of={"db-99": STRANGER}, without_sidecar=IMPORTER)
    with pytest.raises(NordmeshError, match="shop/db-99: 1 connection to TCP, from old/importer"):
        plaintext.check(api, change(), mesh(), ignore_progress)  # type: ignore[arg-type]
    assert sorted(name for name, _ in api.looked) == sorted(pods)
    assert all(seconds >= 3 for _, seconds in api.looked)


def test_a_tcp_pod_without_exec_is_refused() -> None:
    text = refusal(
        strict_summary,
        lambda _now: {"db": QUIET_DB, "web": inbound_statistics()},
        peers_of={"db": None},
    )
    assert "the open connections of shop/db cannot be listed" in text
    assert "mesh.namespaces.shop.mtls [gate-" in text
    assert "the mode stays as it was" in text
    assert "kubectl exec" in text
    assert "nordmesh:mesh.mtlsGate.override" in text


def test_a_pod_without_tcp_needs_no_exec() -> None:
    """Its proxy counts all open connections."""
    blind: Mapping[str, Peers | None] = {"web": None, "leaving": None}
    assert "no plaintext" in strict_summary(
        lambda _now: {"web": inbound_statistics()}, peers_of=blind
    )
    state = {"web": inbound_statistics(), "leaving": QUIET_DB}
    assert "no plaintext" in strict_summary(
        lambda _now: state, peers_of=blind, ending=frozenset({"leaving"})
    )


def test_plaintext_of_unknown_clients_is_refused() -> None:
    text = refusal(
        strict_summary,
        lambda now: {"web": inbound_statistics(plain=now > 0), "db": QUIET_DB},
        peers_of={"web": None, "db": None},
    )
    assert "shop/web: 1 connection to port 8080, from an unknown client" in text


@pytest.mark.parametrize("peers", [Peers(), STRANGER, None])
def test_peers_of_a_tcp_pod_after_the_window_are_read(peers: Peers | None) -> None:
    """It appears after the window, in the second that the gate waits for handshakes."""
    with_mtls = inbound_statistics(tcp=1).replace('_15006"} 0', '_15006"} 1')

    def state(now: float) -> State:
        handshake = inbound_statistics(tcp=5) if 9 < now <= 10 else inbound_statistics()
        return {"web": handshake} | ({"db": with_mtls} if now > 10 else {})

    if peers == Peers():
        assert "no plaintext" in strict_summary(state)
    else:
        assert "shop/db" in refusal(strict_summary, state, peers_of={"db": peers})


def test_an_open_connection_to_http_or_tcp_is_refused() -> None:
    """HTTP on 8080 stays PERMISSIVE, TCP becomes STRICT, and a client uses one of them."""
    config = mesh(mtls={"ports": {8080: "PERMISSIVE"}, "selector": {"app": "db"}})
    text = inbound_statistics(plain=1, is_open=1, tcp=1)

    def check(open_to: Peers) -> str:
        api = TimedApi(
            lambda _now: {"db": text}, peers_of={"db": open_to}, without_sidecar=IMPORTER
        )
        return plaintext.check(api, change(), config, ignore_progress)  # type: ignore[arg-type]

    assert "shop/db have open connections without mTLS" in refusal(check, STRANGER)
    assert "no plaintext" in check(Peers())


def test_ports_that_are_already_strict_are_not_measured() -> None:
    edit_of_modes = change(before=policy("STRICT", p8080="PERMISSIVE"), after=policy("STRICT"))
    assert edit_of_modes.makes_port_strict("8080")
    assert not edit_of_modes.makes_port_strict("9090")
    api: Any = TimedApi(lambda now: {"web": inbound_statistics(plain=now > 0, port=9090)})
    assert "no plaintext" in plaintext.check(api, edit_of_modes, mesh(), ignore_progress)


def test_a_port_whose_exception_is_removed_becomes_strict() -> None:
    edit_of_modes = change(
        name="checkout",
        before=policy("STRICT", p8080="PERMISSIVE"),
        after=policy("STRICT"),
    )
    api: Any = TimedApi(lambda now: {"shop-checkout": inbound_statistics(plain=now > 0)})
    config = mesh(mtls={"mode": "STRICT"}, selector={"app": "shop-checkout"})
    assert "1 connection to port 8080" in refusal(
        plaintext.check, api, edit_of_modes, config, ignore_progress
    )


def test_only_the_cluster_of_the_canary_counts() -> None:
    text = request_statistics(ok=5)
    assert stats.requests(text, CLUSTER)["completed"] == 5
    assert stats.requests(text, CLUSTER.replace("v2", "v3")) == {}


# --- parsing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_requested"),
    [
        ("cluster.outbound|8080|v2|checkout.shop.svc.cluster.local.upstream_rq_completed", True),
        ("cluster.inbound|9090||.grpc.14", True),
        ("listener.0.0.0.0_15006.downstream_cx_total", True),
        ("cluster.outbound|8080|v1|checkout.shop.svc.cluster.local.upstream_rq_completed", False),
        ("cluster.outbound|9090|v2|checkout.shop.svc.cluster.local.upstream_rq_completed", False),
    ],
)
def test_the_canary_gate_requests_only_its_statistics(name: str, is_requested: bool) -> None:
    filters = []

    class RecordingApi(TimedApi):
        def stats(self, proxies: list[Proxy], filter_: str) -> dict[str, str]:
            filters.append(filter_)
            return super().stats(proxies, filter_)

    raised = edit(0, 25)
    assert raised is not None
    recording = RecordingApi(lambda _now: {"client": request_statistics()})
    canary.check(recording, raised, ignore_progress)  # type: ignore[arg-type]
    assert (re.search(filters[0], name) is not None) is is_requested


def test_both_formats_of_5xx_are_parsed() -> None:
    by_name = f'envoy_cluster_upstream_rq_5xx{{cluster_name="{CLUSTER}"}} 3\n'
    by_label = f'envoy_cluster_upstream_rq{{cluster_name="{CLUSTER}",response_code_class="5xx"}} 3'
    assert stats.requests(by_name, CLUSTER) == stats.requests(by_label, CLUSTER) == {"5xx": 3}
    assert stats.requests(by_label.replace('"5xx"', '"4xx"'), CLUSTER) == {}


@pytest.mark.parametrize("status", range(17))
def test_grpc_statuses_that_count_as_failures(status: int) -> None:
    """google/rpc/code.proto maps these statuses to HTTP 5xx."""
    text = "".join(
        f'envoy_cluster_grpc_{status}{{cluster_name="inbound|{port}||"}} 2\n' for port in (1, 2)
    )
    metrics = stats.metrics(stats.grpc_answers(text))
    assert (metrics.attempts, metrics.grpc) == (4, 4)
    assert metrics.failures == (4 if status in (2, 4, 12, 13, 14, 15) else 0)


def test_outbound_grpc_of_the_canary_is_ignored() -> None:
    assert stats.grpc_answers('envoy_cluster_grpc_14{cluster_name="outbound|1|v2|x"} 9') == {}


def test_a_pod_in_another_namespace_is_not_the_canary() -> None:
    raised = edit(10, 25, {"minRequests": 1, "window": "10s"})
    assert raised is not None
    other = proxy("pod", namespace="other", app="shop-checkout", version="v2")
    texts = {
        "client": [request_statistics(), request_statistics(ok=9)],
        "pod": [grpc_statistics(), grpc_statistics(s14=9)],
    }
    api: Any = FakeApi([proxy("client"), other], texts)
    assert "100% of them succeeded" in canary.check(api, raised, ignore_progress)


def test_outbound_connections_are_ignored() -> None:
    outbound = """\
envoy_http_downstream_cx_total{http_conn_manager_prefix="outbound_0.0.0.0_80"} 9
envoy_tcp_downstream_cx_total{tcp_prefix="outbound|5432||db"} 9
envoy_listener_downstream_cx_total{listener_address="0.0.0.0_15001"} 18
envoy_listener_ssl_handshake{listener_address="0.0.0.0_15001"} 9
"""
    assert stats.inbound(outbound) is None
    assert stats.inbound('envoy_listener_ssl_handshake{listener_address="0.0.0.0_15006"} 1') is None
    inbound = stats.inbound(outbound + inbound_statistics(tcp=2))
    assert inbound is not None
    assert inbound.since_start == {"8080": 0, stats.TCP: 2}


def test_handshakes_over_ipv4_and_ipv6_are_added() -> None:
    text = inbound_statistics(tcp=3)
    for address in ("0.0.0.0_15006", "[::]_15006"):
        line = f'envoy_listener_ssl_handshake{{listener_address="{address}"}}'
        text = text.replace(line + " 0", "") + f"{line} 2\n"
    inbound = stats.inbound(text)
    assert inbound is not None
    assert inbound.since_start[stats.TCP] == 0


def test_invalid_lines_of_statistics_are_skipped() -> None:
    text = "<html>Sign in</html>\nhello world\na NaN\n# TYPE b counter\nb{} 1\nc 1.5e+3\n"
    assert [(sample.name, sample.value) for sample in stats.parse(text)] == [("b", 1), ("c", 1500)]


# --- more of the canary gate ---------------------------------------------------------------------


def gateway_check(text: str | None) -> str:
    """Check a canary that a client and a gateway call."""
    raised = edit(10, 25, {"minRequests": 1, "window": "10s"})
    assert raised is not None
    gateway = proxy("gateway", namespace="istio-system", sidecar=False)
    texts: dict[str, list[str | None]] = {
        "client": [request_statistics(), request_statistics(ok=3)],
        "gateway": [request_statistics(), text],
    }
    api: Any = FakeApi([proxy("client"), gateway], texts)
    return canary.check(api, raised, ignore_progress)


def test_requests_of_gateways_count() -> None:
    assert "v2 had 7 requests" in gateway_check(request_statistics(ok=4))
    assert "v2 had 3 requests" in gateway_check("")


def test_an_unreadable_gateway_stops_the_canary() -> None:
    assert "istio-system/gateway cannot be read" in refusal(gateway_check, None)


def test_an_outdated_pod_that_is_ending_does_not_stop_the_canary() -> None:
    state = {"client": "", "leaving": ""}
    assert "shop/client do not keep" in refusal(
        canary_summary, lambda _now: state, ending=frozenset({"leaving"})
    )
    assert_requests(
        lambda now: {"client": request_statistics(ok=int(now)), "leaving": ""},
        10,
        ending=frozenset({"leaving"}),
    )


@pytest.mark.parametrize("before", [0, 10])
def test_grpc_without_requests_needs_no_grpc_statistics(before: int) -> None:
    trial = {"subset": "v2", "weight": 25, "gate": {"minRequests": 1, "window": "10s"}}
    service = mesh(protocol="grpc", canary=trial).services["checkout"]
    raised = canary.raised("checkout", service, route(before), route(25))
    assert raised is not None
    no_requests = metrics(0)
    if before:
        assert "too few" in refusal(canary.judge, raised, no_requests, known=True)
    else:
        canary.judge(raised, no_requests, known=True)


# --- more of the STRICT gate ---------------------------------------------------------------------


def test_new_and_existing_open_connections_are_added() -> None:
    text = refusal(
        strict_summary,
        lambda now: {"web": inbound_statistics(plain=2 if now else 1, is_open=2 if now else 1)},
    )
    assert "2 connections to port 8080" in text


def test_plaintext_before_a_restart_counts() -> None:
    text = refusal(
        strict_summary,
        lambda now: {"web": inbound_statistics(plain=7 if now < 2 else 10 if now < 5 else 1)},
    )
    assert "3 connections to port 8080" in text


def test_a_deleted_pod_does_not_hide_an_unreadable_one() -> None:
    old = {"old": inbound_statistics()}

    def state(now: float) -> State:
        return {"db": QUIET_DB} | (
            old if now < 1 else {"old": inbound_statistics(plain=9)} if now < 4 else {}
        )

    assert "connections of shop/db cannot" in refusal(strict_summary, state, peers_of={"db": None})


def test_a_tcp_pod_may_miss_a_reading_in_the_window() -> None:
    assert "no plaintext" in strict_summary(lambda now: {"db": None if 2 < now < 6 else QUIET_DB})


def test_closed_tcp_connections_are_not_counted_as_open() -> None:
    closed = Peers(connected=frozenset({"10.0.0.7"}))
    assert "no plaintext" in strict_summary(
        lambda _now: {"db": QUIET_DB}, peers_of={"db": closed}, without_sidecar=IMPORTER
    )


def test_tcp_ports_that_stay_permissive_are_excluded() -> None:
    config = mesh(mtls={"ports": {9090: "PERMISSIVE"}, "selector": {"app": "db"}})
    api: Any = TimedApi(
        lambda now: {"db": inbound_statistics(tcp=1 if now else 0)}, peers_of={"db": None}
    )
    assert "no plaintext" in plaintext.check(api, change(), config, ignore_progress)


@pytest.mark.parametrize(
    ("before", "after", "is_refused"),
    [
        (policy("DISABLE"), policy("PERMISSIVE"), False),
        (policy("PERMISSIVE", p80="DISABLE"), policy("STRICT", p80="DISABLE"), False),
        (policy("PERMISSIVE", p80="DISABLE"), policy("STRICT"), True),
    ],
)
def test_disable_to_strict_on_a_port_is_refused(
    before: Modes, after: Modes, is_refused: bool
) -> None:
    edit_of_modes = change(before=before, after=after)
    if is_refused:
        assert "in one step" in refusal(plaintext.refuse_from_disable, edit_of_modes)
    else:
        plaintext.refuse_from_disable(edit_of_modes)


def test_readiness_and_sidecars_are_read_from_the_pod() -> None:
    def item(name: str, container: str, **conditions: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name},
            "spec": {"containers": [{"name": container}]},
            "status": {
                "phase": "Running",
                "conditions": [{"type": k, "status": v} for k, v in conditions.items()],
            },
        }

    pods = pods_of(
        [
            item("ready", "istio-proxy", Initialized="True", Ready="True"),
            item("starting", "istio-proxy", Initialized="True", Ready="False"),
            item("bare", "app", Ready="True"),
        ]
    )
    assert [(pod.name, pod.has_proxy, pod.is_ready) for pod in pods] == [
        ("ready", True, True),
        ("starting", True, False),
        ("bare", False, True),
    ]


def test_a_proxy_is_down_if_its_container_or_its_node_is_not_ready() -> None:
    def pod(name: str, node: str, **ready: bool) -> dict[str, Any]:
        statuses = [
            {"name": container.replace("_", "-"), "ready": is_ready}
            for container, is_ready in ready.items()
        ]
        return {
            "metadata": {"namespace": "shop", "name": name},
            "spec": {
                "nodeName": node,
                "containers": [{"name": "istio-proxy", "args": ["proxy", "sidecar"]}],
            },
            "status": {"containerStatuses": statuses},
        }

    def node(name: str, **conditions: str) -> dict[str, Any]:
        return {
            "metadata": {"name": name},
            "spec": {},
            "status": {"conditions": [{"type": k, "status": v} for k, v in conditions.items()]},
        }

    inventory = inventory_of(
        [
            pod("serves", "good", istio_proxy=True, app=False),
            pod("starts", "good", istio_proxy=False, app=True),
            pod("lost", "silent", istio_proxy=True, app=True),
            pod("new", "good"),
        ],
        [
            node("good", MemoryPressure="False", Ready="True"),
            node("silent", MemoryPressure="True", Ready="Unknown"),
        ],
    )
    assert {proxy.pod: proxy.down for proxy in inventory.proxies} == {
        "serves": "",
        "starts": "its proxy is not ready",
        "lost": "node silent is not ready",
        "new": "",
    }


def test_a_proxy_missing_from_the_last_reading_is_refused() -> None:
    """The gate reads again a second after the window, because a handshake was unfinished."""

    def state(now: float) -> State:
        handshake = inbound_statistics(tcp=5) if 9 < now <= 10 else inbound_statistics()
        return {"web": handshake, "other": None if now > 10 else inbound_statistics()}

    assert "shop/other cannot be read" in refusal(strict_summary, state)


def test_plaintext_to_an_ending_pod_counts_from_its_first_answer() -> None:
    state = {"web": inbound_statistics()}
    assert "no plaintext" in strict_summary(
        lambda now: {**state, "leaving": inbound_statistics(plain=9) if now > 3 else None},
        ending=frozenset({"leaving"}),
    )


def test_a_mode_does_not_apply_to_pods_in_another_namespace() -> None:
    config = mesh(mtls={"mode": "PERMISSIVE"}, selector={"app": "x"})
    pods = [proxy("x", namespace="unlisted"), proxy("x")]
    api: Any = FakeApi(pods, {"x": [inbound_statistics(), inbound_statistics(plain=1)]})
    text = refusal(plaintext.check, api, change("istio-system"), config, ignore_progress)
    assert "1 of 1 workload " in text
    assert "unlisted/x" in text


def test_peers_are_read_until_the_end_of_the_window() -> None:
    api: Any = TimedApi(lambda _now: {"db": QUIET_DB})
    plaintext.check(api, change(), mesh(), ignore_progress)
    assert api.looked == [("db", 7)]


def test_peers_of_the_last_pod_are_read_for_3_s() -> None:
    others: State = {"web": inbound_statistics()}
    with_mtls = inbound_statistics(tcp=1).replace('_15006"} 0', '_15006"} 1')
    api: Any = TimedApi(lambda now: others if now < 10 else {**others, "db": with_mtls})
    plaintext.check(api, change(), mesh(), ignore_progress)
    assert api.looked == [("db", 3)]
