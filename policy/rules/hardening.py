"""What is in production is hardened, and its data is protected."""

from collections.abc import Iterator
from decimal import Decimal

from config.scalars.names import ROOT_NAMESPACE
from config.scalars.quantities import quantity
from policy.rules.rule import Finding, Rule
from policy.stack import Resource, Stack, items, mapping

# The guides: "Never set CPU limits too low on the proxy."
# Scripts that make what holds data, and what that is.
_OWNERS = {"kubeadm-init.sh": "the cluster made by", "kvm-create.sh": "the guest made by"}
_LEAST_CPU, _LEAST_MEMORY = "500m", "128Mi"
_INHERITED = "UNSET"  # Istio's word for the mode of what is around it


def _strict(stack: Stack) -> Iterator[Finding]:
    if not stack.is_production:
        return
    modes = {
        policy.namespace: _mode(policy)
        for policy in stack.of_kind("PeerAuthentication")
        if not mapping(policy.props.get("spec")).get("selector")
    }
    modes = {namespace: mode for namespace, mode in modes.items() if mode != _INHERITED}
    everywhere = modes.get(ROOT_NAMESPACE, "PERMISSIVE")
    for namespace in stack.of_kind("Namespace"):
        name = mapping(namespace.props.get("metadata")).get("name")
        mode = modes.get(name, everywhere)
        if _is_in_mesh(namespace) and mode != "STRICT":
            yield Finding(
                subject=f"namespace:{name}",
                text=f"the namespace {name} is {mode}, so plaintext is accepted there: write mtls: "
                f"STRICT at nordmesh:mesh.namespaces.{name}, or a reason under "
                "nordmesh-policy:accept",
                urn=namespace.urn,
            )
    for policy in stack.of_kind("PeerAuthentication"):
        spec = mapping(policy.props.get("spec"))
        # Of the pods that it selects; without a mode they have their namespace's.
        if spec.get("selector") and _mode(policy) not in ("STRICT", _INHERITED):
            yield Finding(
                subject=f"workload:{policy.name}",
                text=f"the pods of {policy.name} are {_mode(policy)}, so plaintext is accepted "
                "there: make them STRICT, or write a reason under nordmesh-policy:accept",
                urn=policy.urn,
            )
        for port, mtls in mapping(spec.get("portLevelMtls")).items():
            if mapping(mtls).get("mode") != "STRICT":
                yield Finding(
                    subject=f"port:{policy.name}:{port}",
                    text=f"port {port} of {policy.name} is {mapping(mtls).get('mode')}, so "
                    "plaintext is accepted there: make it STRICT, or write a reason under "
                    "nordmesh-policy:accept",
                    urn=policy.urn,
                )


def _mode(policy: Resource) -> str:
    return str(mapping(mapping(policy.props.get("spec")).get("mtls")).get("mode", _INHERITED))


def _is_in_mesh(namespace: Resource) -> bool:
    labels = mapping(mapping(namespace.props.get("metadata")).get("labels"))
    return labels.get("istio-injection") == "enabled" or bool(labels.get("istio.io/rev"))


def _host_keys(stack: Stack) -> Iterator[Finding]:
    for resource in stack.of_type("command:remote:"):
        connection = resource.props.get("connection")
        # In a preview, the machines that the lab is going to make have no keys yet.
        if connection is not None and not mapping(connection):
            continue
        hops = {"connection": mapping(connection)}
        if proxy := mapping(mapping(connection).get("proxy")):
            hops["connection through a proxy"] = proxy
        for hop, login in hops.items():
            if not login.get("hostKey"):
                yield Finding(
                    subject=f"host-key:{resource.name}",
                    text=f"{resource.name} has a {hop} to any machine that answers at its address: "
                    "give it the machine's host key",
                    urn=resource.urn,
                )


def _hosts(stack: Stack) -> Iterator[Finding]:
    if not stack.is_production:
        return
    host = stack.section("host")
    for section, key, what in (
        ("firewall", "enabled", "etcd and kubelet are open to whoever reaches the machines"),
        ("ssh", "hardened", "sshd takes whatever the machine's image lets in, passwords included"),
    ):
        if mapping(host.get(section)).get(key) is False:
            yield Finding(
                subject=f"host.{section}",
                text=f"nordmesh:host.{section}.{key} is false: {what}; take it out of the stack "
                "file, or write a reason under nordmesh-policy:accept",
            )


def _gateways(stack: Stack) -> Iterator[Finding]:
    for gateway in stack.of_kind("Gateway"):
        for server in items(mapping(gateway.props.get("spec")).get("servers")):
            for host in items(mapping(server).get("hosts")):
                if str(host).rpartition("/")[2] == "*":
                    yield Finding(
                        subject=f"gateway:{gateway.name}",
                        text=f"the gateway {gateway.name} answers to every host: name the hosts "
                        "that it is for, or write a reason under nordmesh-policy:accept",
                        urn=gateway.urn,
                    )


def _data(stack: Stack) -> Iterator[Finding]:
    if not stack.is_production:
        return
    if stack.section("machines").get("allowDataLoss"):
        yield Finding(
            subject="allowDataLoss",
            text="nordmesh:machines.allowDataLoss is true: one wrong edit destroys nodes, etcd and "
            "namespaces with their data; take it out of the stack file",
        )
        return
    for resource in (*stack.of_kind("Namespace"), *stack.commands):
        owns_data = _is_in_mesh(resource) if resource.kind else resource.script in _OWNERS
        if owns_data and not resource.is_protected:
            what = resource.kind or _OWNERS[str(resource.script)]
            yield Finding(
                subject=f"unprotected:{resource.name}",
                text=f"{what} {resource.name} is not protected "
                "against deletion: set the resource option protect",
                urn=resource.urn,
            )


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


def _too_low(whose: str, resource: str, value: object, least: str, urn: str) -> Iterator[Finding]:
    if value is None or _amount(value) >= quantity(least):
        return
    yield Finding(
        subject=f"proxy-limit:{whose}",
        text=f"the proxies of {whose} get at most {value} of {resource}: below {least} a proxy is "
        "throttled or killed under load, and every request through it waits",
        urn=urn,
    )


def _amount(value: object) -> Decimal:
    try:
        return quantity(str(value))
    except ValueError:
        return Decimal("Infinity")  # no quantity at all: the API server refuses it


RULES = (
    Rule(
        name="strict-mtls",
        description="In production, nobody talks in plaintext.",
        find=_strict,
        is_open=True,
    ),
    Rule(
        name="pinned-host-keys",
        description="No SSH connection without a pinned host key.",
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
        description="A gateway answers to the hosts that it is for.",
        find=_gateways,
        is_open=True,
    ),
    Rule(
        name="protected-data",
        description="In production, data is protected against deletion.",
        find=_data,
    ),
    Rule(
        name="proxy-limits",
        description="No proxy has too little to work with.",
        find=_proxy_limits,
    ),
)
