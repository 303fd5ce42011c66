"""The ports between nodes, and the download hosts, that the preflight tests."""

from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from components.remote.node_command import constant
from config import HostPortExposure, StackConfig, catalogue, image_references
from config.ports import API, CONTROL_PLANE_OWN, ETCD, KUBELET, OVERLAY

MESH = tuple(range(15000, 15022))
"""The range that Istio setup guides for VPS hosts name. Istio itself listens on pod addresses."""


def tcp_ports(config: StackConfig, name: str) -> tuple[int, ...]:
    """The TCP ports of a node that every other node must reach."""
    if config.machines.nodes[name].role == "control-plane":
        return (KUBELET, API)
    return (KUBELET,)


def etcd_ports(config: StackConfig, name: str) -> tuple[int, ...]:
    """The TCP ports of a node that other members of etcd must reach."""
    return ETCD if config.machines.nodes[name].role == "control-plane" else ()


def mesh_ports(config: StackConfig) -> tuple[int, ...]:
    """The ports of the setup guides, if the stack has a mesh."""
    return MESH if config.istio is not None else ()


def closed_ports(config: StackConfig, name: str) -> dict[str, frozenset[int]]:
    """The ports that a node's firewall opens only to members of the cluster, by protocol."""
    if not config.host.firewall.enabled:
        return {}
    return {"tcp": frozenset({KUBELET, *etcd_ports(config, name)}), "udp": frozenset({OVERLAY})}


def host_ports(config: StackConfig, name: str) -> tuple[int, ...]:
    """The ports of gateways on a node."""
    gateways = config.istio.ingress.values() if config.istio is not None else ()
    return tuple(
        port.port
        for gateway in gateways
        if isinstance(gateway.expose, HostPortExposure) and name in gateway.expose.nodes
        for port in gateway.ports
    )


def own_ports(config: StackConfig, name: str) -> dict[str, tuple[int, ...]]:
    """The ports that must be free on a node, by protocol."""
    is_plane = config.machines.nodes[name].role == "control-plane"
    return {
        "tcp": (
            *tcp_ports(config, name),
            *etcd_ports(config, name),
            # On a worker, the load balancer of the API servers has the API's port.
            *(CONTROL_PLANE_OWN if is_plane else (API,)),
            *host_ports(config, name),
        ),
        "udp": (OVERLAY,),
    }


def packages(config: StackConfig, name: str) -> list[str]:
    """The packages that a node needs from its distribution."""
    firewall = ["nftables"] if config.host.firewall.enabled else []
    endpoint = ["haproxy"] if config.machines.nodes[name].role == "worker" else []
    return [*constant("node-prepare.sh", "PACKAGES"), *firewall, *endpoint]


def resolver(config: StackConfig) -> str:
    """The file with the name servers of pods, if the stack file sets it; empty otherwise."""
    return str(config.kubernetes.kubelet.get("resolvConf") or "")


def volumes(config: StackConfig, name: str) -> str:
    """The directory of local volumes on a node; empty if it has none."""
    local, machines = config.storage.local, config.machines
    runs_pods = machines.nodes[name].role == "worker" or not machines.workers
    return local.path if local is not None and runs_pods else ""


def endpoints(config: StackConfig) -> list[tuple[str, int]]:
    """Hosts and ports that nodes download binaries and images from."""
    urls = [*_binaries(config), *_images(config)]
    hosts = {(parts.hostname or "", parts.port or _port(parts.scheme)) for parts in urls}
    return sorted(hosts)


def _binaries(config: StackConfig) -> Iterator[SplitResult]:
    if config.artifacts.mirror is not None:
        yield urlsplit(config.artifacts.mirror)
        return
    versions = config.kubernetes.version, config.istio.version if config.istio else None
    # The hosts are the same for every architecture.
    yield from (urlsplit(download.url) for download in catalogue.downloads(*versions))


def _images(config: StackConfig) -> Iterator[SplitResult]:
    if config.artifacts.registry is not None:
        yield urlsplit(config.artifacts.registry)
        return
    istio = config.istio
    images = catalogue.images(
        config.kubernetes.version,
        istio.version if istio else None,
        hub=istio.hub if istio else catalogue.ISTIO_HUB,
        network_policy=config.mesh.network_policy,
        demo=False,
    )
    for registry in sorted(set(map(image_references.registry, images))):
        yield urlsplit(f"https://{image_references.server(registry)}")


def _port(scheme: str) -> int:
    return 80 if scheme == "http" else 443
