"""Checks and warnings of the key `mesh.networkPolicy`."""

from collections.abc import Iterator

from config import StackConfig, ports
from config.errors import Problem
from config.observability import MONITORING_NAMESPACE
from config.sections import Sections

_PATH = ("mesh", "networkPolicy")


def _check_needs(sections: Sections) -> Iterator[Problem]:
    if sections.mesh is None or not sections.mesh.network_policy:
        return
    if sections.has_no_mesh:
        yield Problem(
            code="network-policy-without-mesh",
            path=_PATH,
            what="networkPolicy is set without a section istio",
            why="it enforces the callers and hosts of the mesh, which this stack does not have",
            fix="add nordmesh:istio, or remove networkPolicy",
            about=(("istio",),),
        )
    if sections.host is not None and not sections.host.firewall.enabled:
        yield Problem(
            code="network-policy-without-firewall",
            path=_PATH,
            what="networkPolicy is set, but host.firewall.enabled is false",
            why="the node's firewall refuses the first packets of a new pod, until its policies "
            "are in effect",
            fix="remove host.firewall.enabled, or remove networkPolicy",
            about=(("host", "firewall", "enabled"),),
        )


def warnings(config: StackConfig) -> Iterator[str]:
    """One line for each way out of the cluster that stays open."""
    mesh, istio = config.mesh, config.istio
    if istio is None:
        return
    limits_hosts = istio.outbound_traffic_policy == "REGISTRY_ONLY"
    if not mesh.network_policy:
        if mesh.egress.hosts and limits_hosts:
            yield (
                "mesh.egress.hosts: only proxies refuse other hosts. A pod without a sidecar may "
                "send data to any host, unless you set mesh.networkPolicy: true"
            )
        return
    if not limits_hosts:
        yield (
            "mesh.networkPolicy: it limits callers only, because istio.outboundTrafficPolicy is "
            f"{istio.outbound_traffic_policy}"
        )
        return
    yield (
        "mesh.networkPolicy: these may still send data to any host: pods on hostNetwork, "
        "privileged pods, programs on the nodes, pods of namespaces that are not in "
        "mesh.namespaces, pods that send in the name of one of those, and DNS queries through "
        "CoreDNS"
    )
    if config.observability.enabled:
        yield (
            f"mesh.networkPolicy: pods in {MONITORING_NAMESPACE} may connect to ports "
            f"{ports.KUBELET} and {ports.ETCD_METRICS} of any host, where Prometheus scrapes nodes"
        )
    for name, host in mesh.egress.hosts.items():
        if host.through == "direct" and not host.addresses:
            numbers = ", ".join(str(port.number) for port in host.ports)
            advice = "" if host.is_wildcard else ". Set addresses, or through: gateway"
            yield (
                f"mesh.egress.hosts.{name}: a pod without a sidecar in "
                f"{', '.join(host.may_call)} may connect to port {numbers} of any host, because "
                f"{host.host} has no addresses{advice}"
            )
    if config.kubernetes.kube_proxy.get("mode") == "ipvs":
        yield (
            "mesh.networkPolicy: with kubernetes.kubeProxy.mode ipvs, a new pod may call Services "
            "before its policies are in effect"
        )


CHECKS = (_check_needs,)
