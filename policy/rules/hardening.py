"""Production is hardened, and its data is protected."""

from collections.abc import Iterator
from decimal import Decimal

from components.manifests.mtls import INHERITED, injector_of, modes_of
from config.scalars.names import ROOT_NAMESPACE
from config.scalars.quantities import quantity
from policy.rules.rule import ACCEPT, Finding, Rule
from policy.stack import Resource, Stack, items, mapping

# The scripts that create something that holds data.
_OWNERS = {
    "istio-install.sh": "the mesh of",
    "kubeadm-init.sh": "the cluster of",
    "kvm-create.sh": "the guest of",
}
# Istio setup guides for VPS hosts: "Never set CPU limits too low on the proxy."
_LEAST_CPU, _LEAST_MEMORY = "500m", "128Mi"
_OR_WAIVE = f"or write a reason at {ACCEPT}"
_PLAINTEXT = "it accepts plaintext"


def _strict(stack: Stack) -> Iterator[Finding]:
    if not stack.is_production:
        return
    modes = {
        policy.namespace: _mode(policy)
        for policy in stack.of_kind("PeerAuthentication")
        if not mapping(policy.props.get("spec")).get("selector")
    }
    modes = {namespace: mode for namespace, mode in modes.items() if mode != INHERITED}
    everywhere = modes.get(ROOT_NAMESPACE, "PERMISSIVE")
    for namespace in stack.of_kind("Namespace"):
        name = mapping(namespace.props.get("metadata")).get("name")
        mode = modes.get(name, everywhere)
        if injector_of(namespace.props) and mode != "STRICT":
            yield Finding(
                subject=f"namespace:{name}",
                what=f"the namespace {name} is {mode}",
                why=_PLAINTEXT,
                fix=f"write mtls: STRICT at nordmesh:mesh.namespaces.{name}, {_OR_WAIVE}",
                urn=namespace.urn,
            )
    for policy in stack.of_kind("PeerAuthentication"):
        spec = mapping(policy.props.get("spec"))
        # The mode of the selected pods; without one, they have their namespace's.
        if spec.get("selector") and _mode(policy) not in ("STRICT", INHERITED):
            yield Finding(
                subject=f"workload:{policy.name}",
                what=f"the pods of {policy.name} are {_mode(policy)}",
                why="they accept plaintext",
                fix=f"make them STRICT, {_OR_WAIVE}",
                urn=policy.urn,
            )
        for port, mode in modes_of(policy.props).ports.items():
            if mode != "STRICT":
                yield Finding(
                    subject=f"port:{policy.name}:{port}",
                    what=f"port {port} of {policy.name} is {mode}",
                    why=_PLAINTEXT,
                    fix=f"make it STRICT, {_OR_WAIVE}",
                    urn=policy.urn,
                )


def _mode(policy: Resource) -> str:
    return modes_of(policy.props).mode or INHERITED


def _host_keys(stack: Stack) -> Iterator[Finding]:
    for resource in stack.of_type("command:remote:"):
        connection = resource.props.get("connection")
        # In a preview, machines that the lab will create have no keys yet.
        if connection is not None and not mapping(connection):
            continue
        hops = {"connection": mapping(connection)}
        if proxy := mapping(mapping(connection).get("proxy")):
            hops["connection through a proxy"] = proxy
        for hop, login in hops.items():
            if not login.get("hostKey"):
                yield Finding(
                    subject=f"host-key:{resource.name}",
                    what=f"{resource.name} has a {hop} without a host key",
                    why="any machine that answers at the address would be accepted",
                    fix="give it the machine's host key",
                    urn=resource.urn,
                )


def _hosts(stack: Stack) -> Iterator[Finding]:
    if not stack.is_production:
        return
    host = stack.section("host")
    for section, key, why in (
        ("firewall", "enabled", "anyone who reaches the machines can connect to etcd and kubelet"),
        (
            "ssh",
            "hardened",
            "sshd accepts every login that the image allows, even passwords",
        ),
    ):
        if mapping(host.get(section)).get(key) is False:
            yield Finding(
                subject=f"host.{section}",
                what=f"nordmesh:host.{section}.{key} is false",
                why=why,
                fix=f"remove it from the stack file, {_OR_WAIVE}",
            )


def _gateways(stack: Stack) -> Iterator[Finding]:
    for gateway in stack.of_kind("Gateway"):
        for server in items(mapping(gateway.props.get("spec")).get("servers")):
            for host in items(mapping(server).get("hosts")):
                if str(host).rpartition("/")[2] == "*":
                    yield Finding(
                        subject=f"gateway:{gateway.name}",
                        what=f"the gateway {gateway.name} accepts requests for every host",
                        why="it also serves names that nobody reviewed",
                        fix=f"name its hosts, {_OR_WAIVE}",
                        urn=gateway.urn,
                    )


def _data(stack: Stack) -> Iterator[Finding]:
    if not stack.is_production:
        return
    allowed = stack.section("machines").get("allowDataLoss")
    if allowed is True:
        yield Finding(
            subject="allowDataLoss",
            what="nordmesh:machines.allowDataLoss is true",
            why="a wrong edit destroys nodes, etcd and namespaces with their data",
            fix="replace it by the list of what may be lost, each with its reason; a preview "
            "prints the list",
        )
        return
    named = {entry for one in items(allowed) for entry in mapping(one).items()}
    for resource in (*stack.of_kind("Namespace"), *stack.commands):
        owns_data = injector_of(resource.props) if resource.kind else resource.script in _OWNERS
        if owns_data and not resource.is_protected and _thing(resource) not in named:
            what = resource.kind or _OWNERS[str(resource.script)]
            yield Finding(
                subject=f"unprotected:{resource.name}",
                what=f"{what} {resource.name} is not protected against deletion",
                why="it holds data",
                fix="set the resource option protect, or name it in machines.allowDataLoss",
                urn=resource.urn,
            )


def _thing(resource: Resource) -> tuple[str, str]:
    """The entry of allowDataLoss that allows the loss of what a resource owns: kind and name."""
    if resource.kind:
        return "namespace", resource.name
    if resource.script == "istio-install.sh":
        return "namespace", ROOT_NAMESPACE
    kind = "etcd" if resource.script == "kubeadm-init.sh" else "disk"
    return kind, resource.settings["NODE_NAME"]


def _proxy_limits(stack: Stack) -> Iterator[Finding]:
    for command, operator in stack.operators:
        proxy = mapping(mapping(mapping(operator.get("values")).get("global")).get("proxy"))
        limits = mapping(mapping(proxy.get("resources")).get("limits"))
        for resource, least in (("cpu", _LEAST_CPU), ("memory", _LEAST_MEMORY)):
            yield from _too_low("the mesh", resource, limits.get(resource), least, command.urn)
    for workload in stack.of_kind("Deployment", "DeploymentPatch", "DaemonSet", "StatefulSet"):
        template = mapping(mapping(workload.props.get("spec")).get("template"))
        annotations = mapping(mapping(template.get("metadata")).get("annotations"))
        for resource, name, least in (
            ("cpu", "sidecar.istio.io/proxyCPULimit", _LEAST_CPU),
            ("memory", "sidecar.istio.io/proxyMemoryLimit", _LEAST_MEMORY),
        ):
            value = annotations.get(name)
            yield from _too_low(workload.name, resource, value, least, workload.urn)


def _too_low(owner: str, resource: str, value: object, least: str, urn: str) -> Iterator[Finding]:
    if value is None or _amount(value) >= quantity(least):
        return
    yield Finding(
        subject=f"proxy-limit:{owner}",
        what=f"the proxies of {owner} get at most {value} of {resource}",
        why=f"below {least} a proxy is throttled or killed under load, and its requests wait",
        fix=f"raise the limit to at least {least}",
        urn=urn,
    )


def _amount(value: object) -> Decimal:
    try:
        return quantity(str(value))
    except ValueError:
        return Decimal("Infinity")  # not a quantity: the API server refuses it


RULES = (
    Rule(
        name="strict-mtls",
        description="In production, no workload accepts plaintext.",
        find=_strict,
        is_open=True,
    ),
    Rule(
        name="pinned-host-keys",
        description="Every SSH connection has a pinned host key.",
        find=_host_keys,
    ),
    Rule(
        name="hardened-hosts",
        description="In production, nodes have their firewall and a hardened sshd.",
        find=_hosts,
        is_open=True,
    ),
    Rule(
        name="no-wildcard-gateways",
        description="A gateway names its hosts.",
        find=_gateways,
        is_open=True,
    ),
    Rule(
        name="protected-data",
        description="In production, data is protected, unless an entry with a reason names it.",
        find=_data,
    ),
    Rule(
        name="proxy-limits",
        description="Every proxy has enough CPU and memory.",
        find=_proxy_limits,
    ),
)
