"""The canary gate: the metrics that callers have of a canary, before it gets more requests."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.gates import readings, stats
from components.manifests import routes
from config import CanaryGate, Service
from config.errors import NAMESPACE, NordmeshError
from config.scalars.durations import seconds
from config.scalars.names import subset_name

if TYPE_CHECKING:
    from components.gates.api import Api
    from components.gates.inventory import Proxy

Say = Callable[[str], None]

_POLL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Raise:
    """An edit that gives the canary of a service more requests.

    name: the entry of mesh.services. subset: the canary's version. Weights in percent.
    """

    name: str
    service: Service
    subset: str
    gate: CanaryGate
    before: int
    after: int

    @property
    def service_name(self) -> str:
        return self.service.full_name(self.name)

    @property
    def path(self) -> str:
        """The key of the canary in the stack file."""
        return f"{NAMESPACE}:mesh.services.{self.name}.canary"

    @property
    def unchanged(self) -> str:
        """How an error says that the edit was not applied."""
        return f"the weight stays {self.before}"

    @property
    def cluster(self) -> str:
        """The name of the canary's cluster in Envoy."""
        port, host = self.service.split_port.number, routes.host(self.name, self.service)
        return f"outbound|{port}|{subset_name(self.subset)}|{host}"


def raised(
    name: str, service: Service, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Raise | None:
    """The raise in an edit of a VirtualService; None without a gate or a higher weight."""
    canary = service.canary
    if canary is None or canary.gate is None:
        return None
    weights = [routes.weight_of(inputs, subset_name(canary.subset)) for inputs in (before, after)]
    if routes.delegates(after):
        if routes.delegates(before):
            return None  # the weight is in another object
        weights[1] = canary.weight  # the routes move to the service's split
    if weights[1] <= weights[0]:
        return None
    return Raise(
        name=name,
        service=service,
        subset=canary.subset,
        gate=canary.gate,
        before=weights[0],
        after=weights[1],
    )


def check(api: "Api", edit: Raise, say: Say) -> str:
    """Measure a canary for the gate's window, and report its metrics; fail if they are too bad."""
    window = float(seconds(edit.gate.window))
    counted = _Count(api, edit)
    step = min(_POLL_SECONDS, window / 4)
    end = time.monotonic() + window
    is_over = False
    while not is_over:
        time.sleep(max(0.0, min(step, end - time.monotonic())))
        is_over = time.monotonic() >= end
        counted.poll(is_last=is_over)
        passed = window - max(0.0, end - time.monotonic())
        say(f"canary gate, {edit.service_name}: {passed:.0f} of {window:.0f} s, {counted.metrics}")
    judge(edit, counted.metrics, known=counted.is_known)
    result = f"{edit.subset} had {counted.metrics} in {edit.gate.window}"
    return f"canary gate, {edit.service_name}: {result}{counted.missed}"


class _Count:
    """Requests to a canary, summed over the proxies of the mesh and the polls of a window.

    A proxy that starts within the window counts from 0, one that ends until its last poll. The
    first and the last poll must have all other proxies, except those that are down: these carry no
    requests, so they must not block the canary of every service.
    """

    def __init__(self, api: "Api", edit: Raise) -> None:
        self._edit = edit
        # A dot, because `|` has a meaning in regular expressions.
        wanted = f"{edit.cluster.replace('|', '.')}.*upstream_|inbound.*grpc|{stats.KEPT}"
        self._reader = readings.Reader(
            api=api,
            wanted=wanted,
            keeps=lambda text: any(stats.parse(text)),
            concerns=lambda _proxy: True,
            may_miss=lambda proxy: proxy.is_ending or bool(proxy.down),
            path=edit.path,
            unchanged=edit.unchanged,
        )
        service, label = edit.service, edit.service.version_label
        selector = api.selector(service.namespace, service.kubernetes_name(edit.name))
        self._canary = {**selector, label: edit.subset} if selector else None
        self._sum: dict[str, float] = {}
        self.is_known = False
        first = self._reader.read_all()
        self._at_start = {proxy.key for proxy in first.proxies}
        self._down = {proxy.key: proxy.down for proxy in first.unread if proxy.down}
        self._last = self._requests(first)

    @property
    def metrics(self) -> stats.Metrics:
        return stats.metrics(self._sum)

    @property
    def missed(self) -> str:
        """The proxies that could not be read because they are down, for the end of a report."""
        pods = ", ".join(f"{key} ({reason})" for key, reason in sorted(self._down.items()))
        return f"; not measured: {pods}" if pods else ""

    def poll(self, *, is_last: bool) -> None:
        """Add the increase since the last poll. is_last: fail if a proxy is missing."""
        try:
            reading = self._reader.read_all() if is_last else self._reader.read()
        except NordmeshError:
            if is_last:
                raise
            return
        self._down |= {proxy.key: proxy.down for proxy in reading.unread if proxy.down}
        now = self._requests(reading)
        for key, counters in now.items():
            # A proxy that did not answer at the start counts from its first answer.
            before = self._last.get(key, counters if key in self._at_start else {})
            self._sum = stats.total([self._sum, stats.increase(before, counters)])
        # A proxy that could not be read this time continues from its last counters.
        self._last |= now

    def _requests(self, reading: readings.Reading) -> dict[str, dict[str, float]]:
        requests = {}
        for proxy in reading.proxies:
            if (text := reading.texts.get(proxy.key)) is None:
                continue
            counters = stats.requests(text, self._edit.cluster)
            self.is_known = self.is_known or bool(counters)
            if self._is_canary(proxy):
                counters |= stats.grpc_answers(text)
            requests[proxy.key] = counters
        return requests

    def _is_canary(self, proxy: "Proxy") -> bool:
        return (
            self._canary is not None
            and proxy.namespace == self._edit.service.namespace
            and self._canary.items() <= proxy.labels.items()
        )


def judge(edit: Raise, metrics: stats.Metrics, *, known: bool) -> None:
    """Fail if the metrics miss a limit of the gate, or do not show enough.

    known: whether any proxy counts requests to the canary. A raise from weight 0 passes without
    requests; those of testers are judged.
    """
    gate = edit.gate
    if not known:
        raise NordmeshError(
            f"no proxy of the mesh counts requests to {edit.subset} of {edit.service_name}; "
            f"{edit.unchanged}",
            code="gate-canary-not-counted",
            path=edit.path,
            why="a proxy learns at its start which statistics to keep; these proxies are older, or "
            "no pod that calls the service has a sidecar",
            fix="restart the workloads that call it (kubectl rollout restart), then run "
            "`pulumi up` again",
        )
    missed = list(_missed_limits(edit, metrics))
    if missed:
        raise NordmeshError(
            f"the canary {edit.subset} of {edit.service_name} had {metrics} in {gate.window}; "
            f"{edit.unchanged}\n" + "\n".join(missed),
            code="gate-canary-failed",
            path=edit.path,
            why=f"with weight {edit.after}, more callers would get such responses",
            fix=f"deploy a fixed {edit.subset}, or remove it: nordmesh canary abort {edit.name}. "
            f"To keep the weight, write {edit.before} in the stack file",
        )
    if edit.service.split_port.protocol == "grpc" and metrics.attempts and not metrics.grpc:
        raise NordmeshError(
            f"no proxy counts the gRPC statuses of {edit.subset} of {edit.service_name}, which had "
            f"{metrics}; {edit.unchanged}",
            code="gate-canary-without-grpc",
            path=edit.path,
            why="gRPC reports a failure inside a response 200. The canary's sidecars count these "
            "if the Service's port is named grpc-... or has the appProtocol grpc, and if they "
            "started with that setting; an open stream has no status yet",
            fix="use such a name, restart the canary's workload (kubectl rollout restart), or "
            "increase gate.window; then run `pulumi up` again",
        )


def _missed_limits(edit: Raise, metrics: stats.Metrics) -> Iterator[str]:
    gate = edit.gate
    if metrics.attempts < gate.min_requests and edit.before > 0:
        yield f"{metrics.attempts} requests are too few: gate.minRequests is {gate.min_requests}"
        return
    if metrics.success_rate < gate.min_success_rate:
        yield (
            f"{metrics.failures} of {metrics.attempts} failed: gate.minSuccessRate is "
            f"{gate.min_success_rate:g}%"
        )
    if gate.max_p99 and metrics.p99 is not None and metrics.p99 > seconds(gate.max_p99) * 1000:
        yield f"p99 is {metrics.p99:.3g} ms: gate.maxP99 is {gate.max_p99}"
