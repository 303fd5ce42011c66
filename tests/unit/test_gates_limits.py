"""The gates at exactly their limits, and proxies that restart, come, go and do not answer."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from components.gates import canary, plaintext, stats
from components.gates.inventory import Inventory, Peers, Pod, Proxy, inventory_of, pods_of
from components.manifests.mtls import Modes
from config.errors import NordmeshError
from tests.unit.test_gates import (
    CANARY,
    CLUSTER,
    FakeApi,
    answered,
    change,
    edit,
    mesh,
    policy,
    proxy,
    quiet,
    received,
    requests,
    route,
)

pytestmark = pytest.mark.usefixtures("clock")

State = Mapping[str, str | None]


@dataclass
class TimedApi:
    """Pods as they are at a time, with what their proxies show; None: no answer.

    broken: whether the API server fails at a time. ending: pods that are being deleted. down: why
    the proxy of a pod is down. peers_of: the peers of a pod, an empty Peers if it is not in there;
    None: exec is refused.
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

    def selector(self, namespace: str, service: str) -> Mapping[str, str]:
        return {"app": f"{namespace}-{service}"}

    def pods(self, _namespace: str) -> list[Pod]:
        return [CANARY]

    def stats(self, proxies: list[Proxy], _wanted: str) -> dict[str, str]:
        state = self.state(time.monotonic())
        return {p.key: text for p in proxies if (text := state[p.pod]) is not None}

    def peers(self, proxy: Proxy, seconds: int) -> Peers | None:
        self.looked.append((proxy.pod, seconds))
        return self.peers_of.get(proxy.pod, Peers())


def count(state: Callable[[float], State], before: int = 10, **api: Any) -> str:
    """What the canary gate says, with a window of 10 s that begins at 0."""
    raised = edit(before, 25, {"minSuccessRate": 1.01, "minRequests": 1, "window": "10s"})
    assert raised is not None
    said = canary.check(TimedApi(state, **api), raised, quiet)  # type: ignore[arg-type]
    return said.partition("v2 had ")[2]


def counts(state: Callable[[float], State], number: int, **api: Any) -> None:
    assert count(state, **api).startswith(f"{number} requests")


def strict(state: Callable[[float], State], **api: Any) -> str:
    """What the STRICT gate says, with a window of 10 s that begins at 0."""
    return plaintext.check(TimedApi(state, **api), change(), mesh(), quiet)  # type: ignore[arg-type]


def refused(check: Callable[..., object], *args: Any, **api: Any) -> str:
    with pytest.raises(NordmeshError) as caught:
        check(*args, **api)
    return " ".join(str(caught.value).split())


# --- the canary gate's limits --------------------------------------------------------------------


def judged(metrics: stats.Metrics, before: int = 10, **gate: object) -> bool:
    """Whether a canary with these metrics may get more."""
    raised = edit(before, 25, gate)
    assert raised is not None
    try:
        canary.judge(raised, metrics, known=True)
    except NordmeshError:
        return False
    return True


def had(attempts: int, failures: int = 0, p99: float | None = None) -> stats.Metrics:
    return stats.Metrics(attempts=attempts, failures=failures, p99=p99, grpc=0)


@pytest.mark.parametrize(
    ("least", "attempts", "failures"),
    [(95, 100, 5), (99, 100, 1), (99.9, 1000, 1), (94.7, 1000, 53), (93.2, 1000, 68), (100, 9, 0)],
)
def test_exactly_the_success_rate_is_enough(least: float, attempts: int, failures: int) -> None:
    assert judged(had(attempts, failures), minSuccessRate=least, minRequests=1)
    assert not judged(had(attempts, failures + 1), minSuccessRate=least, minRequests=1)


def test_exactly_the_number_of_requests_is_enough() -> None:
    assert judged(had(20), minRequests=20)
    assert not judged(had(19), minRequests=20)
    assert not judged(had(19), before=1, minRequests=20)
    assert judged(had(19), before=0, minRequests=20)


def test_exactly_the_latency_is_enough() -> None:
    assert judged(had(100, p99=50.0), maxP99="50ms")
    assert not judged(had(100, p99=50.0001), maxP99="50ms")
    assert judged(had(100, p99=1e9))
    assert judged(had(0, p99=None), before=0, maxP99="50ms")


@pytest.mark.parametrize("of_hundred", [1, 3, 7, 10, 1234])
def test_a_bound_of_a_bucket_is_exact(of_hundred: int) -> None:
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
def test_one_percent_more_is_measured(
    kind: str, before: int, after: int, is_measured: bool
) -> None:
    """A service that was TCP's had a weight too."""
    service = mesh(canary={"subset": "v2", "weight": after, "gate": {}}).services["checkout"]
    old = {"spec": {kind: route(before)["spec"]["http"]}}
    raised = canary.raised("checkout", service, old, route(after))
    assert (raised is not None) is is_measured
    if raised is not None:
        assert (raised.before, raised.after) == (before, after)


def test_only_the_canarys_weight_counts() -> None:
    """The stable subset's rises when the canary's falls."""
    service = mesh(canary={"subset": "v2", "weight": 5, "gate": {}}).services["checkout"]
    assert canary.raised("checkout", service, route(50), route(5)) is None
    of_another = {"spec": {"http": [{"route": [{"destination": {"subset": "v3"}, "weight": 9}]}]}}
    raised = canary.raised("checkout", service, of_another, route(5))
    assert raised is not None
    assert raised.before == 0


def test_requests_of_the_window_count_and_no_others() -> None:
    """10 a second for ever: 100 in 10 s, in steps of 2.5 s."""
    counts(lambda now: {"client": requests(ok=1000 + int(10 * now))}, 100)


def test_a_long_window_is_read_every_5_s() -> None:
    api = TimedApi(lambda _now: {"client": requests(ok=1)})
    raised = edit(0, 25, {"window": "1m"})
    assert raised is not None
    assert " in 1m" in canary.check(api, raised, quiet)  # type: ignore[arg-type]
    assert api.read_at == [5.0 * step for step in range(13)]


# --- the canary gate: proxies that restart, come and go ------------------------------------------


def test_a_proxy_that_restarts_counts_from_0() -> None:
    """500 before, 30 in the window until it restarts, 40 from then on."""
    counts(lambda now: {"client": requests(ok=500 + 30 * (now > 0) if now < 5 else 40)}, 70)


def test_a_restart_is_seen_by_any_counter_that_drops() -> None:
    """More requests than before the restart, and fewer failures."""
    after = requests(ok=600, failed=2)
    before = requests(ok=500, failed=9)
    assert count(lambda now: {"client": before if now < 5 else after}).startswith(
        "602 requests, 99.67% of them succeeded (2 5xx)"
    )


def test_a_counter_that_is_new_or_the_same_is_no_restart() -> None:
    assert stats.increase({"a": 5, "b": 0}, {"a": 5, "c": 2}) == {"a": 0, "c": 2}
    assert stats.increase({"a": 5}, {}) == {}


def test_a_proxy_that_starts_in_the_window_counts_from_0() -> None:
    old = requests(ok=900)
    counts(lambda now: {"old": old} | ({"new": requests(ok=33)} if now >= 5 else {}), 33)


def test_a_new_proxy_that_answers_late_counts_from_0() -> None:
    old = {"old": requests(ok=900)}
    late: dict[float, State] = {0.0: old, 2.5: {**old, "new": None}}
    counts(lambda now: late.get(now, {**old, "new": requests(ok=33)}), 33)


def test_a_proxy_that_ends_has_its_last_poll_counted() -> None:
    rest = {"rest": requests(ok=900)}
    counts(lambda now: rest | ({"gone": requests(ok=int(now))} if now < 8 else {}), 7)


def test_proxies_add_up() -> None:
    counts(lambda now: {"a": requests(ok=int(now)), "b": requests(ok=2 * int(now))}, 30)


# --- the canary gate: proxies and an API server that do not answer -------------------------------


@pytest.mark.parametrize(
    "is_blind", [lambda _now: True, lambda now: now >= 5, lambda now: now < 60]
)
def test_a_proxy_that_is_not_read_stops_the_canary(is_blind: Callable[[float], bool]) -> None:
    def state(now: float) -> State:
        seen = requests(ok=int(10 * now))
        return {"seen": seen, "hidden": None if is_blind(now) else requests(ok=10)}

    text = refused(count, state)
    assert "shop/hidden cannot be read; the weight stays 10" in text
    assert "shop/seen" not in text
    assert "port 15090" in text


@pytest.mark.parametrize("is_blind", [lambda now: now < 3, lambda now: 10 <= now < 13])
def test_a_proxy_that_fails_for_a_moment_does_not(is_blind: Callable[[float], bool]) -> None:
    """The window begins with the first reading that is whole, and what was before is not in it."""
    first = [0.0]

    def state(now: float) -> State:
        if is_blind(now):
            return {"client": None}
        first[0] = first[0] or now
        return {"client": requests(ok=1000 if now == first[0] else 1077)}

    counts(state, 77)


def test_an_old_proxy_that_counts_nothing_stops_the_canary() -> None:
    text = refused(count, lambda now: {"new": requests(ok=int(10 * now)), "old": "\n"})
    assert "shop/old do not keep" in text
    assert "the weight stays 10" in text
    assert "kubectl rollout restart" in text


def test_a_pod_that_is_ending_may_be_silent_and_is_counted_from_its_first_answer() -> None:
    def state(now: float) -> State:
        text = requests(ok=500 + int(now)) if 3 <= now < 9 else None
        return {"client": requests(ok=int(now)), "leaving": text}

    counts(state, 10 + 2, ending=frozenset({"leaving"}))


def test_a_proxy_that_is_down_does_not_stop_the_canary_and_is_named() -> None:
    """It carries no requests. Nothing waits for it."""
    text = count(
        lambda now: {"client": requests(ok=int(now)), "lost": None, "new": None},
        down={"lost": "node worker-2 is not ready", "new": "its proxy is not ready"},
    )
    assert text.startswith("10 requests")
    assert text.endswith(
        "; not measured: shop/lost (node worker-2 is not ready), shop/new (its proxy is not ready)"
    )
    assert time.monotonic() == 10


def test_a_proxy_that_is_down_for_a_while_counts_from_its_first_answer() -> None:
    """It was not read at the start, so what it had counted until then may be older."""

    def state(now: float) -> State:
        text = requests(ok=500 + int(now)) if now > 3 else None
        return {"client": requests(ok=int(now)), "back": text}

    counts(state, 10 + 5, down={"back": "its proxy is not ready"})


def test_a_proxy_that_is_down_and_answers_is_counted_and_not_named() -> None:
    text = count(lambda now: {"client": requests(ok=int(now))}, down={"client": "not ready"})
    assert text.startswith("10 requests")
    assert "not measured" not in text


@pytest.mark.parametrize("ending", [False, True])
def test_a_proxy_that_is_down_stops_the_strict_gate_unless_it_is_ending(*, ending: bool) -> None:
    """Its pod is about to refuse plaintext, and nobody has seen who sends it some."""
    pods = {"web": received(), "lost": None}
    api: dict[str, Any] = {"down": {"lost": "node worker-2 is not ready"}}
    if ending:
        assert "no plaintext" in strict(lambda _now: pods, ending=frozenset({"lost"}), **api)
    else:
        assert "shop/lost cannot be read" in refused(strict, lambda _now: pods, **api)


def test_the_first_few_of_many_unreadable_proxies_are_named() -> None:
    hidden: State = {f"hidden-{number}": None for number in range(7)}
    text = refused(count, lambda _now: hidden)
    names = ", ".join(f"shop/hidden-{number}" for number in range(5))
    assert f"the proxies of {names} and 2 more cannot be read" in text


@pytest.mark.parametrize("at", [0.0, 2.5, 10.0])
def test_an_api_server_that_fails_once_is_asked_again(at: float) -> None:
    failed: list[float] = []

    def broken(now: float) -> bool:
        if now == at and not failed:
            failed.append(now)
            return True
        return False

    counts(lambda now: {"client": requests(ok=7 * (now > 2.5))}, 7, broken=broken)
    assert failed


@pytest.mark.parametrize("since", [0, 5])
def test_an_api_server_that_fails_for_good_stops_the_canary(since: int) -> None:
    text = refused(
        count, lambda now: {"client": requests(ok=int(now))}, broken=lambda now: now >= since
    )
    assert "the API server gave no answer" in text
    assert time.monotonic() < 30


# --- the STRICT gate -----------------------------------------------------------------------------


@pytest.mark.parametrize("at", [2.5, 10.0])
def test_one_connection_in_the_window_is_plaintext(at: float) -> None:
    text = refused(strict, lambda now: {"web": received(plain=7 + (now >= at))})
    assert "shop/web: 1 connection to port 8080" in text


def test_a_connection_after_the_window_does_not_count() -> None:
    assert "no plaintext" in strict(lambda now: {"web": received(plain=now > 10)})


def test_plaintext_after_a_restart_counts_from_0() -> None:
    text = refused(strict, lambda now: {"web": received(plain=7 if now < 5 else 2)})
    assert "2 connections to port 8080" in text


def test_plaintext_at_a_new_pod_counts_from_0() -> None:
    rest = {"web": received()}
    text = refused(strict, lambda now: rest | ({"new": received(plain=4)} if now >= 5 else {}))
    assert "shop/new: 4 connections" in text
    assert "1 of 2 workloads" in text


def test_plaintext_at_a_new_pod_that_answers_late_counts_from_0() -> None:
    rest: State = {"web": received()}
    late: dict[float, State] = {0.0: rest, 2.5: {**rest, "new": None}}
    text = refused(strict, lambda now: late.get(now, {**rest, "new": received(plain=4)}))
    assert "shop/new: 4 connections" in text


def test_a_pod_that_ended_is_no_longer_asked_about() -> None:
    gone = {"old": received(plain=9)}
    assert "no plaintext" in strict(
        lambda now: (
            {"web": received()} | ({"old": received()} if now < 1 else gone if now < 4 else {})
        )
    )


def test_mtls_is_not_plaintext_whatever_is_open() -> None:
    with_mtls = received(mtls=5, is_open=2).replace("ssl_active{} 0", "ssl_active{} 2")
    assert "no plaintext" in strict(lambda _now: {"web": with_mtls})


def test_one_open_connection_without_mtls_is_plaintext() -> None:
    one_without = received(mtls=5, is_open=3).replace("ssl_active{} 0", "ssl_active{} 2")
    assert "1 connection to port 8080" in refused(strict, lambda _now: {"web": one_without})


@pytest.mark.parametrize(
    "is_blind", [lambda _now: True, lambda now: now >= 5, lambda now: now < 60]
)
def test_a_pod_that_is_not_read_stays_permissive(is_blind: Callable[[float], bool]) -> None:
    text = refused(strict, lambda now: {"web": received(), "x": None if is_blind(now) else ""})
    assert "shop/x" in text
    assert "shop/web" not in text
    assert "mesh.namespaces.shop.mtls [gate-" in text
    assert "the mode stays as it was" in text


def test_old_proxies_are_named() -> None:
    text = refused(strict, lambda _now: {"web": received(), "old": "envoy_server_live{} 1"})
    assert "shop/old do not keep" in text
    assert time.monotonic() < 10


@pytest.mark.parametrize("plain", [0, 1])
@pytest.mark.parametrize("at", [0.0, 2.5, 10.0])
def test_the_strict_gate_asks_again_after_one_failure(at: float, plain: int) -> None:
    failed: list[float] = []

    def broken(now: float) -> bool:
        if now == at and not failed:
            failed.append(now)
            return True
        return False

    def state(now: float) -> State:
        return {"web": received(plain=3 + (plain if now > 2.5 else 0))}

    if plain:
        assert "1 connection" in refused(strict, state, broken=broken)
    else:
        assert "no plaintext" in strict(state, broken=broken)
    assert failed


@pytest.mark.parametrize("since", [0, 5])
def test_the_strict_gate_stays_shut_without_an_api_server(since: int) -> None:
    text = refused(strict, lambda _now: {"web": received()}, broken=lambda now: now >= since)
    assert "the API server gave no answer" in text


# --- the STRICT gate: idle TCP -------------------------------------------------------------------

STRANGER = Peers(open=frozenset({"10.0.0.7"}), connected=frozenset({"10.0.0.7"}))
IMPORTER = {"10.0.0.7": "old/importer"}
QUIET_DB = received(tcp=1)


def test_every_pod_with_tcp_is_looked_into() -> None:
    """However many there are, each in its turn."""
    pods = {f"db-{number}": QUIET_DB for number in range(100)}
    api = TimedApi(lambda _now: pods, peers_of={"db-99": STRANGER}, without_sidecar=IMPORTER)
    with pytest.raises(NordmeshError, match="shop/db-99: 1 connection to TCP, from old/importer"):
        plaintext.check(api, change(), mesh(), quiet)  # type: ignore[arg-type]
    assert sorted(name for name, _ in api.looked) == sorted(pods)
    assert all(seconds >= 3 for _, seconds in api.looked)


def test_a_pod_without_exec_is_refused() -> None:
    text = refused(strict, lambda _now: {"db": QUIET_DB, "web": received()}, peers_of={"db": None})
    assert "the open connections of shop/db cannot be listed" in text
    assert "mesh.namespaces.shop.mtls [gate-" in text
    assert "the mode stays as it was" in text
    assert "kubectl exec" in text
    assert "nordmesh:mesh.mtlsGate.override" in text


def test_a_pod_without_tcp_needs_no_look() -> None:
    """Its proxy counts all that is open, so that exec need not be allowed."""
    blind: Mapping[str, Peers | None] = {"web": None, "leaving": None}
    assert "no plaintext" in strict(lambda _now: {"web": received()}, peers_of=blind)
    state = {"web": received(), "leaving": QUIET_DB}
    assert "no plaintext" in strict(
        lambda _now: state, peers_of=blind, ending=frozenset({"leaving"})
    )


def test_plaintext_of_unknown_clients_is_refused() -> None:
    text = refused(
        strict,
        lambda now: {"web": received(plain=now > 0), "db": QUIET_DB},
        peers_of={"web": None, "db": None},
    )
    assert "shop/web: 1 connection to port 8080, from an unknown client" in text


@pytest.mark.parametrize("peers", [Peers(), STRANGER, None])
def test_a_tcp_pod_of_the_last_moment_is_looked_into(peers: Peers | None) -> None:
    """It appears after the window, in the second that a handshake is given to end."""
    with_mtls = received(tcp=1).replace('_15006"} 0', '_15006"} 1')

    def state(now: float) -> State:
        handshake = received(tcp=5) if 9 < now <= 10 else received()
        return {"web": handshake} | ({"db": with_mtls} if now > 10 else {})

    if peers == Peers():
        assert "no plaintext" in strict(state)
    else:
        assert "shop/db" in refused(strict, state, peers_of={"db": peers})


def test_open_connections_to_http_or_tcp_are_not_taken_for_none() -> None:
    """HTTP at 8080 stays PERMISSIVE, TCP does not, and a stranger is connected to one of them."""
    config = mesh(mtls={"ports": {8080: "PERMISSIVE"}, "selector": {"app": "db"}})
    text = received(plain=1, is_open=1, tcp=1)

    def check(open_to: Peers) -> str:
        api = TimedApi(
            lambda _now: {"db": text}, peers_of={"db": open_to}, without_sidecar=IMPORTER
        )
        return plaintext.check(api, change(), config, quiet)  # type: ignore[arg-type]

    assert "shop/db have open connections without mTLS" in refused(check, STRANGER)
    assert "no plaintext" in check(Peers())


def test_modes_that_are_strict_already_do_not_become_it() -> None:
    which = change(before=policy("STRICT", p8080="PERMISSIVE"), after=policy("STRICT"))
    assert which.makes_port_strict("8080")
    assert not which.makes_port_strict("9090")
    api: Any = TimedApi(lambda now: {"web": received(plain=now > 0, port=9090)})
    assert "no plaintext" in plaintext.check(api, which, mesh(), quiet)


def test_a_port_whose_exception_is_removed_becomes_strict() -> None:
    which = change(
        name="checkout",
        before=policy("STRICT", p8080="PERMISSIVE"),
        after=policy("STRICT"),
    )
    api: Any = TimedApi(lambda now: {"shop-checkout": received(plain=now > 0)})
    config = mesh(mtls={"mode": "STRICT"}, selector={"app": "shop-checkout"})
    assert "1 connection to port 8080" in refused(plaintext.check, api, which, config, quiet)


def test_only_the_canarys_cluster_counts() -> None:
    text = requests(ok=5)
    assert stats.requests(text, CLUSTER)["completed"] == 5
    assert stats.requests(text, CLUSTER.replace("v2", "v3")) == {}


# --- what is read --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "is_wanted"),
    [
        ("cluster.outbound|8080|v2|checkout.shop.svc.cluster.local.upstream_rq_completed", True),
        ("cluster.inbound|9090||.grpc.14", True),
        ("listener.0.0.0.0_15006.downstream_cx_total", True),
        ("cluster.outbound|8080|v1|checkout.shop.svc.cluster.local.upstream_rq_completed", False),
        ("cluster.outbound|9090|v2|checkout.shop.svc.cluster.local.upstream_rq_completed", False),
    ],
)
def test_the_canary_gate_asks_for_its_statistics(name: str, is_wanted: bool) -> None:
    asked = []

    class Asked(TimedApi):
        def stats(self, proxies: list[Proxy], wanted: str) -> dict[str, str]:
            asked.append(wanted)
            return super().stats(proxies, wanted)

    raised = edit(0, 25)
    assert raised is not None
    canary.check(Asked(lambda _now: {"client": requests()}), raised, quiet)  # type: ignore[arg-type]
    assert (re.search(asked[0], name) is not None) is is_wanted


def test_either_name_of_5xx_is_understood() -> None:
    by_name = f'envoy_cluster_upstream_rq_5xx{{cluster_name="{CLUSTER}"}} 3\n'
    by_label = f'envoy_cluster_upstream_rq{{cluster_name="{CLUSTER}",response_code_class="5xx"}} 3'
    assert stats.requests(by_name, CLUSTER) == stats.requests(by_label, CLUSTER) == {"5xx": 3}
    assert stats.requests(by_label.replace('"5xx"', '"4xx"'), CLUSTER) == {}


@pytest.mark.parametrize("status", range(17))
def test_the_failures_of_grpc(status: int) -> None:
    """google/rpc/code.proto: which statuses are HTTP's 5xx."""
    text = "".join(
        f'envoy_cluster_grpc_{status}{{cluster_name="inbound|{port}||"}} 2\n' for port in (1, 2)
    )
    metrics = stats.metrics(stats.grpc_answers(text))
    assert (metrics.attempts, metrics.grpc) == (4, 4)
    assert metrics.failures == (4 if status in (2, 4, 12, 13, 14, 15) else 0)


def test_grpc_that_the_canary_calls_is_not_its_own() -> None:
    assert stats.grpc_answers('envoy_cluster_grpc_14{cluster_name="outbound|1|v2|x"} 9') == {}


def test_a_pod_with_the_canarys_labels_elsewhere_is_not_the_canary() -> None:
    raised = edit(10, 25, {"minRequests": 1, "window": "10s"})
    assert raised is not None
    other = proxy("pod", namespace="other", app="shop-checkout", version="v2")
    texts = {"client": [requests(), requests(ok=9)], "pod": [answered(), answered(s14=9)]}
    api: Any = FakeApi([proxy("client"), other], texts)
    assert "100% of them succeeded" in canary.check(api, raised, quiet)


def test_what_a_sidecar_sends_is_not_what_it_receives() -> None:
    sent = """\
envoy_http_downstream_cx_total{http_conn_manager_prefix="outbound_0.0.0.0_80"} 9
envoy_tcp_downstream_cx_total{tcp_prefix="outbound|5432||db"} 9
envoy_listener_downstream_cx_total{listener_address="0.0.0.0_15001"} 18
envoy_listener_ssl_handshake{listener_address="0.0.0.0_15001"} 9
"""
    assert stats.inbound(sent) is None
    assert stats.inbound('envoy_listener_ssl_handshake{listener_address="0.0.0.0_15006"} 1') is None
    found = stats.inbound(sent + received(tcp=2))
    assert found is not None
    assert found.since_start == {"8080": 0, stats.TCP: 2}


def test_handshakes_of_both_families_count_and_tcp_is_never_below_0() -> None:
    text = received(tcp=3)
    for address in ("0.0.0.0_15006", "[::]_15006"):
        line = f'envoy_listener_ssl_handshake{{listener_address="{address}"}}'
        text = text.replace(line + " 0", "") + f"{line} 2\n"
    found = stats.inbound(text)
    assert found is not None
    assert found.since_start[stats.TCP] == 0


def test_lines_that_are_no_statistics_are_left_out() -> None:
    text = "<html>Sign in</html>\nhello world\na NaN\n# TYPE b counter\nb{} 1\nc 1.5e+3\n"
    assert [(sample.name, sample.value) for sample in stats.parse(text)] == [("b", 1), ("c", 1500)]


# --- more of the canary gate ---------------------------------------------------------------------


def gateway_check(text: str | None) -> str:
    """A caller without counts of its own, and a gateway that calls the canary too."""
    raised = edit(10, 25, {"minRequests": 1, "window": "10s"})
    assert raised is not None
    gateway = proxy("gateway", namespace="istio-system", sidecar=False)
    texts: dict[str, list[str | None]] = {
        "client": [requests(), requests(ok=3)],
        "gateway": [requests(), text],
    }
    api: Any = FakeApi([proxy("client"), gateway], texts)
    return canary.check(api, raised, quiet)


def test_gateways_are_callers_too() -> None:
    assert "v2 had 7 requests" in gateway_check(requests(ok=4))
    assert "v2 had 3 requests" in gateway_check("")


def test_a_gateway_that_is_not_read_stops_the_canary() -> None:
    assert "istio-system/gateway cannot be read" in refused(gateway_check, None)


def test_an_old_pod_that_is_ending_does_not_stop_the_canary() -> None:
    state = {"client": "", "leaving": ""}
    assert "shop/client do not keep" in refused(
        count, lambda _now: state, ending=frozenset({"leaving"})
    )
    counts(
        lambda now: {"client": requests(ok=int(now)), "leaving": ""},
        10,
        ending=frozenset({"leaving"}),
    )


def without_selector(pods: list[Pod]) -> str:
    raised = edit(0, 25)
    assert raised is not None
    api: Any = FakeApi([proxy("client")], {"client": [requests()]}, others=pods)
    api.selector = lambda _namespace, _service: {}
    return canary.check(api, raised, quiet)


def test_a_service_without_a_selector_still_needs_a_pod_of_the_version() -> None:
    assert "0 requests" in without_selector([CANARY])
    assert "has the labels version=v2;" in refused(
        without_selector, [replace(CANARY, labels={"app": "x"})]
    )


@pytest.mark.parametrize("before", [0, 10])
def test_grpc_without_requests_needs_no_statuses(before: int) -> None:
    trial = {"subset": "v2", "weight": 25, "gate": {"minRequests": 1, "window": "10s"}}
    service = mesh(protocol="grpc", canary=trial).services["checkout"]
    raised = canary.raised("checkout", service, route(before), route(25))
    assert raised is not None
    none = had(0)
    if before:
        assert "too few" in refused(canary.judge, raised, none, known=True)
    else:
        canary.judge(raised, none, known=True)


# --- more of the STRICT gate ---------------------------------------------------------------------


def test_new_and_old_connections_that_are_open_are_reported() -> None:
    text = refused(
        strict,
        lambda now: {"web": received(plain=2 if now else 1, is_open=2 if now else 1)},
    )
    assert "2 connections to port 8080" in text


def test_plaintext_before_a_restart_is_not_forgotten() -> None:
    text = refused(
        strict,
        lambda now: {"web": received(plain=7 if now < 2 else 10 if now < 5 else 1)},
    )
    assert "3 connections to port 8080" in text


def test_a_pod_that_ended_does_not_hide_one_that_nobody_can_look_into() -> None:
    old = {"old": received()}

    def state(now: float) -> State:
        return {"db": QUIET_DB} | (
            old if now < 1 else {"old": received(plain=9)} if now < 4 else {}
        )

    assert "connections of shop/db cannot" in refused(strict, state, peers_of={"db": None})


def test_a_pod_with_tcp_may_miss_a_reading_within_the_window() -> None:
    assert "no plaintext" in strict(lambda now: {"db": None if 2 < now < 6 else QUIET_DB})


def test_strangers_that_have_gone_were_counted_as_new_or_are_no_clients_now() -> None:
    gone = Peers(connected=frozenset({"10.0.0.7"}))
    assert "no plaintext" in strict(
        lambda _now: {"db": QUIET_DB}, peers_of={"db": gone}, without_sidecar=IMPORTER
    )


def test_tcp_ports_that_stay_permissive_are_left_out() -> None:
    config = mesh(mtls={"ports": {9090: "PERMISSIVE"}, "selector": {"app": "db"}})
    api: Any = TimedApi(lambda now: {"db": received(tcp=1 if now else 0)}, peers_of={"db": None})
    assert "no plaintext" in plaintext.check(api, change(), config, quiet)


@pytest.mark.parametrize(
    ("before", "after", "is_refused"),
    [
        (policy("DISABLE"), policy("PERMISSIVE"), False),
        (policy("PERMISSIVE", p80="DISABLE"), policy("STRICT", p80="DISABLE"), False),
        (policy("PERMISSIVE", p80="DISABLE"), policy("STRICT"), True),
    ],
)
def test_disable_is_refused_where_it_becomes_strict(
    before: Modes, after: Modes, is_refused: bool
) -> None:
    which = change(before=before, after=after)
    if is_refused:
        assert "in one step" in refused(plaintext.refuse_from_disable, which)
    else:
        plaintext.refuse_from_disable(which)


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


def test_what_is_down_is_read_from_the_pod_and_its_node() -> None:
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


def test_the_last_reading_misses_no_proxy_either() -> None:
    """It comes a second after the window, when a handshake was going on at its end."""

    def state(now: float) -> State:
        handshake = received(tcp=5) if 9 < now <= 10 else received()
        return {"web": handshake, "other": None if now > 10 else received()}

    assert "shop/other cannot be read" in refused(strict, state)


def test_an_ending_pod_that_answers_late_counts_from_its_first_answer() -> None:
    state = {"web": received()}
    assert "no plaintext" in strict(
        lambda now: {**state, "leaving": received(plain=9) if now > 3 else None},
        ending=frozenset({"leaving"}),
    )


def test_a_service_of_another_namespace_says_nothing_about_a_pod_of_the_same_labels() -> None:
    config = mesh(mtls={"mode": "PERMISSIVE"}, selector={"app": "x"})
    pods = [proxy("x", namespace="unlisted"), proxy("x")]
    api: Any = FakeApi(pods, {"x": [received(), received(plain=1)]})
    text = refused(plaintext.check, api, change("istio-system"), config, quiet)
    assert "1 of 1 workload " in text
    assert "unlisted/x" in text


def test_a_pod_is_looked_into_for_the_rest_of_the_window() -> None:
    api: Any = TimedApi(lambda _now: {"db": QUIET_DB})
    plaintext.check(api, change(), mesh(), quiet)
    assert api.looked == [("db", 7)]


def test_a_pod_that_comes_last_is_looked_into_for_3_s() -> None:
    rest: State = {"web": received()}
    with_mtls = received(tcp=1).replace('_15006"} 0', '_15006"} 1')
    api: Any = TimedApi(lambda now: rest if now < 10 else {**rest, "db": with_mtls})
    plaintext.check(api, change(), mesh(), quiet)
    assert api.looked == [("db", 3)]
