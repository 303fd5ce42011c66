"""Whether all proxies fit on the nodes."""

from collections.abc import Iterator, Mapping
from decimal import Decimal

from config import KvmNode, Mesh, StackConfig, kubelet
from config.errors import step
from config.istio import Proxy
from config.machines import AnyNode
from config.resources import KINDS
from config.scalars.quantities import quantity

RESERVE = Decimal("1.2")
"""A reserve of 20% on top of the proxies' requests."""


def needed(config: StackConfig) -> dict[str, Decimal]:
    """CPU in cores and memory in bytes that the proxies of the declared pods need, with RESERVE."""
    total = dict.fromkeys(KINDS, Decimal(0))
    if config.istio is None:
        return total
    mesh, default = config.mesh, config.istio.proxy
    for count, proxy in _proxies(mesh, default):
        for kind in KINDS:
            total[kind] += count * quantity(getattr(proxy.requests, kind)) * RESERVE
    return total


def _proxies(mesh: Mesh, default: Proxy) -> Iterator[tuple[int, Proxy]]:
    """The number of proxies of each size; those of a workload are not counted twice."""
    of_workloads: dict[str, int] = {}
    for workload in mesh.workloads.values():
        count = workload.pods or 0
        of_workloads[workload.namespace] = of_workloads.get(workload.namespace, 0) + count
        yield count, workload.proxy(default)
    for name, namespace in mesh.namespaces.items():
        if namespace.injection:
            yield max((namespace.pods or 0) - of_workloads.get(name, 0), 0), default


def allocatable(config: StackConfig) -> dict[str, Decimal] | None:
    """The total of all nodes that run pods; None unless the size of each is known."""
    sizes = [of_node(config, node) for node in nodes(config).values()]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    return {kind: sum((size[kind] for size in known), Decimal(0)) for kind in KINDS}


def of_node(config: StackConfig, node: AnyNode) -> dict[str, Decimal] | None:
    """The resources of a node for pods: declared, or from a guest's size; None if unknown."""
    if node.capacity is not None:
        return {kind: quantity(getattr(node.capacity, kind)) for kind in KINDS}
    if isinstance(node, KvmNode):
        return less_reserved(config, {"cpu": Decimal(node.cpus), "memory": quantity(node.memory)})
    return None


def less_reserved(config: StackConfig, size: Mapping[str, Decimal]) -> dict[str, Decimal]:
    """The resources of a machine for pods: its size without the kubelet's reserve."""
    kept = kubelet.reserved(config.kubernetes)
    return {kind: max(size[kind] - kept[kind], Decimal(0)) for kind in KINDS}


def nodes(config: StackConfig) -> Mapping[str, AnyNode]:
    """The nodes that run pods of the mesh, by name."""
    machines = config.machines
    return dict(machines.workers or machines.control_planes)


def unknown(config: StackConfig) -> list[str]:
    """The keys that are not set and without which it is unknown whether proxies fit."""
    mesh, proxied = config.mesh, {name for name, x in config.mesh.namespaces.items() if x.injection}
    return [
        *(
            f"machines.nodes{step(name)}.capacity"
            for name, node in nodes(config).items()
            if of_node(config, node) is None
        ),
        *(
            f"mesh.namespaces.{name}.pods"
            for name in sorted(proxied)
            if mesh.namespaces[name].pods is None
        ),
    ]


def warnings(config: StackConfig) -> Iterator[str]:
    """The warnings about proxies that do not fit, if any size is declared."""
    wanted, available = needed(config), allocatable(config)
    declared = any(wanted.values()) or any(of_node(config, x) for x in nodes(config).values())
    missing = unknown(config)
    if declared and missing:
        yield f"it is unknown whether the proxies fit: set {', '.join(missing)}"
    if available is None:
        return
    for kind in KINDS:
        if wanted[kind] > available[kind]:
            yield (
                f"the proxies do not fit: their {kind} requests plus 20% are "
                f"{shown(kind, wanted[kind])}, and the nodes have {shown(kind, available[kind])} "
                "for all pods. Add a node, or make sidecars smaller (istio.proxy.requests, "
                "mesh.workloads)"
            )


def shown(kind: str, amount: Decimal) -> str:
    """A quantity for display: cores or mebibytes."""
    if kind == "cpu":
        return f"{amount.normalize():f} cores"
    return f"{amount / 1024**2:.0f}Mi"
