"""Random sections `mesh` of a stack file: most are accepted, some have contradictions."""

from copy import deepcopy

from config import EgressHost, Mesh, Namespace, StackConfig, egress, mtls
from config.checks import CHECKS
from config.errors import Problem
from config.mesh import PrivilegedReason, UseDefaultReason
from config.scalars import names, networks, numbers, quantities
from config.sections import Sections
from config.workloads import Workload
from lab import paths
from tests.support.generated import (
    Draw,
    Scalars,
    Values,
    applied,
    examples,
    just,
    listed,
    mapping,
    mostly,
    named,
    pick,
    section,
    whole,
)
from tests.support.generated_routes import (
    GATEWAYS,
    SCALARS,
    consistent_service,
    free_services,
    shape,
)
from tests.support.mocked import base_sections

_names = pick("shop", "back")
_reasons = just("made up by a test, for a test")
_SCALARS: Scalars = {
    **SCALARS,
    names.Label: _names,
    names.SecretName: _names,
    numbers.PodCount: whole(0, 40),
    numbers.Concurrency: whole(0, 4),
    quantities.Cpu: pick("500m", "600m", "1"),
    quantities.Memory: pick("128Mi", "256Mi", "512Mi"),
    networks.Ipv4: pick("192.0.2.50", "192.0.2.51"),
    egress.Host: pick("api.partner.example", "*.store.example", "mail.example"),
    egress.Owner: just("team-payments@example.no"),
    egress.Purpose: _reasons,
    egress.LegalBasis: _reasons,
    egress.TransferBasis: _reasons,
    egress.WildcardReason: _reasons,
    egress.Country: pick("NO", "SE", "US"),
    mtls.OverrideReason: _reasons,
    PrivilegedReason: _reasons,
    UseDefaultReason: _reasons,
}
_HOMES = {"one": "shop", "two": "back", "three": "shop"}
_egress_hosts = section(EgressHost, _SCALARS, namespaces=listed(_names, least=1))
_free_meshes = mapping(
    {
        "mtls": pick("PERMISSIVE", "STRICT"),
        "namespaces": mapping(
            {name: section(Namespace, _SCALARS, injection=just(True)) for name in ("shop", "back")},
            plain=section(Namespace, _SCALARS),
        ),
        "gateways": just(GATEWAYS),
        "egress": mapping({"hosts": mapping({"partner": _egress_hosts}, store=_egress_hosts)}),
        "services": mapping({name: free_services(name, home) for name, home in _HOMES.items()}),
    },
    workloads=named(pick("one-v1", "two-v1"), section(Workload, _SCALARS)),
    mtlsGate=section(mtls.MtlsGate, _SCALARS),
)


def _consistent(values: Values) -> Values:
    """Return the mesh without contradictions that a preview refuses."""
    mesh = deepcopy(values)
    for namespace in mesh["namespaces"].values():
        namespace.pop("useDefault", None)  # none of them is the namespace default
        if namespace.get("injection", True):
            namespace.pop("podSecurity", None)
        else:
            namespace.pop("limitView", None)
            namespace.pop("mtls", None)
        security = namespace.get("podSecurity", {})
        if security.get("level") == "privileged":
            security.setdefault("reason", "made up by a test, for a test")
        else:
            security.pop("reason", None)
        if not namespace.get("limitView"):
            namespace.pop("calls", None)
    services = {
        name: consistent_service(name, service) for name, service in mesh["services"].items()
    }
    for service in services.values():
        if "callers" in service and mesh["namespaces"][service["namespace"]].get("mtls"):
            service.setdefault("mtls", {}).setdefault("mode", "PERMISSIVE")
        for caller in service.get("callers", []):
            if "service" in caller:
                called = caller["service"].split("/")[-1]
                services[called]["serviceAccount"] = f"{called}-account"
    mesh["services"] = services
    hosts = mesh["egress"]["hosts"]
    for number, (name, host) in enumerate(hosts.items()):
        hosts[name] = _consistent_host(name, f"192.0.2.{50 + number}", host)
    for name, workload in mesh.get("workloads", {}).items():
        workload.update(deployment=name, limits={"cpu": "2", "memory": "1Gi"})
    return mesh


def _consistent_host(name: str, address: str, values: Values) -> Values:
    host = {**values, "host": f"api.{name}.example"}
    host.pop("wildcardReason", None)
    if host["country"] == "US":
        host["transferBasis"] = "made up by a test, for a test"
    if values["host"].startswith("*"):
        host |= {"host": f"*.{name}.example", "through": "direct", "tls": "passthrough"}
        host["wildcardReason"] = "made up by a test, for a test"
        host.pop("addresses", None)
        host.pop("ports", None)
    if host.get("tls") == "originate" or not host.get("ports"):
        host.pop("ports", None)
    ports = list({port["number"]: port for port in host.get("ports", [])}.values())
    over_tcp = any(port["protocol"] == "TCP" for port in ports)
    if ports:
        host["ports"] = ports
    if over_tcp or "addresses" in host:
        host["addresses"] = [address]
    if over_tcp or len(ports) > 1:
        host["through"] = "direct"
    if (host.get("tls"), host.get("through", "gateway")) != ("originate", "gateway"):
        host.pop("caSecret", None)
    return host


def _without_paths(service: Values) -> Values:
    """Return a service that is one VirtualService."""
    return {key: value for key, value in service.items() if key != "paths"}


meshes = mostly(_free_meshes, _consistent)

NAME = "made-up"
_services = mostly(
    applied(_without_paths, free_services(NAME, "shop")),
    lambda values: consistent_service(NAME, values),
)


def _mesh_of(service: Values) -> Values:
    """Return a section `mesh` with one service and everything that it may refer to."""
    callers = {
        name: {"namespace": home, "port": 80, "stable": "v1", "serviceAccount": name}
        for name, home in _HOMES.items()
    }
    return {
        "namespaces": {"shop": {}, "back": {}},
        "gateways": GATEWAYS,
        "services": {NAME: service, **callers},
    }


meshes_of_one: Draw[Values] = applied(_mesh_of, _services)
"""Meshes whose one interesting service is NAME."""


def accepted_services(count: int) -> list[Mesh]:
    """Return the accepted ones of a number of meshes with one service, the simplest first."""
    stacks = [stack for stack in map(accepted, examples(meshes_of_one, count)) if stack]
    meshes = [
        Mesh(
            services={NAME: stack.mesh.services[NAME]},
            gateways={
                name: gateway
                for name, gateway in stack.mesh.gateways.items()
                if name == stack.mesh.services[NAME].gateway
            },
        )
        for stack in stacks
    ]
    return sorted(meshes, key=lambda mesh: len(shape(mesh.services[NAME])))


def problems(mesh: Values) -> tuple[Sections, list[Problem]]:
    """Return the sections of a stack with the mesh, and the errors that a preview would report."""
    sections = Sections({**base_sections(), "mesh": mesh}, paths.PROJECT)
    errors = [*sections.problems, *(problem for check in CHECKS for problem in check(sections))]
    return sections, [problem for problem in errors if problem.path[0] in ("mesh", "istio")]


def accepted(mesh: Values) -> StackConfig | None:
    """Return a stack with the mesh, or None if a preview would refuse the mesh."""
    sections, against = problems(mesh)
    if against:
        return None
    return StackConfig.model_validate(sections.by_name, by_name=True)
