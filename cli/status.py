"""`nordmesh status`: the nodes, the mesh and the canaries of a stack, measured now."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import certificates
from cli.backup import age
from cli.options import AsJson, Stack
from cli.output import print_error, print_json, print_table
from cli.pulumi_cli import PulumiError, kubeconfig, project
from components import api_servers
from components.gates import bare_pods, credentials, scope, selection, stats
from components.gates.inventory import Inventory, Proxy
from components.manifests.mtls import NAMESPACE_POLICY, Modes
from config import ROOT_NAMESPACE, Mesh, StackConfig, image_references, ports
from config.errors import NordmeshError
from config.load import read_stack
from config.machines.checks import quorum

if TYPE_CHECKING:
    from components.gates.api import Api

SYSTEM = "istio-system"
"""The namespace of Istio's own Deployments."""
_REQUESTS = "istio_requests_total"

Seconds = Annotated[
    int, typer.Option("--seconds", min=1, max=600, help="How long to count requests to canaries.")
]


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node of the cluster. role: control-plane or worker. runtime: for example containerd 1.6."""

    name: str
    role: str
    address: str
    version: str
    runtime: str
    is_ready: bool


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A Deployment of Istio: istiod or a gateway."""

    name: str
    version: str
    ready: int
    replicas: int


def node_problems(nodes: Sequence[Node]) -> Iterator[str]:
    """The nodes that are not ready, one sentence each."""
    for node in nodes:
        if not node.is_ready:
            yield f"node {node.name} is not ready"


def istio_problems(deployments: Sequence[Deployment]) -> Iterator[str]:
    """What is missing of Istio, one sentence each."""
    for one in deployments:
        if one.ready < one.replicas or not one.replicas:
            yield f"{one.name} has {one.ready} of {one.replicas} replicas ready"
    if not any(one.name.startswith("istiod") for one in deployments):
        yield f"there is no istiod in {SYSTEM}"


@dataclass(frozen=True, kw_only=True)
class Split:
    """Requests to a service with a canary, counted by the proxies of its callers.

    weight: the canary's, in percent, in the stack file. share: what it got, None without requests.
    failed: responses with a 5xx status.
    """

    service: str
    canary: str
    weight: int
    requests: int
    share: float | None
    failed: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """What was measured. unread: proxies that did not answer. problems: one sentence each.

    snapshot: the newest that a control plane has noted, None without one.
    """

    nodes: Sequence[Node]
    certificates: certificates.Certificates
    istio: Sequence[Deployment]
    proxies: int
    unread: Sequence[str]
    canaries: Sequence[Split]
    snapshot: str | None
    problems: Sequence[str]


def nodes(items: Sequence[Mapping[str, Any]]) -> list[Node]:
    """The nodes in a list of the API server, sorted by name."""
    prefix = "node-role.kubernetes.io/"
    result = []
    for item in items:
        status, metadata = item["status"], item["metadata"]
        roles = {label.removeprefix(prefix) for label in metadata.get("labels", {})}
        conditions = {entry["type"]: entry["status"] for entry in status["conditions"]}
        addresses = {entry["type"]: entry["address"] for entry in status["addresses"]}
        result.append(
            Node(
                name=metadata["name"],
                role="control-plane" if "control-plane" in roles else "worker",
                address=addresses.get("InternalIP", ""),
                version=status["nodeInfo"]["kubeletVersion"],
                runtime=status["nodeInfo"]["containerRuntimeVersion"].replace("://", " "),
                is_ready=conditions.get("Ready") == "True",
            )
        )
    return sorted(result, key=lambda node: node.name)


def deployments(items: Sequence[Mapping[str, Any]]) -> list[Deployment]:
    """The Deployments in a list of the API server, sorted by name."""
    result = []
    for item in items:
        image = str(item["spec"]["template"]["spec"]["containers"][0]["image"])
        result.append(
            Deployment(
                name=item["metadata"]["name"],
                # A gateway's image is "auto": the injector chooses it.
                version=image_references.split(image)[1],
                ready=int(item["status"].get("readyReplicas", 0)),
                replicas=int(item["spec"].get("replicas", 1)),
            )
        )
    return sorted(result, key=lambda deployment: deployment.name)


def counters(text: str) -> dict[str, float]:
    """A proxy's counters of the requests that it sent, by service, version and outcome.

    A version is the pod's label `version`, then Istio's canonical revision.
    """
    sums: dict[str, float] = {}
    for sample in stats.parse(text):
        labels = sample.labels
        if sample.name != _REQUESTS or labels.get("reporter") != "source":
            continue
        outcome = "failed" if labels.get("response_code", "").startswith("5") else "ok"
        key = "/".join(
            (
                labels.get("destination_service_namespace", ""),
                labels.get("destination_service_name", ""),
                labels.get("destination_version", ""),
                labels.get("destination_canonical_revision", ""),
                outcome,
            )
        )
        sums[key] = sums.get(key, 0) + sample.value
    return sums


def splits(config: StackConfig, counted: Mapping[str, float]) -> list[Split]:
    """The measured split of each service with a canary."""
    result = []
    for name, service in sorted(config.mesh.services.items()):
        if service.canary is None:
            continue
        full_name = service.full_name(name)
        start = f"{full_name}/"
        own = {key.removeprefix(start): n for key, n in counted.items() if key.startswith(start)}
        requests = sum(own.values())
        position = 0 if service.version_label == "version" else 1
        versions = ((key.split("/")[position], count) for key, count in own.items())
        canary = sum(count for version, count in versions if version == service.canary.subset)
        result.append(
            Split(
                service=full_name,
                canary=service.canary.subset,
                weight=service.canary.weight,
                requests=int(requests),
                share=100 * canary / requests if requests else None,
                failed=int(sum(n for key, n in own.items() if key.endswith("/failed"))),
            )
        )
    return result


def measure_splits(
    api: "Api", config: StackConfig, proxies: Sequence[Proxy], seconds: int
) -> tuple[list[Split], list[str]]:
    """Count requests for some seconds; also returns the proxies that did not answer."""
    if not any(service.canary for service in config.mesh.services.values()):
        return [], []
    before = _read(api, proxies)
    time.sleep(seconds)
    # A proxy without a first reading would add everything since its start.
    after = _read(api, [proxy for proxy in proxies if proxy.key in before])
    unread = sorted(proxy.key for proxy in proxies if proxy.key not in after)
    increases = [stats.increase(before[key], now) for key, now in after.items()]
    return splits(config, stats.total(increases)), unread


def _read(api: "Api", proxies: Sequence[Proxy]) -> dict[str, dict[str, float]]:
    from components.gates.api import REPORT_SECONDS

    texts = api.stats(proxies, "requests_total", limit=REPORT_SECONDS)
    return {key: counters(text) for key, text in texts.items()}


@contextmanager
def connected(stack: str) -> Iterator[tuple["Api", StackConfig, str]]:
    """Connect to the cluster of a stack, with the kubeconfig in its outputs."""
    from components.gates.api import connect  # 0.1 s, which no other command needs

    login = kubeconfig(stack)
    config = read_stack(project(), stack).usable()
    with connect(login) as api:
        try:
            yield api, config, login
        except NordmeshError as error:
            what, fix = _unreachable(config, error.what)
            raise PulumiError(what, code="cluster-unreachable", path=stack, fix=fix) from None


def _unreachable(config: StackConfig, error: str) -> tuple[str, str]:
    """What is wrong with a cluster that could not be read, and what to do."""
    planes = {name: node.address for name, node in config.machines.control_planes}
    statuses = asyncio.run(api_servers.statuses(list(planes.values()))) if len(planes) > 1 else []
    ready = [status in api_servers.READY for status in statuses]
    needed = quorum(len(planes))
    if not statuses or sum(ready) >= needed:
        return error, "check that the API server is up and that this machine can reach it"
    silent = (
        f"{name} does not answer" if status is None else f"{name} is not ready (HTTP {status})"
        for name, status, is_ready in zip(planes, statuses, ready, strict=True)
        if not is_ready
    )
    return (
        f"{sum(ready)} of {len(planes)} control planes are ready, and etcd needs {needed} to read "
        f"or write: {'; '.join(silent)}",
        "start those machines, or check that this machine can reach them on port "
        f"{ports.API}; nothing in etcd is lost meanwhile",
    )


def measure(api: "Api", config: StackConfig, login: str, seconds: int) -> Status:
    """Measure a stack. login: its kubeconfig."""
    has_mesh = config.istio is not None
    items = api.items("/api/v1/nodes")
    members, snapshot = nodes(items), age.noted(items)
    ends = certificates.read(api, config, login, items)
    path = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments"
    istio = deployments(api.items(path)) if has_mesh else []
    inventory = api.inventory() if has_mesh else Inventory(proxies=[])
    proxies = inventory.proxies
    canaries, unread = measure_splits(api, config, proxies, seconds)
    names = {node.name for node in members}
    missing = [name for name in sorted(config.machines.present) if name not in names]
    return Status(
        nodes=members,
        certificates=ends,
        istio=istio,
        proxies=len(proxies),
        unread=unread,
        canaries=canaries,
        snapshot=snapshot,
        problems=[
            *node_problems(members),
            *age.problems(snapshot, config.backup),
            *(f"node {name} of the stack file is not in the cluster" for name in missing),
            *(istio_problems(istio) if has_mesh else ()),
            *(unprotected(api, config, inventory) if has_mesh else ()),
            *ends.problems(datetime.now(UTC)),
        ],
    )


def unprotected(api: "Api", config: StackConfig, inventory: Inventory) -> Iterator[str]:
    """Rules for callers that miss pods, pods that accept plaintext despite STRICT, and Secrets of
    gateways that are missing.
    """
    for name, service in config.mesh.services.items():
        if service.callers is not None:
            try:
                selection.check_all(api, selection.callers(name, service))
            except NordmeshError as error:
                if error.code == "gate-no-api-server":
                    raise
                yield f"{error.path}: {error.what}"
    yield from _open_to_plaintext(inventory, config.mesh)
    yield from credentials.missing(api, list(credentials.needs(config.mesh)))


def _open_to_plaintext(inventory: Inventory, mesh: Mesh) -> Iterator[str]:
    """The pods without a sidecar where the stack file says STRICT."""
    modes = {ROOT_NAMESPACE: mesh.mtls} | {
        name: settings.mtls
        for name, settings in mesh.namespaces.items()
        if settings.mtls is not None
    }
    for namespace, mode in modes.items():
        if mode == "STRICT":
            change = scope.Change(
                namespace=namespace,
                name=NAMESPACE_POLICY,
                before=Modes(mode=None),
                after=Modes(mode="STRICT"),
            )
            try:
                bare_pods.refuse(change, scope.Scope(mesh=mesh, change=change), inventory)
            except NordmeshError as error:
                yield f"{error.path}: {error.what}"


def command(stack: Stack = "", seconds: Seconds = 10, as_json: AsJson = False) -> None:
    """Show nodes, mesh and the measured split of each canary; changes nothing.

    Exit status: 0 all is well, 1 something is not ready, 3 the cluster did not answer.
    """
    with connected(stack) as (api, config, login):
        status = measure(api, config, login, seconds)
    if as_json:
        print_json({"stack": stack, **asdict(status)})
    else:
        _print(status, seconds)
    if status.problems:
        raise typer.Exit(1)


def canary_command(stack: Stack = "", seconds: Seconds = 10, as_json: AsJson = False) -> None:
    """Show the measured split of each canary; changes nothing."""
    with connected(stack) as (api, config, _):
        canaries, unread = measure_splits(api, config, api.inventory().proxies, seconds)
    if as_json:
        print_json({"stack": stack, "canaries": list(map(asdict, canaries)), "unread": unread})
    else:
        _print_splits(canaries, unread, seconds)


def _print(status: Status, seconds: int) -> None:
    print_table(("Node", "Role", "Address", "Version", "Runtime", "State"), map(row, status.nodes))
    print()
    certificates.show(status.certificates, datetime.now(UTC))
    print()
    if status.istio:
        print_table(
            ("Istio", "Version", "Ready"),
            ((one.name, one.version, f"{one.ready} of {one.replicas}") for one in status.istio),
        )
        print(f"{status.proxies} proxies\n")
    if status.snapshot:
        print(f"Newest snapshot: {status.snapshot}, {age.shown(age.age_of(status.snapshot))} old.")
    _print_splits(status.canaries, status.unread, seconds)
    for problem in status.problems:
        print_error(problem)


def row(node: Node) -> tuple[str, ...]:
    """The row of a node in a table."""
    state = "ready" if node.is_ready else "NOT READY"
    return node.name, node.role, node.address, node.version, node.runtime, state


def _print_splits(canaries: Sequence[Split], unread: Sequence[str], seconds: int) -> None:
    if not canaries:
        print("No service has a canary.")
        return
    print_table(
        ("Service", "Canary", "Weight", f"Share in {seconds} s", "Requests", "Failed"),
        (
            (
                split.service,
                split.canary,
                f"{split.weight}%",
                "no requests" if split.share is None else f"{split.share:.1f}%",
                str(split.requests),
                str(split.failed),
            )
            for split in canaries
        ),
    )
    if unread:
        print(f"Not measured, because the proxy did not answer: {', '.join(unread)}")
