"""The time from the API write of a weight to the update of the last proxy, by stage.

A proxy reports when it applied the new routes (`last_updated` in its config dump), and the log of
istiod shows when it received the change and when it started the push. Nodes and benchmark share a
clock. In addition to the proxies of the cluster, there are simulated ones (see xds).
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
    """One edit of a weight. All values are seconds since the start of the API write.

    written: the API server has responded. seen: istiod has received the change. pushed: its
    debounce has ended. real, simulated: the last proxy has the new routes.
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
    """Compare edits with the configured debounce of istiod with its default debounce.

    Restores the deployment of istiod at the end.
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
    """Describe the medians of the stages, in milliseconds."""

    def median_ms(seconds: Iterable[float]) -> str:
        return f"{median(seconds) * 1000:.0f}"

    written = median_ms(s.written for s in spreads)
    seen = median_ms(max(s.seen - s.written, 0) for s in spreads)
    debounced = median_ms(s.pushed - max(s.seen, s.written) for s in spreads)
    sent = median_ms(s.last - s.pushed for s in spreads)
    real, simulated = median_ms(s.real for s in spreads), median_ms(s.simulated for s in spreads)
    worst = f"{max(s.last for s in spreads) * 1000:.0f}"
    return (
        f"API write {written} ms, istiod sees it +{seen}, debounce +{debounced}, push to the last "
        f"proxy +{sent}; last proxy of the cluster {real}, last simulated {simulated}, "
        f"worst edit {worst}"
    )


def debounce(cluster: Cluster) -> str | None:
    """Return the debounce of istiod: its wait for more changes before a push; None if default."""
    (container,) = _istiod(cluster)["spec"]["template"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    value: str | None = values.get(_DEBOUNCE)
    return value


@contextmanager
def debounce_of(cluster: Cluster, value: str) -> Iterator[None]:
    """Set another debounce on istiod, and revert it at the end."""
    deployment = f"deployment/{_istiod(cluster)['metadata']['name']}"
    container = {
        "name": "discovery",
        "env": [{"name": _DEBOUNCE, "value": value}],
        # Two pods run at the same time, and a small node does not have room for both requests.
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
        names_of_routes = sorted(_routes(cluster, names[0]))
        with open_simulated(
            PROXIES, address, namespace=_NAMESPACE, routes=names_of_routes
        ) as simulated:
            _settle(cluster, names, istiod)
            write = _writer(cluster)
            # The first edit is a warm-up: it opens connections and fills caches.
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
    """Return a function that writes a VirtualService over a persistent connection."""
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
    """Return when each pod's Envoy applied the routes with the marker, as it reports."""

    def applied_at(pod: str) -> float:
        deadline = time.monotonic() + _SECONDS
        while time.monotonic() < deadline:
            for config in _route_configs(cluster, pod):
                if marker in json.dumps(config):
                    return _seconds(config["last_updated"])
            time.sleep(0.1)
        raise LabError(f"{pod} did not take the new weight in {_SECONDS:.0f} s", code="bench")

    with ThreadPoolExecutor(len(pods)) as pool:
        return list(pool.map(applied_at, pods))


def _logged(cluster: Cluster, istiod: str, started: float) -> tuple[float, float]:
    """Return when istiod received the change, and when its debounce ended."""
    since = datetime.datetime.fromtimestamp(started, datetime.UTC).isoformat()
    log = cluster.kubectl("-n", _SYSTEM, "logs", istiod, f"--since-time={since}")
    pattern = (
        rf"^(\S+)\s.*Push debounce stable\[\d+\] \d+ for config VirtualService/{_NAMESPACE}/\S+ "
        r"(\S+) since last change"
    )
    match = re.search(pattern, log, re.M)
    if match is None:
        raise LabError("istiod's log has no push of the new weight", code="bench")
    pushed = _seconds(match[1])
    return pushed - _duration(match[2]), pushed


def _route_configs(cluster: Cluster, pod: str) -> list[dict[str, Any]]:
    text = cluster.kubectl(
        "-n", _NAMESPACE, "exec", pod, "-c", "istio-proxy", "--",
        "pilot-agent", "request", "GET", "config_dump?resource=dynamic_route_configs",
    )  # fmt: skip
    configs: list[dict[str, Any]] = json.loads(text).get("configs", [])
    return configs


def _routes(cluster: Cluster, pod: str) -> list[str]:
    return [config["route_config"]["name"] for config in _route_configs(cluster, pod)]


def _settle(cluster: Cluster, pods: Sequence[str], istiod: str) -> None:
    """Wait until all proxies are connected to this pod of istiod, and for one more second."""
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
    """Expose the plaintext port of istiod on a node port; yield the pod and the address."""
    pods = cluster.items("pods", "-n", _SYSTEM, "-l", "app=istiod")
    (pod,) = (item for item in pods if "deletionTimestamp" not in item["metadata"])
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
                "spec": {
                    "type": "NodePort",
                    "ports": [port],
                },  # no selector, because istiod is in another namespace
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
        (created,) = cluster.items(
            "services", "-n", _NAMESPACE, f"--field-selector=metadata.name={_XDS}"
        )
        node_port = created["spec"]["ports"][0]["nodePort"]
        yield pod["metadata"]["name"], f"{pod['status']['hostIP']}:{node_port}"
    finally:
        cluster.kubectl("-n", _NAMESPACE, "delete", "service,endpoints", _XDS, "--ignore-not-found")


def _seconds(timestamp: str) -> float:
    return datetime.datetime.fromisoformat(timestamp).timestamp()


def _duration(text: str) -> float:
    """Parse a duration of Go, for example 100.6ms or 1.2s, into seconds."""
    number, unit = re.fullmatch(r"([\d.]+)(\D+)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9}[unit]
