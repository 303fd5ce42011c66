"""Overhead of the mesh per request: the same client and service with and without sidecars."""

from typing import Any

from lab.screen import Cluster
from tests.bench.bench_lab import Say
from tests.bench.ratios import Ratio, in_turn
from tests.bench.workload import PORT, SERVICE, open_workload

_WITH, _WITHOUT = "nordmesh-bench-with", "nordmesh-bench-without"
_LOAD = ("--duration", "5s", "--rate", "100", "--concurrency", "4")
_PERCENTILES = ("p50", "p99")


def measure(cluster: Cluster, *, rounds: int, say: Say) -> list[Ratio]:
    """Measure latencies at 100 requests per second over open connections, in pairs of five seconds.

    With sidecars, a request passes two Envoys with mTLS between them; without, none.
    """
    seen: dict[str, list[dict[str, float]]] = {_WITH: [], _WITHOUT: []}

    def p50_of(namespace: str) -> float:
        latencies = _latencies(cluster, namespace)
        seen[namespace].append(latencies)
        return latencies["p50"]

    with (
        open_workload(cluster, _WITH, injected=True),
        open_workload(cluster, _WITHOUT, injected=False),
    ):
        in_turn([lambda: p50_of(_WITH), lambda: p50_of(_WITHOUT)], rounds=rounds, say=say)
    return [
        Ratio(
            name=f"a request's {percentile}, with sidecars",
            beside="without",
            # The first of each is a warm-up.
            ours=[percentiles[percentile] for percentiles in seen[_WITH][1:]],
            theirs=[percentiles[percentile] for percentiles in seen[_WITHOUT][1:]],
        )
        for percentile in _PERCENTILES
    ]


def _latencies(cluster: Cluster, namespace: str) -> dict[str, float]:
    """Return percentiles in seconds; raise AssertionError if a request failed."""
    url = f"http://{SERVICE}.{namespace}.svc.cluster.local:{PORT}/"
    tally: dict[str, Any] = cluster.call(namespace, url, *_LOAD)
    assert tally["failed"] == 0, tally
    return {name: tally["latency_ms"][name] / 1000 for name in _PERCENTILES}
