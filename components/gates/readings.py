"""Read the proxies' statistics: a gate starts and ends with a reading that misses no proxy."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from components.gates.inventory import BarePod, Inventory, Proxy
from config import ports
from config.errors import NordmeshError

if TYPE_CHECKING:
    from components.gates.api import Api

_ATTEMPTS = 5
_PAUSE_SECONDS = 2.0
_NAMED_AT_MOST = 5


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What proxies show at one moment. texts: their statistics, by the proxies' keys."""

    inventory: Inventory
    proxies: Sequence[Proxy]
    texts: Mapping[str, str]

    @property
    def unread(self) -> list[Proxy]:
        """The proxies that did not answer."""
        return [proxy for proxy in self.proxies if proxy.key not in self.texts]

    def without(self, keeps: Callable[[str], bool]) -> list[Proxy]:
        """The sidecars whose text lacks the statistics that `keeps` looks for."""
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

    wanted: a regular expression for the names of the statistics. keeps: whether the text of a
    sidecar has them. may_miss: whether a proxy that does not answer is accepted. path: the key in
    the stack file. unchanged: how an error says that the edit was not applied.
    """

    api: "Api"
    wanted: str
    keeps: Callable[[str], bool]
    concerns: Callable[[Proxy], bool]
    may_miss: Callable[[Proxy], bool]
    path: str
    unchanged: str

    def read(self) -> Reading:
        """Read once; proxies that do not answer are missing. Fails without an inventory."""
        inventory = self.api.inventory()
        proxies = [proxy for proxy in inventory.proxies if self.concerns(proxy)]
        texts = self.api.stats(proxies, self.wanted)
        return Reading(inventory=inventory, proxies=proxies, texts=texts)

    def read_all(self) -> Reading:
        """Read until no proxy is missing; the error names those that do not answer."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_fixed(_PAUSE_SECONDS),
            retry=retry_if_exception_type(NordmeshError),
            reraise=True,
        )
        return retrying(lambda: self._checked(self.read()))

    def _checked(self, reading: Reading) -> Reading:
        if missing := [proxy for proxy in reading.unread if not self.may_miss(proxy)]:
            raise NordmeshError(
                f"the proxies of {pods(missing)} cannot be read; {self.unchanged}",
                code="gate-proxy-unreadable",
                path=self.path,
                why=f"they do not answer on port {ports.PROXY_STATS}, and what a gate cannot "
                "measure may be a failure",
                fix="check that these pods are ready (kubectl get pods -A) and that no "
                f"NetworkPolicy blocks port {ports.PROXY_STATS}, then run `pulumi up` again",
            )
        if silent := reading.without(self.keeps):
            raise NordmeshError(
                f"the proxies of {workloads(silent)} do not keep the statistics that gates read; "
                f"{self.unchanged}",
                code="gate-proxy-outdated",
                path=self.path,
                why="a proxy learns at its start which statistics to keep, and these proxies "
                "started before that setting",
                fix="restart their workloads (kubectl rollout restart), then run `pulumi up` again",
            )
        return reading


def pods(proxies: Iterable[Proxy]) -> str:
    """The pods of proxies, as namespace/name: the first few, and how many more."""
    return _first_few({proxy.key for proxy in proxies})


def workloads(pods: Iterable[Proxy | BarePod]) -> str:
    """The workloads of pods, as namespace/name: the first few, and how many more."""
    return _first_few({pod.workload for pod in pods})


def _first_few(names: set[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    shown = ", ".join(sorted(names)[:_NAMED_AT_MOST])
    return f"{shown} and {more} more" if more > 0 else shown
