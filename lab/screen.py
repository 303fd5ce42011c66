"""The last screen: the state of the lab, measured now, and the next commands.

Every value is read from the cluster when the screen is printed. Only the weights, which are shown
next to the measured shares, come from the stack file.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from cli import status
from components.manifests import echo
from components.tables import aligned
from config import OUTSIDE_NAMESPACE, Service
from lab import paths, programs
from lab.errors import LabError
from lab.services import Lab

REQUESTS = 1000
_CONCURRENCY = 8

# The standard deviations that a measured share may differ from its weight. Chance exceeds 4.4 once
# in 100,000 runs, so that a healthy lab is not reported as unhealthy.
_SIGMAS = 4.4

# The echo program's words for a refused connection.
_REFUSALS = {"connection reset", "connection closed", "connection refused"}

_WIDTH = 78


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the screen: its lines, and its problems, if any."""

    title: str
    lines: Sequence[str]
    problems: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Split:
    """The canary of one service: its configured weight in percent, and the counted answers."""

    service: str
    stable: str
    canary: str
    weight: int
    requests: int
    failed: int
    versions: Mapping[str, int]

    @property
    def share(self) -> float:
        """Percent of the requests that the canary answered."""
        return 100 * self.versions.get(self.canary, 0) / self.requests

    def problems(self) -> Iterator[str]:
        """The contradictions between the measurement and the weight."""
        if self.failed:
            yield f"{self.failed} of {self.requests} requests to {self.service} failed"
        p = self.weight / 100
        band = _SIGMAS * math.sqrt(p * (1 - p) / self.requests) * 100
        if abs(self.share - self.weight) > band:
            yield (
                f"{self.canary} of {self.service} got {self.share:.1f}% of {self.requests} "
                f"requests, which does not fit its weight of {self.weight}%"
            )


class Cluster:
    """Queries a cluster with the lab's kubectl and istioctl."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig

    def kubectl(self, *arguments: str, seconds: float = 120) -> str:
        """Return the output of kubectl; raises LabError with its error."""
        return self._run(_tool("kubernetes", "kubectl"), arguments, seconds)

    def istioctl(self, *arguments: str, seconds: float = 120) -> str:
        """Return the output of istioctl; raises LabError with its error."""
        built = [_tool(release.group, "istioctl") for release in programs.ISTIO]
        program = next((tool for tool in built if Path(tool).exists()), built[0])
        return self._run(program, arguments, seconds)

    def items(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        """The objects of a kind."""
        items: list[dict[str, Any]] = json.loads(
            self.kubectl("get", kind, "--output=json", *arguments)
        )["items"]
        return items

    def call(self, namespace: str, url: str, *options: str) -> dict[str, Any]:
        """The tally of requests that the demo's client in a namespace sends."""
        client = (f"deploy/{echo.CLIENT}", "-c", echo.CLIENT)
        command = ("/echo", "call", "--url", url, *options)
        text = self.kubectl("-n", namespace, "exec", *client, "--", *command, seconds=120)
        tally: dict[str, Any] = json.loads(text)
        return tally

    def _run(self, program: str, arguments: Sequence[str], seconds: float) -> str:
        command = [program, f"--kubeconfig={self.kubeconfig}", *arguments]
        short = f"{Path(program).name} {' '.join(arguments)}"
        try:
            result = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise LabError(
                f"`{short}` did not end in {seconds:.0f} s",
                code="lab-timeout",
                fix="run `make status` when the machine is less busy",
            ) from None
        except FileNotFoundError:
            raise LabError(f"{program} is missing", code="lab-tool", fix="run `make up`") from None
        if result.returncode:
            raise LabError(f"`{short}` failed: {result.stderr.strip()}", code="lab-command")
        return result.stdout


def _tool(group: str, name: str) -> str:
    return str(paths.cache().bin / group / name)


@contextmanager
def open_cluster(outputs: Mapping[str, Any]) -> Iterator[Cluster]:
    """Connect to the cluster of the stack's outputs, with its credentials in a private file."""
    kubeconfig = outputs.get("kubeconfig")
    if not kubeconfig:
        raise LabError("the stack has no kubeconfig yet", code="lab-not-up", fix="run `make up`")
    with NamedTemporaryFile("w", prefix="nordmesh-", suffix=".kubeconfig") as file:  # mode 0600
        file.write(kubeconfig)
        file.flush()
        yield Cluster(Path(file.name))


# --- queries -------------------------------------------------------------------------------


def nodes(cluster: Cluster) -> Section:
    """The nodes: role, version, readiness."""
    members = status.nodes(cluster.items("nodes"))
    return Section(
        title="Nodes",
        lines=aligned(status.row(node) for node in members),
        problems=list(status.node_problems(members)),
    )


def istio(cluster: Cluster) -> Section:
    """The control plane and the gateways: version and replicas."""
    deployed = status.deployments(cluster.items("deployments", "-n", status.SYSTEM))
    rows = [(one.name, one.version, f"{one.ready}/{one.replicas} ready") for one in deployed]
    return Section(
        title="Istio", lines=aligned(rows), problems=list(status.istio_problems(deployed))
    )


def proxies(cluster: Cluster) -> Section:
    """Count the proxies with the mesh's newest configuration."""
    rows = parse_proxy_status(cluster.istioctl("proxy-status"))
    behind = [name for name, states in rows.items() if not in_sync(states)]
    lines = [f"{len(rows) - len(behind)} of {len(rows)} in sync"]
    problems = [f"proxy {name} is not in sync: {', '.join(rows[name])}" for name in behind]
    if not rows:
        problems.append("no proxy is connected to istiod")
    return Section(title="Proxies", lines=lines, problems=problems)


def parse_proxy_status(text: str) -> dict[str, list[str]]:
    """Parse istioctl's table: the xDS states (CDS, LDS, EDS, RDS, ECDS) by proxy."""
    header, *rows = text.splitlines() or [""]
    # States hold single spaces ("NOT SENT"), so cells are cut where the header's words begin.
    words = [(match.group(), match.start()) for match in re.finditer(r"\S+", header)]
    ends = [start for _, start in words[1:]] + [None]
    columns = [(word, start, end) for (word, start), end in zip(words, ends, strict=False)]
    states = {"CDS", "LDS", "EDS", "RDS", "ECDS"}
    return {
        row.split()[0]: [row[a:b].strip() for word, a, b in columns if word in states]
        for row in rows
        if row.strip()
    }


def in_sync(states: Sequence[str]) -> bool:
    """Whether a proxy has its newest configuration; NOT SENT means that nothing is to be sent."""
    return bool(states) and all(
        state in {"NOT SENT", ""} or state.split()[0] == "SYNCED" for state in states
    )


def _port(service: Mapping[str, Any]) -> int:
    """The port of a service that is split."""
    return Service.model_validate(service).split_port.number


def measure_splits(cluster: Cluster, config: Mapping[str, Any]) -> list[Split]:
    """Send requests to each service with a canary and count the answers by version."""
    mesh = config.get("mesh") or {}
    splits = []
    for name, service in (mesh.get("services") or {}).items():
        canary = service.get("canary")
        if not canary:
            continue
        url = f"http://{name}:{_port(service)}/"
        options = ("--count", str(REQUESTS), "--concurrency", str(_CONCURRENCY))
        tally = cluster.call(service["namespace"], url, *options)
        split = Split(
            service=name,
            stable=service["stable"],
            canary=canary["subset"],
            weight=int(canary["weight"]),
            requests=tally["requests"],
            failed=tally["failed"],
            versions=tally["versions"],
        )
        splits.append(split)
    return splits


def canary(splits: Sequence[Split]) -> Section:
    """The measured shares next to the configured weights."""
    lines = []
    for split in splits:
        for version, weight in ((split.stable, 100 - split.weight), (split.canary, split.weight)):
            count = split.versions.get(version, 0)
            share = 100 * count / split.requests
            lines.append(
                f"{split.service} {version:<4} {bar(share)} {count:>5}  {share:5.1f}%"
                f"   weight {weight}%"
            )
        lines.append(f"{split.requests} requests from inside the mesh, {split.failed} failed")
    problems = [problem for split in splits for problem in split.problems()]
    return Section(title="Canary, measured", lines=lines, problems=problems)


def plaintext(cluster: Cluster, config: Mapping[str, Any]) -> Section:
    """Whether strict namespaces refuse a client that has no sidecar."""
    mesh = config.get("mesh") or {}
    namespaces = mesh.get("namespaces") or {}
    lines, problems = [], []
    for name, service in (mesh.get("services") or {}).items():
        space = service["namespace"]
        mode = (namespaces.get(space) or {}).get("mtls", mesh.get("mtls", "PERMISSIVE"))
        if mode != "STRICT":
            lines.append(f"{space} is {mode}: plaintext is accepted")
            continue
        url = f"http://{name}.{space}:{_port(service)}/"
        tally = cluster.call(OUTSIDE_NAMESPACE, url, "--count", "1")
        results = ", ".join(tally["errors"] or tally["statuses"])
        # Other failures, for example a name that is not found, say nothing about mutual TLS.
        if not tally["ok"] and set(tally["errors"]) & _REFUSALS:
            lines.append(f"{name}.{space} refuses a client without a sidecar ({results})")
        else:
            problems.append(f"{name}.{space} is STRICT, but a client without mTLS got: {results}")
    return Section(title="Mutual TLS", lines=lines, problems=problems)


# --- the screen ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Screen:
    """The sections of the screen."""

    sections: Sequence[Section]
    problems: Sequence[str] = field(default=())

    @property
    def is_healthy(self) -> bool:
        """Whether no section has a problem."""
        return not self.problems


def gather(lab: Lab, outputs: Mapping[str, Any], config: Mapping[str, Any]) -> Screen:
    """Query the cluster for all sections; raises LabError without a kubeconfig."""
    with open_cluster(outputs) as cluster:
        asked: list[tuple[str, Callable[[], Section]]] = [
            ("Nodes", lambda: nodes(cluster)),
            ("Istio", lambda: istio(cluster)),
            ("Proxies", lambda: proxies(cluster)),
        ]
        if (config.get("demo") or {}).get("enabled"):
            asked += [
                ("Canary, measured", lambda: canary(measure_splits(cluster, config))),
                ("Mutual TLS", lambda: plaintext(cluster, config)),
            ]
        with ThreadPoolExecutor(len(asked)) as pool:
            sections = list(pool.map(lambda one: _answered(*one), asked))
    sections.append(_next_steps(lab, config))
    return Screen(
        sections=sections,
        problems=[problem for section in sections for problem in section.problems],
    )


def _answered(title: str, ask: Callable[[], Section]) -> Section:
    """Return a section, or the reason why it is missing: one failure must not hide the rest."""
    try:
        return ask()
    except (LabError, KeyError, ValueError) as error:
        reason = error.what if isinstance(error, LabError) else f"unexpected answer: {error!r}"
        return Section(title=title, lines=["no answer"], problems=[f"{title}: {reason}"])


def _next_steps(lab: Lab, config: Mapping[str, Any]) -> Section:
    stack = "" if lab.stack == "local" else f" STACK={lab.stack}"
    lines = [". .lab/env                 # pulumi, kubectl and istioctl in this shell"]
    services = (config.get("mesh") or {}).get("services") or {}
    name = next((name for name, service in services.items() if service.get("canary")), None)
    if name:
        weight = 25 if services[name]["canary"].get("weight") != 25 else 50
        key = f"nordmesh:mesh.services.{name}.canary.weight"
        lines += [
            f"pulumi config set -s {lab.stack} --path '{key}' {weight}",
            f"pulumi up -s {lab.stack}          # one resource changes; 0 reverts the canary",
        ]
    lines += [
        f"make status{stack}                # this screen, measured again",
        f"make down{stack}                  # take it all down",
    ]
    return Section(title="What next", lines=lines)


def render(screen: Screen, *, colour: bool) -> str:
    """The screen as text."""
    bold, red, green, plain = ("\033[1m", "\033[31m", "\033[32m", "\033[0m") if colour else [""] * 4
    out = []
    for section in screen.sections:
        out.append(f"{bold}{section.title}{plain}")
        out += [f"  {line}" for line in section.lines]
        out += [
            f"  {red}! {line}{plain}" for problem in section.problems for line in _wrap(problem)
        ]
        out.append("")
    if screen.is_healthy:
        verdict = f"{green}All is well.{plain}"
    else:
        count = len(screen.problems)
        verdict = f"{red}{count} problem{'s' if count > 1 else ''}: see ! above.{plain}"
    rule = "=" * _WIDTH
    return "\n".join([rule, *out, verdict, rule])


def _wrap(text: str) -> list[str]:
    return [part for line in text.splitlines() for part in textwrap.wrap(line, _WIDTH - 4) or [""]]


def bar(percent: float, width: int = 30) -> str:
    """A share as a bar of fixed width."""
    filled = round(percent / 100 * width)
    return "#" * filled + "." * (width - filled)
