"""Readings of the proxies' statistics: a gate begins and ends with one that misses no proxy."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.gates.errors import GateError
from components.gates.inventory import STATS_PORT, Inventory, Proxy

if TYPE_CHECKING:
    from components.gates.api import Api

_TRIES = 5
_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What proxies show at one moment. texts: their statistics, by their keys."""

    inventory: Inventory
    proxies: Sequence[Proxy]
    texts: Mapping[str, str]

    @property
    def unread(self) -> list[Proxy]:
        """Proxies that did not answer; a pod that is ending may have lost its proxy already."""
        return [p for p in self.proxies if p.key not in self.texts and not p.is_ending]

    def without(self, keeps: Callable[[str], bool]) -> list[Proxy]:
        """Sidecars that answered, with a text that does not hold what they should keep."""
        return [
            proxy
            for proxy in self.proxies
            if proxy.sidecar
            and not proxy.is_ending
            and proxy.key in self.texts
            and not keeps(self.texts[proxy.key])
        ]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the proxies that concern a gate.

    wanted: a regular expression for the statistics. keeps: whether a sidecar that answers with a
    text keeps them. unchanged: what an error says of the edit.
    """

    api: "Api"
    wanted: str
    keeps: Callable[[str], bool]
    concerns: Callable[[Proxy], bool]
    unchanged: str

    def read(self) -> Reading:
        """Read once; proxies that do not answer are missing. GateError without an inventory."""
        inventory = self.api.inventory()
        proxies = [proxy for proxy in inventory.proxies if self.concerns(proxy)]
        texts = self.api.stats(proxies, self.wanted)
        return Reading(inventory=inventory, proxies=proxies, texts=texts)

    def read_whole(self) -> Reading:
        """Read until no proxy is missing; GateError names those that stay so."""
        for _ in range(_TRIES - 1):
            try:
                return self._checked(self.read())
            except GateError:
                time.sleep(_PAUSE_SECONDS)
        return self._checked(self.read())

    def _checked(self, reading: Reading) -> Reading:
        if reading.unread:
            raise GateError(
                f"the proxies of {workloads(reading.unread)} cannot be read; {self.unchanged}",
                why=f"the API server does not reach their port {STATS_PORT}; what is not measured "
                "may be bad",
                fix="see whether the pods are ready (kubectl get pods -A) and whether a "
                f"NetworkPolicy blocks port {STATS_PORT}, then run `pulumi up` again",
            )
        if silent := reading.without(self.keeps):
            raise GateError(
                f"the proxies of {workloads(silent)} do not keep the statistics of the "
                f"gates; {self.unchanged}",
                why="a proxy reads at its start which statistics to keep, and these started "
                "earlier; what is not measured may be bad",
                fix="restart the workloads (kubectl rollout restart), then run `pulumi up` again",
            )
        return reading


def workloads(proxies: Sequence[Proxy]) -> str:
    """The names of the proxies' workloads."""
    return ", ".join(sorted({proxy.workload for proxy in proxies}))
