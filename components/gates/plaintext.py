"""The STRICT gate: the clients that still send plaintext to pods that are about to refuse it."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from components.gates import bare_pods, readings, selection, stats, webhooks
from components.gates.inventory import Inventory, Peers, Proxy
from components.gates.scope import UNCHANGED, Change, Scope
from components.manifests import mtls
from config import Mesh
from config.errors import NAMESPACE, NordmeshError
from config.scalars.durations import seconds

if TYPE_CHECKING:
    from components.gates.api import Api

Say = Callable[[str], None]

_STATS = r"([iI]nbound|15006).*(downstream_cx_(ssl_)?(total|active)|ssl.handshake)$"
_LEAST_WATCH_SECONDS = 3
_POLL_SECONDS = 5.0
_WATCHED_AT_ONCE = 32
_ADD_SIDECARS = (
    "add sidecars to the clients, or keep such ports PERMISSIVE at "
    f"{NAMESPACE}:mesh.services.<name>.mtls.ports; then run `pulumi up` again"
)
_OVERRIDE = (
    f"To go STRICT without this gate, write the reason at {NAMESPACE}:mesh.mtlsGate.override"
)
_NOTHING = stats.Inbound(since_start={}, open={}, tcp_ports=frozenset())


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The plaintext that a pod received. ports: connections by port, open ones included.

    insiders: clients with a sidecar; without any other client, one of them calls the pod's address.
    """

    workload: str
    ports: Mapping[str, int]
    clients: Sequence[str]
    insiders: Sequence[str]
    guesses: Sequence[str]

    def __str__(self) -> str:
        connections = " and ".join(
            f"{_count(count, 'connection')} to {_port_in_words(port)}"
            for port, count in self.ports.items()
        )
        return f"{self.workload}: {connections}{self._source}"

    @property
    def _source(self) -> str:
        if self.clients:
            return f", from {'; '.join(self.clients)}"
        if self.insiders:
            insiders = "; ".join(self.insiders)
            return (
                f", possibly from {insiders}, whose sidecar sends plaintext to the address of a pod"
            )
        if self.guesses:
            guesses = "; ".join(self.guesses)
            return f", too short to see the client; possibly {guesses}, without a sidecar"
        return ", from an unknown client"


def _port_in_words(port: str) -> str:
    return f"port {port}" if port.isdigit() else port


def check(api: "Api", change: Change, mesh: Mesh, say: Say) -> str:
    """Check that nobody sends plaintext to what becomes STRICT, and report it; else fail."""
    service = mesh.services.get(change.name)
    if change.name != mtls.NAMESPACE_POLICY and service is not None and service.mtls is not None:
        selection.check_modes(api, change.name, service, service.mtls)
    scope = Scope(mesh=mesh, change=change)
    watch = _Watch(api, scope, say)
    opted_out = bare_pods.refuse(change, scope, watch.inventory)
    if not watch.proxies:
        return f"STRICT gate, {change.path}: no running pod in its scope has a sidecar{opted_out}"
    webhooks.refuse(api, change, scope, watch.proxies)
    findings = watch.run(float(seconds(mesh.mtls_gate.window)))
    workloads = len({proxy.workload for proxy in watch.proxies})
    if findings:
        raise _plaintext(change, mesh, findings, workloads)
    return (
        f"STRICT gate, {change.path}: no plaintext to {_count(workloads, 'workload')} in "
        f"{mesh.mtls_gate.window}{opted_out}"
    )


class _Watch:
    """One measurement: the statistics of a window, and the peers of pods that receive plaintext.

    inventory, proxies: the running pods, and those in scope, at the last reading. A pod that starts
    within the window counts from 0; one that ends is no longer read. The first and the last reading
    must have all other pods.
    """

    proxies: Sequence[Proxy]
    inventory: Inventory

    def __init__(self, api: "Api", scope: Scope, say: Say) -> None:
        self._api, self._scope, self._say = api, scope, say
        self._reader = readings.Reader(
            api=api,
            wanted=_STATS,
            keeps=stats.keeps_inbound,
            concerns=scope.has,
            may_miss=lambda proxy: proxy.is_ending,
            path=scope.change.path,
            unchanged=UNCHANGED,
        )
        self._watched: dict[str, Future[Peers | None]] = {}
        self._seen: dict[str, dict[str, int]] = {}
        self._take(self._reader.read_all())
        self._at_start = {proxy.key for proxy in self.proxies}
        self._before = dict(self._read)

    def run(self, window: float) -> list[Finding]:
        end = time.monotonic() + window
        step = min(_POLL_SECONDS, window / 4)
        is_over = False
        with ThreadPoolExecutor(_WATCHED_AT_ONCE) as threads:
            while not is_over:
                time.sleep(max(0.0, min(step, end - time.monotonic())))
                is_over = time.monotonic() >= end
                seen = self._poll(is_last=is_over)
                self._watch_more(threads, seen, end)
                self._report(window - max(0.0, end - time.monotonic()), window, seen)
            if any(stats.TCP in ports for ports in seen.values()):
                time.sleep(1)
                seen = self._poll(is_last=True)
                self._watch_more(threads, seen, end)
            idle = self._idle_tcp()
        seen = {**idle.connections, **seen}
        if not seen:
            idle.refuse_unknown(self._scope.change)
        return [self._finding(proxy, seen[proxy.key]) for proxy in self.proxies
                if proxy.key in seen]  # fmt: skip

    def _take(self, reading: readings.Reading) -> None:
        self.inventory, self.proxies = reading.inventory, reading.proxies
        inbounds = {key: stats.inbound(text) for key, text in reading.texts.items()}
        self._read = {key: inbound for key, inbound in inbounds.items() if inbound is not None}

    def _poll(self, *, is_last: bool) -> dict[str, dict[str, int]]:
        """Connections without mTLS so far, by pod and port, to ports that become STRICT.

        is_last: fail if a proxy is missing.
        """
        try:
            self._take(self._reader.read_all() if is_last else self._reader.read())
        except NordmeshError:
            if is_last:
                raise
        for proxy in self.proxies:
            if (after := self._read.get(proxy.key)) is not None:
                # An ending pod that did not answer at the start counts from its first answer.
                nothing = after if proxy.key in self._at_start else _NOTHING
                self._count(proxy, self._before.setdefault(proxy.key, nothing), after)
        running = {proxy.key for proxy in self.proxies}
        return {key: ports for key, ports in self._seen.items() if ports and key in running}

    def _count(self, proxy: Proxy, before: stats.Inbound, after: stats.Inbound) -> None:
        new = stats.increase(before.since_start, after.since_start)
        seen = self._seen.setdefault(proxy.key, {})
        # The count of TCP may go down: a handshake in progress looked like plaintext.
        seen.pop(stats.TCP, None)
        for port, count in new.items():
            # An open connection may be older than the window.
            most = int(max(count, before.open.get(port, 0), after.open.get(port, 0)))
            if most and self._matters(proxy, port, after.tcp_ports):
                seen[port] = max(seen.get(port, 0), most)

    def _matters(self, proxy: Proxy, port: str, tcp_ports: frozenset[str]) -> bool:
        ports = tcp_ports if port == stats.TCP else (port,)
        return any(self._scope.has_port(proxy, single) for single in ports)

    def _watch_more(
        self, threads: ThreadPoolExecutor, seen: Mapping[str, object], end: float
    ) -> None:
        for proxy in self.proxies:
            if (proxy.key in seen or self._has_tcp(proxy)) and proxy.key not in self._watched:
                self._watched[proxy.key] = threads.submit(self._peers, proxy, end)

    def _peers(self, proxy: Proxy, end: float) -> Peers | None:
        """A pod's peers until the window ends, or for 3 s if it had to wait for a thread."""
        left = max(_LEAST_WATCH_SECONDS, int(end - time.monotonic()))
        return self._api.peers(proxy, left)

    def _has_tcp(self, proxy: Proxy) -> bool:
        read = self._read.get(proxy.key)
        return read is not None and self._matters(proxy, stats.TCP, read.tcp_ports)

    def _idle_tcp(self) -> "_IdleTcp":
        """Open connections to TCP ports from clients without a sidecar, by pod.

        Envoy counts a connection only when it starts, and connections to a database live long. If
        a pod has open HTTP plaintext too, an open connection may be either of the two.
        """
        idle = _IdleTcp()
        for proxy in self.proxies:
            if not self._has_tcp(proxy):
                continue
            peers = self._watched[proxy.key].result()
            outsiders = [ip for ip in peers.open if self.inventory.owner(ip)] if peers else []
            if peers is None:
                if not proxy.is_ending:
                    idle.blind.append(proxy)
            elif outsiders and any(self._read[proxy.key].open.values()):
                idle.mixed.append(proxy)
            elif outsiders:
                idle.connections[proxy.key] = {stats.TCP: len(outsiders)}
        return idle

    def _report(self, passed: float, window: float, seen: Mapping[str, object]) -> None:
        self._say(
            f"STRICT gate, {self._scope.change.path}: {passed:.0f} of {window:.0f} s, "
            f"plaintext to {len(seen)} of {_count(len(self.proxies), 'pod')}"
        )

    def _finding(self, proxy: Proxy, ports: Mapping[str, int]) -> Finding:
        peers = self._watched[proxy.key].result() or Peers()
        owners = {self.inventory.owner(address) for address in peers.connected}
        insiders = {self.inventory.with_sidecar.get(address) for address in peers.connected}
        recent = {self.inventory.without_sidecar.get(address) for address in peers.recent}
        return Finding(
            workload=proxy.workload,
            ports=ports,
            clients=sorted(filter(None, owners)),
            insiders=sorted(filter(None, insiders)),
            guesses=sorted(filter(None, recent)),
        )


@dataclass(frozen=True, kw_only=True)
class _IdleTcp:
    """Pods with TCP ports and no new connections.

    connections: open ones from clients without a sidecar, by pod and port. blind: pods that could
    not be looked into. mixed: pods whose open connections without mTLS go to HTTP or TCP ports.
    """

    connections: dict[str, dict[str, int]] = field(default_factory=dict)
    blind: list[Proxy] = field(default_factory=list)
    mixed: list[Proxy] = field(default_factory=list)

    def refuse_unknown(self, change: Change) -> None:
        """Fail for pods whose open connections may be plaintext to a TCP port."""
        if self.blind:
            command = "kubectl exec -n NAMESPACE POD -c istio-proxy -- cat /proc/net/tcp"
            raise NordmeshError(
                f"the open connections of {readings.pods(self.blind)} cannot be listed",
                unchanged=UNCHANGED,
                code="gate-exec-failed",
                path=change.path,
                why="a proxy counts a TCP connection only when it starts, and a command in the "
                "sidecar was refused, failed or did not answer; an open connection may be "
                "plaintext",
                fix=f"check that `{command}` works, then run `pulumi up` again. {_OVERRIDE}",
            )
        if self.mixed:
            raise NordmeshError(
                f"{readings.pods(self.mixed)} have open connections without mTLS, to HTTP or to "
                "TCP ports",
                unchanged=UNCHANGED,
                code="gate-plaintext-possible",
                path=change.path,
                why="STRICT refuses those to TCP ports",
                fix=f"{_ADD_SIDECARS}. {_OVERRIDE}",
            )


def refuse_from_disable(change: Change) -> None:
    """Fail for DISABLE to STRICT in one step: it would cut off every client at once."""
    if any(
        change.makes_port_strict(port) and change.before.mode_of(port) == "DISABLE"
        for port in change.ports
    ):
        raise NordmeshError(
            "the mode changes from DISABLE to STRICT in one step",
            unchanged=UNCHANGED,
            code="gate-disable-to-strict",
            path=change.path,
            why="under DISABLE every client sends plaintext, even those with sidecars, and they "
            "learn of the change later than the pods that refuse it",
            fix="write PERMISSIVE and run `pulumi up`, then write STRICT",
        )


def _plaintext(
    change: Change, mesh: Mesh, findings: Sequence[Finding], workloads: int
) -> NordmeshError:
    lines = "\n".join(map(str, findings))
    receivers = len({finding.workload for finding in findings})
    return NordmeshError(
        f"{receivers} of {_count(workloads, 'workload')} received plaintext in "
        f"{mesh.mtls_gate.window}; {UNCHANGED}\n{lines}",
        code="gate-plaintext",
        path=change.path,
        why="STRICT refuses these clients",
        fix=f"{_ADD_SIDECARS}. {_OVERRIDE}",
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
