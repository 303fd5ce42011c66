"""The time from the API write of a weight to the last proxy's change, and where it goes.

A proxy of the cluster says itself when it took the new routes (`last_updated` in its config dump),
and istiod's log says when it saw the write and when it began to push: nodes and benchmark share a
clock. Besides the cluster's own proxies there are simulated ones (see xds).
"""

import datetime
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from components.manifests import Manifest, routes
from lab.errors import LabError
from lab.screen import Cluster
from tests.bench.bench_lab import Say
from tests.bench.ratios import Ratio
from tests.bench.workload import SERVICE, open_workload, service
from tests.bench.xds import Simulated, open_simulated
from tests.support.applied import apply

Write = Callable[[Manifest], None]
"""Writes an object to the API server."""

PROXIES = 50
LIMIT_SECONDS = 0.1

_DEBOUNCE = "PILOT_DEBOUNCE_AFTER"
_DEFAULT = "100ms"  # of istiod
_NAMESPACE = "nordmesh-bench"
_SYSTEM = "istio-system"
_XDS = "istiod-bench"
_XDS_PORT = 15010
_SECONDS = 20.0  # for one edit, at most


@dataclass(frozen=True, kw_only=True)
class Spread:
    """One edit of a weight; all figures are seconds since the API write was begun.

    written: the API server had answered. seen: istiod's watch had told it. pushed: its debounce
    was over. real, simulated: the last proxy had the new routes.
    """

    written: float
    seen: float
    pushed: float
    real: float
    simulated: float

    @property
    def last(self) -> float:
        return max(self.real, self.simulated)


def measure(cluster: Cluster, *, edits: int, say: Say) -> tuple[Ratio, list[str]]:
    """Edits with istiod as the stack configures it, beside istiod's own default debounce.

    Leaves istiod's deployment as it was.
    """
    with open_workload(cluster, _NAMESPACE, injected=True):
        ours = _spreads(cluster, edits)
        say(f"as configured ({debounce(cluster) or _DEFAULT}): {describe(ours)}")
        with debounce_of(cluster, _DEFAULT):
            theirs = _spreads(cluster, edits)
        say(f"istiod's default ({_DEFAULT}): {describe(theirs)}")
    ratio = Ratio(
        name=f"a weight to the last of {PROXIES} proxies and more",
        beside="istiod's default debounce",
        ours=[spread.last for spread in ours],
        theirs=[spread.last for spread in theirs],
        limit=1.0,
    )
    value = median(ratio.ours)
    verdict = "within" if value <= LIMIT_SECONDS else "over"
    note = (
        f"A weight reaches the last of {PROXIES} simulated proxies and the cluster's own in "
        f"{value * 1000:.0f} ms ({verdict} {LIMIT_SECONDS * 1000:.0f} ms): {describe(ours)}."
    )
    return ratio, [note]


def describe(spreads: Sequence[Spread]) -> str:
    """The medians of the parts, in milliseconds."""

    def part(seconds: Iterable[float]) -> str:
        return f"{median(seconds) * 1000:.0f}"

    written = part(s.written for s in spreads)
    seen = part(max(s.seen - s.written, 0) for s in spreads)
    debounced = part(s.pushed - max(s.seen, s.written) for s in spreads)
    sent = part(s.last - s.pushed for s in spreads)
    real, simulated = part(s.real for s in spreads), part(s.simulated for s in spreads)
    worst = f"{max(s.last for s in spreads) * 1000:.0f}"
    return (
        f"API write {written} ms, istiod sees it +{seen}, debounce +{debounced}, push to the last "
        f"proxy +{sent}; last proxy of the cluster {real}, last simulated {simulated}, "
        f"worst edit {worst}"
    )


def debounce(cluster: Cluster) -> str | None:
    """How long istiod waits for more changes before it pushes; None is its default."""
    (container,) = _istiod(cluster)["spec"]["template"]["spec"]["containers"]
    values = {one["name"]: one.get("value") for one in container["env"]}
    found: str | None = values.get(_DEBOUNCE)
    return found


@contextmanager
def debounce_of(cluster: Cluster, value: str) -> Iterator[None]:
    """istiod with another debounce, set by hand; undone at the end."""
    deployment = f"deployment/{_istiod(cluster)['metadata']['name']}"
    container = {
        "name": "discovery",
        "env": [{"name": _DEBOUNCE, "value": value}],
        # Two of them run for a moment, and a small node has no room for what istiod asks for.
        "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
    }
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    cluster.kubectl("-n", _SYSTEM, "patch", deployment, "--patch", json.dumps(patch))
    try:
        _rolled_out(cluster, deployment)
        yield
    finally:
        cluster.kubectl("-n", _SYSTEM, "rollout", "undo", deployment)
        _rolled_out(cluster, deployment)


def _rolled_out(cluster: Cluster, deployment: str) -> None:
    cluster.kubectl("-n", _SYSTEM, "rollout", "status", deployment, "--timeout=120s", seconds=130)


def _istiod(cluster: Cluster) -> dict[str, Any]:
    (deployment,) = cluster.items("deployments", "-n", _SYSTEM, "-l", "app=istiod")
    return deployment


# --- one edit ------------------------------------------------------------------------------------


def _spreads(cluster: Cluster, edits: int) -> list[Spread]:
    pods = cluster.items("pods", "-n", _NAMESPACE)
    names = [str(pod["metadata"]["name"]) for pod in pods]
    with _xds_address(cluster) as (istiod, address):
        wanted = sorted(_routes(cluster, names[0]))
        with open_simulated(PROXIES, address, namespace=_NAMESPACE, routes=wanted) as simulated:
            _settle(cluster, names, istiod)
            write = _writer(cluster)
            # The first is not counted: it opens connections and fills caches.
            spreads = []
            for number in range(edits + 1):
                spreads.append(_spread(cluster, write, names, istiod, simulated, number))
                time.sleep(0.5)
            return spreads[1:]


def _spread(
    cluster: Cluster,
    write: Write,
    pods: Sequence[str],
    istiod: str,
    simulated: Simulated,
    number: int,
) -> Spread:
    simulated.forget()
    marker = f"edit-{time.time_ns()}"
    manifest = routes.virtual_service(SERVICE, service(_NAMESPACE, weight=20 + number % 50))
    manifest["spec"]["http"][0]["name"] = marker
    started = time.time()
    write(manifest)
    written = time.time()
    last_simulated = max(simulated.arrivals(marker, seconds=_SECONDS))
    last_real = max(_taken(cluster, pods, marker))
    seen, pushed = _logged(cluster, istiod, started)
    moments = (written, seen, pushed, last_real, last_simulated)
    fields = ("written", "seen", "pushed", "real", "simulated")
    return Spread(**{name: when - started for name, when in zip(fields, moments, strict=True)})


def _writer(cluster: Cluster) -> Write:
    """A function that writes a VirtualService over a connection that stays open."""
    from kubernetes import client, config

    settings = str(cluster.kubeconfig)
    api = client.CustomObjectsApi(config.new_client_from_config(settings))  # type: ignore[no-untyped-call]

    def write(manifest: Manifest) -> None:
        group, version = manifest["apiVersion"].split("/")
        names = manifest["metadata"]
        api.patch_namespaced_custom_object(
            group, version, names["namespace"], "virtualservices", names["name"], manifest
        )

    return write


def _taken(cluster: Cluster, pods: Sequence[str], marker: str) -> list[float]:
    """When each pod's Envoy took the routes with the marker, by its own word."""

    def one(pod: str) -> float:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for found in _route_configs(cluster, pod):
                if marker in json.dumps(found):
                    return _seconds(found["last_updated"])
            time.sleep(0.1)
        raise LabError(f"{pod} did not take the new weight in {_SECONDS:.0f} s", code="bench")

    with ThreadPoolExecutor(len(pods)) as pool:
        return list(pool.map(one, pods))


def _logged(cluster: Cluster, istiod: str, started: float) -> tuple[float, float]:
    """When istiod saw the write, and when its debounce was over."""
    since = datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat()
    log = cluster.kubectl("-n", _SYSTEM, "logs", istiod, f"--since-time={since}")
    pattern = (
        rf"^(\S+)\s.*Push debounce stable\[\d+\] \d+ for config VirtualService/{_NAMESPACE}/\S+ "
        r"(\S+) since last change"
    )
    found = re.search(pattern, log, re.M)
    if found is None:
        raise LabError("istiod's log has no push of the new weight", code="bench")
    pushed = _seconds(found[1])
    return pushed - _duration(found[2]), pushed


def _route_configs(cluster: Cluster, pod: str) -> list[dict[str, Any]]:
    text = cluster.kubectl(
        "-n", _NAMESPACE, "exec", pod, "-c", "istio-proxy", "--",
        "pilot-agent", "request", "GET", "config_dump?resource=dynamic_route_configs",
    )  # fmt: skip
    found: list[dict[str, Any]] = json.loads(text).get("configs", [])
    return found


def _routes(cluster: Cluster, pod: str) -> list[str]:
    return [found["route_config"]["name"] for found in _route_configs(cluster, pod)]


def _settle(cluster: Cluster, pods: Sequence[str], istiod: str) -> None:
    """Wait until istiod's pod is the one that the proxies are connected to, and all is quiet."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        lines = cluster.istioctl("proxy-status").splitlines()
        mine = [line for line in lines if any(line.startswith(f"{pod}.") for pod in pods)]
        if len(mine) == len(pods) and all(istiod in line for line in mine):
            time.sleep(1)
            return
        time.sleep(1)
    raise LabError("the proxies did not connect to istiod", code="bench")


@contextmanager
def _xds_address(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """istiod's pod, and where its plaintext port is reached: a node's port, while this is open."""
    pods = cluster.items("pods", "-n", _SYSTEM, "-l", "app=istiod")
    (pod,) = (one for one in pods if "deletionTimestamp" not in one["metadata"])
    metadata = {"name": _XDS, "namespace": _NAMESPACE}
    port = {"name": "grpc-xds", "port": _XDS_PORT}
    address = {"ip": pod["status"]["podIP"]}
    apply(
        cluster,
        [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": metadata,
                "spec": {"type": "NodePort", "ports": [port]},  # no selector: istiod is elsewhere
            },
            {
                "apiVersion": "v1",
                "kind": "Endpoints",
                "metadata": metadata,
                "subsets": [{"addresses": [address], "ports": [port]}],
            },
        ],
    )
    try:
        (made,) = cluster.items(
            "services", "-n", _NAMESPACE, f"--field-selector=metadata.name={_XDS}"
        )
        node_port = made["spec"]["ports"][0]["nodePort"]
        yield pod["metadata"]["name"], f"{pod['status']['hostIP']}:{node_port}"
    finally:
        cluster.kubectl("-n", _NAMESPACE, "delete", "service,endpoints", _XDS, "--ignore-not-found")


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp).timestamp()


def _duration(text: str) -> float:
    """A duration as Go writes it, such as 100.6ms or 1.2s, in seconds."""
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
