"""The canary gate: what callers saw of the canary, before it gets more requests."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.gates import readings, selection, stats
from components.gates.errors import GateError
from components.manifests import routes
from config import CanaryGate, Service
from config.scalars.durations import seconds

if TYPE_CHECKING:
    from components.gates.api import Api
    from components.gates.inventory import Proxy

Say = Callable[[str], None]

_POLL_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class Raise:
    """An edit that gives the canary of a service more requests. Weights in percent."""

    name: str
    service: Service
    subset: str
    gate: CanaryGate
    before: int
    after: int

    @property
    def place(self) -> str:
        return f"{self.service.namespace}/{self.name}"

    @property
    def cluster(self) -> str:
        """The canary's name in Envoy."""
        return f"outbound|{self.service.port}|{self.subset}|{routes.host(self.name, self.service)}"


def raised(
    name: str, service: Service, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Raise | None:
    """The raise that an edit of a VirtualService is; None if no gate is asked for or needed."""
    canary = service.canary
    if canary is None or canary.gate is None:
        return None
    weights = [weight_of(inputs, canary.subset) for inputs in (before, after)]
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


def weight_of(inputs: Mapping[str, Any], subset: str) -> int:
    """The share that a VirtualService gives a subset where it splits; 0 if it does so nowhere.

    Rules that lead testers to one subset have no weights.
    """
    spec = inputs.get("spec", {})
    return max(
        (
            int(route.get("weight", 0))
            for kind in ("http", "tcp", "tls")
            for rule in spec.get(kind, ())
            for route in rule.get("route", ())
            if route["destination"].get("subset") == subset
        ),
        default=0,
    )


def check(api: "Api", edit: Raise, say: Say) -> str:
    """What was measured, when the canary may get more requests; raises GateError otherwise."""
    refuse_without_pods(api, edit)
    window = float(seconds(edit.gate.window))
    counted = _Count(api, edit)
    step = min(_POLL_SECONDS, window / 4)
    end = time.monotonic() + window
    is_over = False
    while not is_over:
        time.sleep(max(0.0, min(step, end - time.monotonic())))
        is_over = time.monotonic() >= end
        counted.poll(whole=is_over)
        passed = window - max(0.0, end - time.monotonic())
        say(f"canary gate, {edit.place}: {passed:.0f} of {window:.0f} s, {counted.figures}")
    judge(edit, counted.figures, known=counted.is_known)
    return f"canary gate, {edit.place}: {edit.subset} had {counted.figures} in {edit.gate.window}"


def refuse_without_pods(api: "Api", edit: Raise) -> None:
    """Raise GateError if no pod of the canary could answer: from weight 0 nothing else tells."""
    namespace = edit.service.namespace
    selected = api.selector(namespace, edit.name)
    labels = {**(selected or {}), "version": edit.subset}
    if any(pod.is_ready and pod.has(labels) for pod in api.pods(namespace)):
        return
    raise GateError(
        f"no ready pod of {edit.place} has {selection.in_words(labels)}; the weight stays "
        f"{edit.before}",
        why=f"{edit.after}% of the requests would get 503",
        fix=f"deploy {edit.subset} with these labels and wait until it is ready, then run "
        "`pulumi up` again",
    )


class _Count:
    """Requests to a canary, summed over the proxies of the mesh and the polls of a window.

    A proxy that starts in between counts from 0, and one that ends has its last poll counted. No
    other is missing at the first poll and at the last one, or there is no judgement.
    """

    def __init__(self, api: "Api", edit: Raise) -> None:
        self._edit = edit
        # Any character may stand between the parts, since `|` is one of regular expressions.
        wanted = f"{edit.cluster.replace('|', '.')}.*upstream_|inbound.*grpc|{stats.KEPT}"
        self._reader = readings.Reader(
            api=api,
            wanted=wanted,
            keeps=lambda text: any(stats.parse(text)),
            concerns=lambda _proxy: True,
            unchanged=f"the weight stays {edit.before}",
        )
        selected = api.selector(edit.service.namespace, edit.name)
        self._canary = {**selected, "version": edit.subset} if selected else None
        self._sum: dict[str, float] = {}
        self.is_known = False
        first = self._reader.read_whole()
        self._at_start = {proxy.key for proxy in first.proxies}
        self._last = self._requests(first)

    @property
    def figures(self) -> stats.Figures:
        return stats.figures(self._sum)

    def poll(self, *, whole: bool) -> None:
        """Count what has been added. whole: raise GateError if a proxy is missing."""
        try:
            now = self._requests(self._reader.read_whole() if whole else self._reader.read())
        except GateError:
            if whole:
                raise
            return
        for key, counters in now.items():
            # An ending pod that did not answer at first counts from its first answer.
            before = self._last.get(key, counters if key in self._at_start else {})
            self._sum = stats.total([self._sum, stats.increase(before, counters)])
        # A proxy that could not be read this time goes on from where it was.
        self._last |= now

    def _requests(self, reading: readings.Reading) -> dict[str, dict[str, float]]:
        found = {}
        for proxy in reading.proxies:
            if (text := reading.texts.get(proxy.key)) is None:
                continue
            counters = stats.requests(text, self._edit.cluster)
            self.is_known = self.is_known or bool(counters)
            if self._is_canary(proxy):
                counters |= stats.grpc_answers(text)
            found[proxy.key] = counters
        return found

    def _is_canary(self, proxy: "Proxy") -> bool:
        return (
            self._canary is not None
            and proxy.namespace == self._edit.service.namespace
            and self._canary.items() <= proxy.labels.items()
        )


def judge(edit: Raise, figures: stats.Figures, *, known: bool) -> None:
    """Raise GateError if the figures are below what the gate asks for, or do not show enough.

    known: whether any proxy counts requests to the canary. Up from weight 0 there may be no
    requests at all; those that testers sent are judged.
    """
    gate = edit.gate
    if not known:
        raise GateError(
            f"no proxy of the mesh counts requests to {edit.subset} of {edit.place}; the weight "
            f"stays {edit.before}",
            why="proxies read when they start which figures to keep, and these are older, or no "
            "pod that calls the service has a sidecar",
            fix="restart the workloads that call it (kubectl rollout restart), then run "
            "`pulumi up` again",
        )
    wrong = list(_wrong(edit, figures))
    if wrong:
        raise GateError(
            f"the canary {edit.subset} of {edit.place} had {figures} in {gate.window}; the weight "
            f"stays {edit.before}\n" + "\n".join(f"      {line}" for line in wrong),
            why=f"with weight {edit.after} more callers would get such answers",
            fix=f"mend {edit.subset}, or take it out: nordmesh canary abort {edit.name}; "
            f"write {edit.before} in the stack file if the weight is to stay",
        )
    if edit.service.protocol == "grpc" and figures.attempts and not figures.grpc:
        raise GateError(
            f"no proxy counts the gRPC statuses of {edit.subset} of {edit.place}, which had "
            f"{figures}; the weight stays {edit.before}",
            why="gRPC tells of a failure inside an answer 200. The canary's sidecars count these "
            "where the Service's port is named grpc-... or has appProtocol grpc, if they are not "
            "older than this setting; a stream that has not ended has no status yet",
            fix="name the port so, restart the canary's workload (kubectl rollout restart), or "
            "lengthen gate.window, then run `pulumi up` again",
        )


def _wrong(edit: Raise, figures: stats.Figures) -> list[str]:
    gate = edit.gate
    if figures.attempts < gate.min_requests and edit.before > 0:
        return [f"{figures.attempts} requests are too few to judge by: gate.minRequests is "
                f"{gate.min_requests}"]  # fmt: skip
    wrong = []
    if figures.success_rate < gate.min_success_rate:
        wrong.append(
            f"{figures.failures} of {figures.attempts} failed: gate.minSuccessRate is "
            f"{gate.min_success_rate:g}%"
        )
    if gate.max_p99 and figures.p99 is not None and figures.p99 > seconds(gate.max_p99) * 1000:
        wrong.append(f"p99 is {figures.p99:.3g} ms: gate.maxP99 is {gate.max_p99}")
    return wrong
