"""What proxies count: Envoy's statistics in Prometheus's text form, and the figures made of them.

Envoy names a statistic of a listener's HTTP filter with its address in the name or, by Istio's tag
rules, in a label; both are understood.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Counters = Mapping[str, float]

_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

TCP = "TCP"
"""Where connections to ports whose protocol is TCP are counted: Envoy does not tell them apart."""

KEPT = r"15006\.downstream_cx_total$"
"""The name of a statistic that a sidecar shows if, and only if, it keeps those of the gates."""

OTHER_PORTS = "undeclared ports"
"""Where connections to ports that no Service has are counted."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One line of statistics."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(text: str) -> Iterator[Sample]:
    """The samples of a text; comments and lines that are none are left out."""
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            name, labels, value = match.groups()
            yield Sample(name=name, labels=dict(_LABEL.findall(labels or "")), value=float(value))


def increase(before: Counters, after: Counters) -> dict[str, float]:
    """Counter increase; a drop means that the proxy restarted, so count from zero."""
    if any(after.get(name, 0) < value for name, value in before.items()):
        return dict(after)
    return {name: value - before.get(name, 0) for name, value in after.items()}


def total(several: Iterable[Counters]) -> dict[str, float]:
    """Counters of several proxies as one."""
    sums: dict[str, float] = {}
    for counters in several:
        for name, value in counters.items():
            sums[name] = sums.get(name, 0) + value
    return sums


# --- requests to a canary ------------------------------------------------------------------------

_REQUESTS = {
    "envoy_cluster_upstream_rq_completed": "completed",
    "envoy_cluster_upstream_rq_retry": "retried",
    "envoy_cluster_upstream_rq_timeout": "timeouts",
    "envoy_cluster_upstream_rq_rx_reset": "resets",
    "envoy_cluster_upstream_cx_connect_fail": "connect failures",
    "envoy_cluster_upstream_rq_5xx": "5xx",
}
_TIME = "envoy_cluster_upstream_rq_time_bucket"
_BOUND = "ms<="

# Those that google/rpc/code.proto maps to 5xx; the rest tell the caller of a mistake of its own.
_GRPC_FAILURES = {
    2: "UNKNOWN",
    4: "DEADLINE_EXCEEDED",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
}
_GRPC = "gRPC "
_GRPC_NAME = re.compile(r"envoy_cluster_grpc_(\d+)")


def requests(text: str, cluster: str) -> dict[str, float]:
    """A proxy's counters of its requests to a cluster; {} if it knows no such cluster."""
    counters: dict[str, float] = {}
    for sample in parse(text):
        if sample.labels.get("cluster_name") != cluster:
            continue
        if sample.name in _REQUESTS:
            counters[_REQUESTS[sample.name]] = sample.value
        elif sample.name == "envoy_cluster_upstream_rq":
            # Envoy's tag rules take the class of the response out of the name.
            if sample.labels.get("response_code_class") == "5xx":
                counters["5xx"] = sample.value
        elif sample.name == _TIME:
            counters[_BOUND + sample.labels["le"]] = sample.value
    return counters


def grpc_answers(text: str) -> dict[str, float]:
    """A sidecar's counters of the gRPC statuses that its pod answered, on all of its ports.

    A caller's proxy sees such a failure as an answer 200, and a gateway's does not look inside.
    """
    counters: dict[str, float] = {}
    for sample in parse(text):
        place = sample.labels.get("cluster_name", "")
        if (match := _GRPC_NAME.fullmatch(sample.name)) and place.startswith("inbound|"):
            name = _GRPC + match[1]
            counters[name] = counters.get(name, 0) + sample.value
    return counters


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What callers saw of a canary in some time.

    attempts: completed requests, and those that a proxy tried again. failures: 5xx answers, the
    proxies' own included, which stand for timeouts, failed connections and resets; all that had to
    be tried again; and gRPC's failures, of which some may be among those tried again. p99:
    milliseconds, None without any answer. grpc: answers that had a status of gRPC.
    """

    attempts: int
    failures: int
    p99: float | None
    grpc: int
    causes: Mapping[str, int] = field(default_factory=dict)

    @property
    def success_rate(self) -> float:
        """In percent; of no attempts, 100."""
        # One division, so that a rate which is exactly the minimum compares as equal to it.
        return 100 * (self.attempts - self.failures) / self.attempts if self.attempts else 100.0

    def __str__(self) -> str:
        parts = [f"{self.attempts} requests", f"{_percent(self.success_rate)}% of them succeeded"]
        if self.causes:
            told = ", ".join(f"{count} {cause}" for cause, count in self.causes.items())
            parts[-1] += f" ({told})"
        if self.p99 is not None:
            parts.append(f"p99 {self.p99:.3g} ms")
        return ", ".join(parts)


def figures(counters: Counters) -> Figures:
    """The figures of counters that were summed over time and proxies."""
    counted = {name: int(counters.get(name, 0)) for name in _REQUESTS.values()}
    grpc = {name: int(n) for name, n in counters.items() if name.startswith(_GRPC)}
    failed = {_GRPC + told: grpc.get(f"{_GRPC}{n}", 0) for n, told in _GRPC_FAILURES.items()}
    causes = counted | failed
    return Figures(
        # Callers without a proxy are counted by gRPC's answers only.
        attempts=max(counted["completed"] + counted["retried"], sum(grpc.values())),
        failures=counted["5xx"] + max(counted["retried"], sum(failed.values())),
        p99=quantile(counters, 0.99),
        grpc=sum(grpc.values()),
        causes={name: n for name, n in causes.items() if n and name != "completed"},
    )


def quantile(counters: Counters, share: float) -> float | None:
    """The time in ms that a share of the answers took at most; None without answers.

    Interpolated on a straight line within the bucket, as Prometheus's histogram_quantile does; a
    time beyond the last bound is that bound.
    """
    buckets = sorted(
        (float(name.removeprefix(_BOUND)), count)
        for name, count in counters.items()
        if name.startswith(_BOUND)
    )
    if not buckets or not buckets[-1][1]:
        return None
    rank = share * buckets[-1][1]
    lower, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return lower


def _percent(rate: float) -> str:
    """A rate with as many digits as keep 99.99 apart from 100."""
    return f"{rate:.2f}".rstrip("0").rstrip(".")


# --- plaintext that a sidecar receives -----------------------------------------------------------

_HTTP = re.compile(
    r"envoy_http_(?:[iI]nbound\w*_)?downstream_cx_(?P<mtls>ssl_)?(?P<kind>total|active)"
)
_PREFIX = re.compile(r"envoy_http_([iI]nbound\w*)_downstream_cx_")


@dataclass(frozen=True, kw_only=True)
class Inbound:
    """A sidecar's connections without mTLS: since it started, and those that are open now.

    Both by the pod's port, or TCP, or OTHER_PORTS. tcp_ports: what TCP stands for.
    """

    since_start: Mapping[str, float]
    open: Mapping[str, float]
    tcp_ports: frozenset[str]


def keeps_inbound(text: str) -> bool:
    """Whether a sidecar keeps the statistics of what it receives; by default it does not."""
    return any(
        sample.name == "envoy_listener_downstream_cx_total" and _is_inbound(sample)
        for sample in parse(text)
    )


def _is_inbound(sample: Sample) -> bool:
    return sample.labels.get("listener_address", "").endswith("_15006")


def inbound(text: str) -> Inbound | None:
    """A sidecar's plaintext; None if it keeps no such statistics.

    HTTP: connections less those with TLS, which Envoy counts at one place, so that the difference
    is exact. TCP: connections less the handshakes that were not HTTP's; one that is being made at
    that moment looks like plaintext.
    """
    if not keeps_inbound(text):
        return None
    kinds = ("total", "active", "ssl_total", "ssl_active")
    http: dict[str, dict[str, float]] = {kind: {} for kind in kinds}
    tcp: dict[str, float] = {}
    handshakes = 0.0
    for sample in parse(text):
        if match := _HTTP.fullmatch(sample.name):
            place = sample.labels.get("http_conn_manager_prefix") or _PREFIX.findall(sample.name)
            prefix = place if isinstance(place, str) else "".join(place)
            if prefix.lower().startswith("inbound"):
                kind = (match["mtls"] or "") + match["kind"]
                http[kind][prefix] = sample.value
        elif sample.name == "envoy_tcp_downstream_cx_total":
            prefix = sample.labels.get("tcp_prefix", "")
            if prefix.lower().startswith("inbound"):
                tcp[prefix] = sample.value
        elif sample.name == "envoy_listener_ssl_handshake" and _is_inbound(sample):
            handshakes += sample.value
    since_start = _less(http["total"], http["ssl_total"])
    with_mtls = handshakes - sum(http["ssl_total"].values())
    if tcp:
        since_start[TCP] = max(0.0, sum(tcp.values()) - with_mtls)
    return Inbound(
        since_start=since_start,
        open=_less(http["active"], http["ssl_active"]),
        tcp_ports=frozenset(_port(prefix) for prefix, value in tcp.items() if value),
    )


def _less(all_of: Counters, with_mtls: Counters) -> dict[str, float]:
    return total(
        {_port(prefix): value - with_mtls.get(prefix, 0)} for prefix, value in all_of.items()
    )


def _port(prefix: str) -> str:
    """The pod's port in Istio's names: inbound_0.0.0.0_8080, inbound|9090||."""
    found = re.search(r"[|_](\d+)(?:\|\|.*)?$", prefix)
    return found.group(1) if found else OTHER_PORTS
