"""The STRICT gate: who still talks in plaintext to the pods that are about to refuse it."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from components.gates import readings, selection, stats
from components.gates.errors import GateError
from components.gates.inventory import Peers, Proxy
from components.manifests import mtls
from config import ROOT_NAMESPACE, Mesh, ServiceMtls
from config.scalars.durations import seconds

if TYPE_CHECKING:
    from components.gates.api import Api

Say = Callable[[str], None]

_STATS = r"([iI]nbound|15006).*(downstream_cx_(ssl_)?(total|active)|ssl.handshake)$"
_LEAST_WATCH_SECONDS = 3
_POLL_SECONDS = 5.0
_WATCHED_AT_ONCE = 32
_NOTHING = stats.Inbound(since_start={}, open={}, tcp_ports=frozenset())


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What a PeerAuthentication says: the mode of pods, if any, and of single ports."""

    mode: str | None
    ports: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, inputs: Mapping[str, Any]) -> "Policy":
        """The policy of a manifest's `spec`; one that is not there yet says nothing."""
        spec = inputs.get("spec", {})
        ports = spec.get("portLevelMtls", {})
        return cls(
            mode=spec.get("mtls", {}).get("mode"),
            ports={str(port): entry["mode"] for port, entry in ports.items()},
        )

    def mode_of(self, port: str) -> str | None:
        return self.ports.get(port, self.mode)


@dataclass(frozen=True, kw_only=True)
class Change:
    """An edit of the PeerAuthentication namespace/name."""

    namespace: str
    name: str
    before: Policy
    after: Policy

    @property
    def place(self) -> str:
        """Where the mode is in the stack file."""
        if self.name != mtls.NAMESPACE_POLICY:
            return f"mesh.services.{self.name}.mtls"
        if self.namespace == ROOT_NAMESPACE:
            return "mesh.mtls"
        return f"mesh.namespaces.{self.namespace}.mtls"

    @property
    def ports(self) -> set[str]:
        """The ports whose mode may change: those with a mode of their own, and all others."""
        return {*self.before.ports, *self.after.ports, stats.OTHER_PORTS}

    @property
    def makes_strict(self) -> bool:
        """Whether some port becomes STRICT that was not."""
        return any(self.makes_port_strict(port) for port in self.ports)

    def makes_port_strict(self, port: str) -> bool:
        return self.after.mode_of(port) == "STRICT" != self.before.mode_of(port)


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The pods and ports for which a change says the mode: no narrower policy does."""

    mesh: Mesh
    change: Change

    def has(self, proxy: Proxy) -> bool:
        """Whether a port of a pod may become STRICT."""
        return proxy.sidecar and any(self.has_port(proxy, port) for port in self.change.ports)

    def has_port(self, proxy: Proxy, port: str) -> bool:
        return self._is_governed(proxy, port) and self.change.makes_port_strict(port)

    def _is_governed(self, proxy: Proxy, port: str) -> bool:
        narrower = self._service_policies(proxy)
        if self.change.name != mtls.NAMESPACE_POLICY:
            return self.change.name in narrower and proxy.namespace == self.change.namespace
        if any(_says(policy, port) for policy in narrower.values()):
            return False
        if self.change.namespace == ROOT_NAMESPACE:
            settings = self.mesh.namespaces.get(proxy.namespace)
            return settings is None or settings.mtls is None
        return proxy.namespace == self.change.namespace

    def _service_policies(self, proxy: Proxy) -> dict[str, ServiceMtls]:
        return {
            name: service.mtls
            for name, service in self.mesh.services.items()
            if service.mtls is not None
            and service.namespace == proxy.namespace
            and service.mtls_labels(name).items() <= proxy.labels.items()
        }


def _says(policy: ServiceMtls, port: str) -> bool:
    by_text = {str(number): mode for number, mode in policy.ports.items()}
    return by_text.get(port, policy.mode) is not None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Plaintext that a pod received. ports: how many connections by port; open ones included."""

    workload: str
    ports: Mapping[str, int]
    clients: Sequence[str]
    guesses: Sequence[str]

    def __str__(self) -> str:
        told = " and ".join(
            f"{count} connection{'s' if count > 1 else ''} to {_port_in_words(port)}"
            for port, count in self.ports.items()
        )
        if self.clients:
            return f"{self.workload}: {told}, from {'; '.join(self.clients)}"
        if self.guesses:
            return (
                f"{self.workload}: {told}, too short to be seen; without a sidecar it lately had a "
                f"connection with {'; '.join(self.guesses)}"
            )
        return f"{self.workload}: {told}, from a client that could not be found"


def _port_in_words(port: str) -> str:
    return f"port {port}" if port.isdigit() else port


def check(api: "Api", change: Change, mesh: Mesh, say: Say) -> str:
    """What was measured, when nobody talks in plaintext to what becomes STRICT; else GateError."""
    service = mesh.services.get(change.name)
    if change.name != mtls.NAMESPACE_POLICY and service is not None and service.mtls is not None:
        selection.check_some(api, selection.modes(change.name, service, service.mtls))
    watch = _Watch(api, Scope(mesh=mesh, change=change), say)
    if not watch.proxies:
        return f"STRICT gate, {change.place}: no running pod has a sidecar there yet"
    findings = watch.run(float(seconds(mesh.mtls_gate.window)))
    workloads = len({proxy.workload for proxy in watch.proxies})
    if findings:
        raise _plaintext(change, mesh, findings, workloads)
    return (
        f"STRICT gate, {change.place}: no plaintext in {mesh.mtls_gate.window} at "
        f"{_count(workloads, 'workload')}"
    )


class _Watch:
    """One measurement: the statistics of a window, and the peers of who receives plaintext.

    proxies: the running pods in scope, at the last reading. A pod that starts in between counts
    from 0; one that ends is no longer asked about. No other is missing at the first reading and at
    the last one, or GateError names it.
    """

    proxies: Sequence[Proxy]

    def __init__(self, api: "Api", scope: Scope, say: Say) -> None:
        self._api, self._scope, self._say = api, scope, say
        self._reader = readings.Reader(
            api=api,
            wanted=_STATS,
            keeps=stats.keeps_inbound,
            concerns=scope.has,
            unchanged=f"{scope.change.place} stays as it was",
        )
        self._watched: dict[str, Future[Peers | None]] = {}
        self._seen: dict[str, dict[str, int]] = {}
        self._take(self._reader.read_whole())
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
                seen = self._poll(whole=is_over)
                self._watch_more(threads, seen, end)
                self._say_progress(window - max(0.0, end - time.monotonic()), window, seen)
            if any(stats.TCP in ports for ports in seen.values()):
                time.sleep(1)
                seen = self._poll(whole=True)
                self._watch_more(threads, seen, end)
            idle = self._idle_tcp()
        seen = {**idle.found, **seen}
        if not seen:
            idle.refuse_unknown(self._scope.change)
        return [self._finding(proxy, seen[proxy.key]) for proxy in self.proxies
                if proxy.key in seen]  # fmt: skip

    def _take(self, reading: readings.Reading) -> None:
        self._inventory, self.proxies = reading.inventory, reading.proxies
        inbounds = {key: stats.inbound(text) for key, text in reading.texts.items()}
        self._read = {key: inbound for key, inbound in inbounds.items() if inbound is not None}

    def _poll(self, *, whole: bool) -> dict[str, dict[str, int]]:
        """Connections without mTLS by pod and port so far, in what becomes STRICT only.

        whole: raise GateError if a proxy is missing.
        """
        try:
            self._take(self._reader.read_whole() if whole else self._reader.read())
        except GateError:
            if whole:
                raise
        for proxy in self.proxies:
            if (after := self._read.get(proxy.key)) is not None:
                # An ending pod that did not answer at first counts from its first answer.
                nothing = after if proxy.key in self._at_start else _NOTHING
                self._count(proxy, self._before.setdefault(proxy.key, nothing), after)
        here = {proxy.key for proxy in self.proxies}
        return {key: ports for key, ports in self._seen.items() if ports and key in here}

    def _count(self, proxy: Proxy, before: stats.Inbound, after: stats.Inbound) -> None:
        new = stats.increase(before.since_start, after.since_start)
        seen = self._seen.setdefault(proxy.key, {})
        # What TCP says may go down again: a handshake that was going on looked like plaintext.
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
        """A pod's peers until the window ends; shortly if it had to wait for its turn."""
        left = max(_LEAST_WATCH_SECONDS, int(end - time.monotonic()))
        return self._api.peers(proxy, left)

    def _has_tcp(self, proxy: Proxy) -> bool:
        read = self._read.get(proxy.key)
        return read is not None and self._matters(proxy, stats.TCP, read.tcp_ports)

    def _idle_tcp(self) -> "_IdleTcp":
        """Open connections to TCP ports from where there is no sidecar, by pod.

        Envoy counts a connection only when it begins, and those to a database live long. Where a
        pod has plaintext HTTP open as well, it cannot be known which of the two a connection is.
        """
        idle = _IdleTcp()
        for proxy in self.proxies:
            if not self._has_tcp(proxy):
                continue
            peers = self._watched[proxy.key].result()
            strangers = [ip for ip in peers.open if self._inventory.owner(ip)] if peers else []
            if peers is None:
                if not proxy.is_ending:
                    idle.blind.append(proxy)
            elif strangers and any(self._read[proxy.key].open.values()):
                idle.mixed.append(proxy)
            elif strangers:
                idle.found[proxy.key] = {stats.TCP: len(strangers)}
        return idle

    def _say_progress(self, passed: float, window: float, seen: Mapping[str, object]) -> None:
        self._say(
            f"STRICT gate, {self._scope.change.place}: {passed:.0f} of {window:.0f} s, "
            f"{_count(len(self.proxies), 'pod')} watched, plaintext at {len(seen)}"
        )

    def _finding(self, proxy: Proxy, ports: Mapping[str, int]) -> Finding:
        peers = self._watched[proxy.key].result() or Peers()
        owners = {self._inventory.owner(address) for address in peers.connected}
        lately = {self._inventory.without_sidecar.get(address) for address in peers.recent}
        return Finding(
            workload=proxy.workload,
            ports=ports,
            clients=sorted(filter(None, owners)),
            guesses=sorted(filter(None, lately)),
        )


@dataclass(frozen=True, kw_only=True)
class _IdleTcp:
    """Pods with TCP ports and no new connections.

    found: connections by pod and port. blind: nobody could look. mixed: those that have open
    connections without mTLS, to ports of HTTP or of TCP.
    """

    found: dict[str, dict[str, int]] = field(default_factory=dict)
    blind: list[Proxy] = field(default_factory=list)
    mixed: list[Proxy] = field(default_factory=list)

    def refuse_unknown(self, change: Change) -> None:
        """Raise GateError for pods whose open connections may be plaintext to a TCP port."""
        override = "To go STRICT all the same, write why at nordmesh:mesh.mtlsGate.override"
        if self.blind:
            command = "kubectl exec -n NAMESPACE POD -c istio-proxy -- cat /proc/net/tcp"
            raise GateError(
                f"the open connections of {readings.workloads(self.blind)} cannot be looked at; "
                f"{change.place} stays as it was",
                why="their proxies count TCP connections only when they begin, and a command in "
                "the sidecar was refused or failed; what is not measured may be plaintext",
                fix=f"see whether `{command}` works, then run `pulumi up` again. {override}",
            )
        if self.mixed:
            raise GateError(
                f"{readings.workloads(self.mixed)} have open connections without mTLS, and it "
                f"is unknown whether to HTTP or to TCP ports; {change.place} stays as it was",
                why="under STRICT those to TCP ports are refused",
                fix="give the clients sidecars, or keep the TCP ports PERMISSIVE at "
                f"mesh.services.<name>.mtls.ports; then run `pulumi up` again. {override}",
            )


def refuse_from_disable(change: Change) -> None:
    """Raise GateError for DISABLE to STRICT in one step: every client would be cut off at once."""
    if any(
        change.makes_port_strict(port) and change.before.mode_of(port) == "DISABLE"
        for port in change.ports
    ):
        raise GateError(
            f"{change.place} goes from DISABLE to STRICT in one step",
            why="under DISABLE every client talks in plaintext, those with sidecars too, and "
            "learns of the change later than the pods that begin to refuse it",
            fix="write PERMISSIVE and run `pulumi up`, then write STRICT",
        )


def _plaintext(
    change: Change, mesh: Mesh, findings: Sequence[Finding], workloads: int
) -> GateError:
    told = "\n".join(f"      {finding}" for finding in findings)
    receivers = len({finding.workload for finding in findings})
    return GateError(
        f"in {mesh.mtls_gate.window}, {receivers} of {_count(workloads, 'workload')} received "
        f"plaintext; {change.place} stays as it was\n{told}",
        why="under STRICT these clients are refused",
        fix="give them sidecars, or keep such ports PERMISSIVE at mesh.services.<name>.mtls."
        "ports; then run `pulumi up` again. To go STRICT all the same, write why at "
        "nordmesh:mesh.mtlsGate.override",
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
