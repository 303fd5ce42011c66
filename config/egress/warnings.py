"""Warnings about traffic out of the mesh that the stack file allows and that would still fail."""

from collections.abc import Iterator

from config import StackConfig

# Protocols that begin in plaintext and then switch to TLS, by their usual port.
_LATE_TLS = {
    21: "FTP",
    25: "SMTP",
    110: "POP3",
    143: "IMAP",
    389: "LDAP",
    587: "SMTP",
    1433: "SQL Server",
    3306: "MySQL",
    5222: "XMPP",
    5432: "PostgreSQL",
}


def warnings(config: StackConfig) -> Iterator[str]:
    """One line for each warning."""
    yield from _gate(config)
    yield from _late_tls_outside(config)
    yield from _late_tls_at_gateways(config)
    yield from _databases_of_nodes(config)


def _gate(config: StackConfig) -> Iterator[str]:
    gate, istio = config.mesh.egress.gate, config.istio
    if gate.override is not None:
        yield (
            "mesh.egress.gate.override: REGISTRY_ONLY is set without looking for calls that it "
            f"refuses; waived: {gate.override}"
        )
    if gate.trial is not None and istio and istio.outbound_traffic_policy == "ALLOW_ANY":
        yield (
            f"mesh.egress.gate.trial: hosts that are not listed may still be called: {gate.trial}"
        )


def _late_tls_outside(config: StackConfig) -> Iterator[str]:
    for name, host in config.mesh.egress.hosts.items():
        for index, port in enumerate(host.ports):
            protocol = _LATE_TLS.get(port.number)
            if protocol is not None and port.protocol in ("TLS", "HTTPS"):
                yield (
                    f"mesh.egress.hosts.{name}.ports[{index}]: {protocol} usually begins without "
                    f"TLS (STARTTLS), and proxies close a connection to a port with "
                    f"{port.protocol} that does. Use protocol: TCP, through: direct and the "
                    "host's addresses, unless your client begins with TLS"
                )


def _late_tls_at_gateways(config: StackConfig) -> Iterator[str]:
    for name, service in config.mesh.services.items():
        gateway = config.mesh.gateways.get(service.gateway or "")
        passes = gateway is not None and gateway.tls is not None
        port = service.split_port
        protocol = _LATE_TLS.get(port.number)
        if passes and not port.has_requests and protocol is not None:
            yield (
                f"mesh.services.{name}.gateway: {protocol} usually begins without TLS (STARTTLS), "
                "so the gateway sees no host name and closes the connection, unless your client "
                "begins with TLS"
            )


def _databases_of_nodes(config: StackConfig) -> Iterator[str]:
    istio = config.istio
    if istio is None or istio.outbound_traffic_policy != "REGISTRY_ONLY":
        return
    listed = {address for host in config.mesh.egress.hosts.values() for address in host.addresses}
    for name, node in config.machines.nodes.items():
        addresses = {node.address, node.cluster_address}
        if node.database is not None and config.mesh.injected and not addresses & listed:
            yield (
                f"machines.nodes.{name}.database: pods with a sidecar cannot call it, because "
                "proxies refuse addresses that are not listed. Add an entry with protocol: TCP, "
                f"through: direct and addresses: [{node.cluster_address}] to mesh.egress.hosts"
            )
