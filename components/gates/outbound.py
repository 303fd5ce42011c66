"""The outbound gate: who calls hosts that are not listed, before REGISTRY_ONLY refuses them."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from components.gates import readings, stats
from components.gates.inventory import Inventory, Proxy
from components.manifests import istio_operator
from components.remote import node_command
from config import Egress
from config.errors import NAMESPACE, NordmeshError
from config.scalars.durations import seconds

if TYPE_CHECKING:
    from components.gates.api import Api

Say = Callable[[str], None]

_PATH = f"{NAMESPACE}:istio.outboundTrafficPolicy"
_UNCHANGED = "Istio stays as it was"
_CLUSTER = "PassthroughCluster"
_STATS = rf"cluster\.{_CLUSTER}\.upstream_(cx|rq)_(total|active)$"
_TOTALS = ("cx_total", "rq_total")
_WATCHED_AT_ONCE = 32
_POLL_SECONDS = 5.0
_SHOWN_AT_MOST = 5


def closes(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether an edit of the installation makes proxies refuse hosts that they allowed before."""
    return (_policy(before), _policy(after)) == ("ALLOW_ANY", "REGISTRY_ONLY")


def _policy(inputs: Mapping[str, Any]) -> str | None:
    settings = node_command.settings(str(inputs.get("create") or ""))
    spec = istio_operator.specs(settings).get(istio_operator.CONTROL_PLANE) or {}
    policy = (spec.get("meshConfig") or {}).get("outboundTrafficPolicy") or {}
    mode: str | None = policy.get("mode")
    return mode


def check(api: "Api", egress: Egress, say: Say) -> str:
    """Check that no workload calls a host outside that is not listed, and report it; else fail."""
    window = float(seconds(egress.gate.window))
    watch = _Watch(api)
    end = time.monotonic() + window
    step = min(_POLL_SECONDS, window / 4)
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(step, left))
        watch.poll()
        passed = window - max(0.0, end - time.monotonic())
        say(f"outbound gate: {passed:.0f} of {window:.0f} s, {len(watch.calls)} workloads")
    watch.poll(is_last=True)
    if watch.calls:
        raise _refusal(watch.lines(), egress.gate.window)
    return f"outbound gate: no call to a host that is not listed in {egress.gate.window}"


class _Watch:
    """Calls to hosts that no entry lists, by proxy; those that are open already count, too."""

    def __init__(self, api: "Api") -> None:
        self._api = api
        self._reader = readings.Reader(
            api=api,
            wanted=_STATS,
            keeps=lambda text: bool(_counters(text)),
            concerns=lambda proxy: proxy.sidecar,
            may_miss=lambda proxy: proxy.is_ending,
            path=_PATH,
            unchanged=_UNCHANGED,
        )
        self._counted: dict[str, float] = {}
        self._open: dict[str, float] = {}
        self._proxies: dict[str, Proxy] = {}
        self._addresses: dict[str, set[str]] = {}
        self._last: dict[str, stats.Counters] = {}
        self._at_start: set[str] | None = None
        self._take(self._reader.read_all())
        self._at_start = set(self._proxies)

    @property
    def calls(self) -> dict[str, int]:
        """The calls of each proxy that makes any: new ones, or those that were open."""
        return {
            key: most
            for key in self._proxies
            if (most := int(max(self._counted.get(key, 0), self._open.get(key, 0))))
        }

    def poll(self, *, is_last: bool = False) -> None:
        try:
            self._take(self._reader.read_all() if is_last else self._reader.read())
        except NordmeshError:
            if is_last:
                raise

    def lines(self) -> list[str]:
        """One line for each workload that calls such hosts, with the addresses that were seen."""
        counts: dict[str, int] = {}
        addresses: dict[str, set[str]] = {}
        for key, count in self.calls.items():
            workload = self._proxies[key].workload
            counts[workload] = counts.get(workload, 0) + count
            addresses.setdefault(workload, set()).update(self._addresses.get(key, ()))
        return [
            f"{workload}: {count} calls, {_shown(addresses[workload])}"
            for workload, count in sorted(counts.items())
        ]

    def _take(self, reading: readings.Reading) -> None:
        busy = []
        for proxy in reading.proxies:
            if (text := reading.texts.get(proxy.key)) is None:
                continue
            key, counters = proxy.key, _counters(text)
            now = {name: value for name, value in counters.items() if name in _TOTALS}
            # A proxy that starts within the window counts from 0.
            is_new = self._at_start is not None and key not in self._at_start
            new = stats.increase(self._last.get(key, {} if is_new else now), now)
            self._last[key] = now
            self._proxies[key] = proxy
            self._counted[key] = self._counted.get(key, 0) + max(new.values(), default=0)
            self._open[key] = max(self._open.get(key, 0), counters.get("cx_active", 0))
            if max(new.values(), default=0) or counters.get("cx_active"):
                busy.append(proxy)
        self._look(busy, reading.inventory)

    def _look(self, proxies: list[Proxy], inventory: Inventory) -> None:
        """Add the addresses outside that proxies have connections to now."""
        with ThreadPoolExecutor(_WATCHED_AT_ONCE) as threads:
            for proxy, found in zip(
                proxies, threads.map(self._api.destinations, proxies), strict=True
            ):
                outside = {
                    address
                    for address in found
                    if "outside" in (inventory.owner(address.rpartition(":")[0]) or "")
                }
                self._addresses.setdefault(proxy.key, set()).update(outside)


def _counters(text: str) -> dict[str, float]:
    """A proxy's counters of calls to hosts that it does not know; {} if it does not keep them."""
    counters = {
        sample.name.removeprefix("envoy_cluster_upstream_"): sample.value
        for sample in stats.parse(text)
        if sample.labels.get("cluster_name") == _CLUSTER
    }
    return counters if {"cx_total", "cx_active"} <= counters.keys() else {}


def _shown(addresses: set[str]) -> str:
    if not addresses:
        return "to an address that was not seen"
    more = len(addresses) - _SHOWN_AT_MOST
    shown = ", ".join(sorted(addresses)[:_SHOWN_AT_MOST])
    return f"to {shown}" + (f" and {more} more" if more > 0 else "")


def _refusal(lines: list[str], window: str) -> NordmeshError:
    count = f"{len(lines)} workload{'' if len(lines) == 1 else 's'}"
    text = "\n".join(lines)
    return NordmeshError(
        f"in {window}, {count} called hosts that are not listed; {_UNCHANGED}\n{text}",
        code="gate-outbound",
        path=_PATH,
        why="REGISTRY_ONLY refuses these calls",
        fix=f"list the hosts at {NAMESPACE}:mesh.egress.hosts. To try the list first, keep "
        f"ALLOW_ANY, write the reason at {NAMESPACE}:mesh.egress.gate.trial and run `pulumi up`; "
        "calls to listed hosts then do not count here. To switch without this gate, "
        f"write the reason at {NAMESPACE}:mesh.egress.gate.override",
    )
