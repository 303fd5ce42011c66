"""Envoy's statistics in Prometheus's text format, and the metrics that gates judge.

Envoy has the address of a listener's HTTP filter in the name of a statistic or, with Istio's tag
rules, in a label; both forms are read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Counters = Mapping[str, float]

_LINE = re.compile(r"(\w+)(?:\{(.*)\})? (-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

TCP = "TCP"
"""The key for connections to all TCP ports: Envoy does not count these by port."""

KEPT = r"15006\.downstream_cx_total$"
"""The name of a statistic that a sidecar has if, and only if, it keeps those that gates read."""

OTHER_PORTS = "undeclared ports"
"""The key for connections to ports that no Service declares."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One line of statistics."""

    name: str
    labels: Mapping[str, str]
    value: float


def parse(text: str) -> Iterator[Sample]:
    """Parse the samples of a text; comments and other lines are skipped.

    Not prometheus_client's parser: it adds _total to the names of counters, and drops the whole
    text for one bad line.
    """
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
    """Sum the counters of several proxies."""
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

# google/rpc/code.proto maps these to 5xx; the others report a mistake of the caller.
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
    """A proxy's counters of its requests to a cluster; {} if it has no such cluster."""
    counters: dict[str, float] = {}
    for sample in parse(text):
        if sample.labels.get("cluster_name") != cluster:
            continue
        if sample.name in _REQUESTS:
            counters[_REQUESTS[sample.name]] = sample.value
        elif sample.name == "envoy_cluster_upstream_rq":
            # Envoy's tag rules move the class of the response from the name to a label.
            if sample.labels.get("response_code_class") == "5xx":
                counters["5xx"] = sample.value
        elif sample.name == _TIME:
            counters[_BOUND + sample.labels["le"]] = sample.value
    return counters


def grpc_answers(text: str) -> dict[str, float]:
    """A sidecar's counters of the gRPC statuses that its pod returned, on all of its ports.

    To a caller's proxy such a failure is a response 200, and a gateway does not read it at all.
    """
    counters: dict[str, float] = {}
    for sample in parse(text):
        cluster = sample.labels.get("cluster_name", "")
        if (match := _GRPC_NAME.fullmatch(sample.name)) and cluster.startswith("inbound|"):
            name = _GRPC + match[1]
            counters[name] = counters.get(name, 0) + sample.value
    return counters


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What callers saw of a canary within a window.

    attempts: completed requests and retried ones. failures: 5xx responses, which include the
    proxies' own for timeouts, failed connections and resets; plus the larger of retries and gRPC
    failures, because a gRPC failure may have been retried. p99: milliseconds, None without any
    response. grpc: responses with a gRPC status.
    """

    attempts: int
    failures: int
    p99: float | None
    grpc: int
    causes: Mapping[str, int] = field(default_factory=dict)

    @property
    def success_rate(self) -> float:
        """In percent; 100 without attempts."""
        # A single division, so that a rate of exactly the minimum compares as equal to it.
        return 100 * (self.attempts - self.failures) / self.attempts if self.attempts else 100.0

    def __str__(self) -> str:
        parts = [f"{self.attempts} requests", f"{_percent(self.success_rate)}% of them succeeded"]
        if self.causes:
            causes = ", ".join(f"{count} {cause}" for cause, count in self.causes.items())
            parts[-1] += f" ({causes})"
        if self.p99 is not None:
            parts.append(f"p99 {self.p99:.3g} ms")
        return ", ".join(parts)


def metrics(counters: Counters) -> Metrics:
    """The metrics of counters that were summed over time and proxies."""
    counted = {name: int(counters.get(name, 0)) for name in _REQUESTS.values()}
    grpc = {name: int(n) for name, n in counters.items() if name.startswith(_GRPC)}
    failed = {_GRPC + name: grpc.get(f"{_GRPC}{n}", 0) for n, name in _GRPC_FAILURES.items()}
    causes = counted | failed
    return Metrics(
        # Requests of callers without a proxy appear only in the gRPC statuses.
        attempts=max(counted["completed"] + counted["retried"], sum(grpc.values())),
        failures=counted["5xx"] + max(counted["retried"], sum(failed.values())),
        p99=quantile(counters, 0.99),
        grpc=sum(grpc.values()),
        causes={name: n for name, n in causes.items() if n and name != "completed"},
    )


def quantile(counters: Counters, share: float) -> float | None:
    """A quantile of the response times in ms; None without responses.

    Linear interpolation within the bucket, as Prometheus's histogram_quantile does; a time above
    the last bound is that bound.
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
    """A rate with enough digits to show 99.99 and 100 differently."""
    return f"{rate:.2f}".rstrip("0").rstrip(".")


# --- plaintext that a sidecar receives -----------------------------------------------------------

_HTTP = re.compile(
    r"envoy_http_(?:[iI]nbound\w*_)?downstream_cx_(?P<mtls>ssl_)?(?P<kind>total|active)"
)
_PREFIX = re.compile(r"envoy_http_([iI]nbound\w*)_downstream_cx_")


@dataclass(frozen=True, kw_only=True)
class Inbound:
    """A sidecar's connections without mTLS: since it started, and those that are open now.

    Both by the pod's port, or TCP, or OTHER_PORTS. tcp_ports: the ports that TCP sums up.
    """

    since_start: Mapping[str, float]
    open: Mapping[str, float]
    tcp_ports: frozenset[str]


def keeps_inbound(text: str) -> bool:
    """Whether a sidecar keeps the statistics of inbound connections; by default it does not."""
    return any(
        sample.name == "envoy_listener_downstream_cx_total" and _is_inbound(sample)
        for sample in parse(text)
    )


def _is_inbound(sample: Sample) -> bool:
    return sample.labels.get("listener_address", "").endswith("_15006")


def inbound(text: str) -> Inbound | None:
    """The plaintext that a sidecar received; None if it does not keep these statistics.

    HTTP: all connections minus those with TLS. Envoy counts both together, so the difference is
    exact. TCP: all connections minus the handshakes that were not for HTTP; a handshake in progress
    looks like plaintext.
    """
    if not keeps_inbound(text):
        return None
    kinds = ("total", "active", "ssl_total", "ssl_active")
    http: dict[str, dict[str, float]] = {kind: {} for kind in kinds}
    tcp: dict[str, float] = {}
    handshakes = 0.0
    for sample in parse(text):
        if match := _HTTP.fullmatch(sample.name):
            in_name = "".join(_PREFIX.findall(sample.name))
            prefix = sample.labels.get("http_conn_manager_prefix") or in_name
            if prefix.lower().startswith("inbound"):
                kind = (match["mtls"] or "") + match["kind"]
                http[kind][prefix] = sample.value
        elif sample.name == "envoy_tcp_downstream_cx_total":
            prefix = sample.labels.get("tcp_prefix", "")
            if prefix.lower().startswith("inbound"):
                tcp[prefix] = sample.value
        elif sample.name == "envoy_listener_ssl_handshake" and _is_inbound(sample):
            handshakes += sample.value
    since_start = _without_mtls(http["total"], http["ssl_total"])
    with_mtls = handshakes - sum(http["ssl_total"].values())
    if tcp:
        since_start[TCP] = max(0.0, sum(tcp.values()) - with_mtls)
    return Inbound(
        since_start=since_start,
        open=_without_mtls(http["active"], http["ssl_active"]),
        tcp_ports=frozenset(_port(prefix) for prefix, value in tcp.items() if value),
    )


def _without_mtls(connections: Counters, with_mtls: Counters) -> dict[str, float]:
    return total(
        {_port(prefix): value - with_mtls.get(prefix, 0)} for prefix, value in connections.items()
    )


def _port(prefix: str) -> str:
    """The pod's port in a name of Istio: inbound_0.0.0.0_8080, inbound|9090||."""
    match = re.search(r"[|_](\d+)(?:\|\|.*)?$", prefix)
    return match[1] if match else OTHER_PORTS
