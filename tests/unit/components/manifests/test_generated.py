"""Generated meshes: each is refused with an error, or its objects implement the file."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from components.manifests import Manifest
from config import Caller, Mesh, Service
from tests.support.generated import examples
from tests.support.generated_mesh import accepted, meshes, problems
from tests.support.generated_routes import assert_varied
from tests.support.mocked import kubernetes_objects, run

EXAMPLES = 60
MESH_WIDE = ("istio-system", "default")
# The service account of Istio's ingress gateway.
GATEWAY_ACCOUNT = "istio-system", "istio-ingressgateway-service-account"


@dataclass(frozen=True, kw_only=True)
class GeneratedMesh:
    """A mesh, and the Kubernetes objects of its stack."""

    mesh: Mesh
    objects: list[Manifest]

    def of_kind(self, kind: str) -> dict[tuple[str, str], Manifest]:
        """The objects of a kind, by namespace and name."""
        return {
            (manifest["metadata"].get("namespace", ""), manifest["metadata"]["name"]): manifest
            for manifest in self.objects
            if manifest["kind"] == kind
        }

    def names(self, kind: str) -> set[tuple[str, str]]:
        return set(self.of_kind(kind))

    def spec(self, kind: str, namespace: str, name: str) -> Manifest:
        spec: Manifest = self.of_kind(kind)[namespace, name]["spec"]
        return spec

    @property
    def services(self) -> Iterator[tuple[str, Service]]:
        yield from self.mesh.services.items()


@pytest.fixture(scope="module")
def generated_meshes() -> list[GeneratedMesh]:
    stacks = [stack for stack in map(accepted, examples(meshes, EXAMPLES)) if stack]
    # `run` fails if two resources have the same name.
    return [
        GeneratedMesh(mesh=stack.mesh, objects=kubernetes_objects(run(stack)[0]))
        for stack in stacks
    ]


def test_generated_meshes_vary(generated_meshes: list[GeneratedMesh]) -> None:
    """Otherwise the other tests could pass without testing anything."""
    assert_varied(
        (service for generated in generated_meshes for _, service in generated.services),
        shapes=70,
        of_each=4,
    )
    counts = Counter[str]()
    for generated in generated_meshes:
        counts.update(
            f"view {namespace.limit_view}" for namespace in generated.mesh.namespaces.values()
        )
        counts.update(f"mode {namespace.mtls}" for namespace in generated.mesh.namespaces.values())
        counts.update(host.through for host in generated.mesh.egress.hosts.values())
        counts.update(host.tls for host in generated.mesh.egress.hosts.values())
        counts.update(workload.apply for workload in generated.mesh.workloads.values())
    variants = {
        *("view True", "view False", "mode None", "mode STRICT", "mode PERMISSIVE"),
        *("gateway", "direct", "originate", "passthrough", "patch", "snippet"),
    }
    assert not {key: counts[key] for key in variants if counts[key] < 4}


def test_a_refused_mesh_has_a_complete_error() -> None:
    refusals = [
        found_problems
        for _, found_problems in map(problems, examples(meshes, 140))
        if found_problems
    ]
    assert len(refusals) >= 10
    for problem in (problem for found_problems in refusals for problem in found_problems):
        assert problem.path[0] in ("mesh", "istio")
        assert all((problem.what, problem.why, problem.fix))


def test_a_mesh_has_exactly_its_objects(generated_meshes: list[GeneratedMesh]) -> None:
    for generated in generated_meshes:
        mesh, services = generated.mesh, generated.mesh.services.items()
        egress = {name: ("istio-system", f"egress-{name}") for name in mesh.egress.hosts}
        through = {egress[name] for name in mesh.egress.by_gateway}
        shared = {("istio-system", "egress")} if through else set()
        originated = {
            egress[name] for name, host in mesh.egress.hosts.items() if host.tls == "originate"
        }
        homes = {name: service.namespace for name, service in services}
        assert {name for _, name in generated.names("Namespace")} >= mesh.namespaces.keys()
        assert (
            generated.names("Gateway")
            == {("istio-system", name) for name in mesh.gateways} | through
        )
        by_path = {name for name in homes if name in mesh.by_path}
        routes = {
            *((homes[name], name) for name in homes.keys() - by_path),
            *((homes[name], name) for name in by_path if mesh.services[name].in_mesh),
            *((homes[name], f"{name}.split") for name in by_path),
        }
        hosts = {
            (
                "istio-system",
                f"{gateway}.{'below' if host[0] == '*' else 'host'}.{host.lstrip('*.')}",
            )
            for gateway, host in mesh.shared_hosts
        }
        assert generated.names("VirtualService") == routes | hosts | through
        assert generated.names("DestinationRule") == shared | originated | {
            (service.namespace, rule)
            for name, service in services
            for rule in (name, *(f"{name}.{subset}" for subset in service.subsets))
        }
        assert generated.names("AuthorizationPolicy") == shared | {
            (homes[name], f"{name}-callers") for name, item in services if item.callers is not None
        }
        assert generated.names("PeerAuthentication") == {
            MESH_WIDE,
            *((name, "default") for name, item in mesh.namespaces.items() if item.mtls),
            *((homes[name], name) for name, item in services if item.mtls),
        }
        assert generated.names("Sidecar") == {
            (name, "default") for name, item in mesh.namespaces.items() if item.limit_view
        }
        assert generated.names("ServiceEntry") == set(egress.values())
        assert generated.names("DeploymentPatch") | generated.names("Deployment") >= {
            (item.namespace, item.deployment or name)
            for name, item in mesh.workloads.items()
            if item.apply == "patch"
        }


def test_namespaces_have_the_injection_label_of_the_file(
    generated_meshes: list[GeneratedMesh],
) -> None:
    for generated in generated_meshes:
        for name, namespace in generated.mesh.namespaces.items():
            labels = generated.of_kind("Namespace")["", name]["metadata"]["labels"]
            assert (labels["istio-injection"] == "enabled") is namespace.injection


def test_every_route_uses_an_existing_subset(generated_meshes: list[GeneratedMesh]) -> None:
    for generated in generated_meshes:
        subsets = {
            (rule["spec"]["host"], subset["name"])
            for rule in generated.of_kind("DestinationRule").values()
            for subset in rule["spec"].get("subsets", [])
        }
        for route in generated.of_kind("VirtualService").values():
            for destination in values_of(route["spec"], "destination"):
                if "subset" in destination:
                    assert (destination["host"], destination["subset"]) in subsets


def test_a_gateway_serves_its_hosts(generated_meshes: list[GeneratedMesh]) -> None:
    for generated in generated_meshes:
        for name, gateway in generated.mesh.gateways.items():
            spec = generated.spec("Gateway", gateway.namespace, name)
            assert spec["selector"]["app"] == gateway.ingress_gateway
            assert all(server["hosts"] == gateway.hosts for server in spec["servers"])
            ports = {server["port"]["number"]: server.get("tls", {}) for server in spec["servers"]}
            if gateway.tls is None:
                assert ports == {gateway.http_port: {}}
                continue
            secured = ports.pop(gateway.https_port)
            assert secured["mode"] == gateway.tls.mode
            assert secured.get("credentialName") == gateway.tls.secret
            assert ports == {gateway.http_port: {"httpsRedirect": True}}


# --- who may call --------------------------------------------------------------------------------


def test_only_declared_callers_are_allowed(generated_meshes: list[GeneratedMesh]) -> None:
    accounts = {
        *((home, name) for home in ("shop", "back", "plain") for name in ("client", "default")),
        GATEWAY_ACCOUNT,
    }
    for generated in generated_meshes:
        own = {
            (other_service.namespace, other_service.service_account)
            for _, other_service in generated.services
        }
        for name, service in generated.services:
            if service.callers is None:
                continue
            policy = generated.spec("AuthorizationPolicy", service.namespace, f"{name}-callers")
            assert policy["action"] == "ALLOW"
            for account in accounts | own:
                limits = [
                    limits_of(caller, service)
                    for caller in service.callers
                    if runs_as(caller, generated.mesh) == account
                ]
                assert rules_for(policy, account) == limits, (name, account, service)


def runs_as(caller: Caller, mesh: Mesh) -> tuple[str, str]:
    """The namespace and the service account of a caller."""
    if caller.service is not None:
        called = mesh.services[re.sub("^.*/", "", caller.service)]
        return called.namespace, called.service_account
    if caller.service_account is not None:
        namespace, name = caller.service_account.split("/")
        return namespace, name
    return GATEWAY_ACCOUNT


def limits_of(caller: Caller, service: Service) -> Manifest:
    limits = caller.model_dump(include={"methods", "paths", "ports"}, exclude_defaults=True)
    return {
        key: [str(service.ports.get(value, value)) for value in values]
        for key, values in limits.items()
    }


def rules_for(policy: Manifest, account: tuple[str, str]) -> list[Manifest]:
    """The rules of a policy for an account: the limits of each."""
    principal = f"cluster.local/ns/{account[0]}/sa/{account[1]}"
    limits = []
    for rule in policy.get("rules", []):
        # A rule without a source or with a condition would need another check.
        assert rule.keys() <= {"from", "to"}
        principals = [name for entry in rule["from"] for name in entry["source"]["principals"]]
        if principal in principals:
            operations = [entry["operation"] for entry in rule.get("to", [{"operation": {}}])]
            assert len(operations) == 1
            limits += operations
    return limits


def test_policies_select_the_pods_of_their_service(generated_meshes: list[GeneratedMesh]) -> None:
    for generated in generated_meshes:
        for name, service in generated.services:
            pods = service.selector or {"app": name}
            if service.callers is not None:
                policy = generated.spec("AuthorizationPolicy", service.namespace, f"{name}-callers")
                assert policy["selector"] == {"matchLabels": pods}
            if service.mtls is not None:
                policy = generated.spec("PeerAuthentication", service.namespace, name)
                assert policy["selector"] == {"matchLabels": service.mtls.selector or pods}


def test_each_port_of_a_pod_has_the_mode_of_the_file(generated_meshes: list[GeneratedMesh]) -> None:
    for generated in generated_meshes:
        for name, service in generated.services:
            own, home = service.mtls, generated.mesh.namespaces[service.namespace]
            mode = (own.mode if own else None) or home.mtls or generated.mesh.mtls
            for port in (80, 443, 8080, 9090, 15090):
                expected = own.ports.get(port, mode) if own else mode
                assert mode_at(generated, name, service, port) == expected, (port, service)


def mode_at(generated: GeneratedMesh, name: str, service: Service, port: int) -> str:
    """The mTLS mode of a port by Istio's rules: the narrowest policy that sets it wins."""
    policies = generated.of_kind("PeerAuthentication")
    scopes = [MESH_WIDE, (service.namespace, "default"), (service.namespace, name)]
    specs = [policies[scope]["spec"] for scope in scopes if scope in policies]
    modes = [spec["mtls"]["mode"] for spec in specs if "mtls" in spec]
    modes += [spec.get("portLevelMtls", {}).get(str(port), {}).get("mode") for spec in specs]
    narrowest: str = [mode for mode in modes if mode is not None][-1]
    return narrowest


# --- Sidecar resources and egress ----------------------------------------------------------------


def test_a_limited_view_lists_exactly_the_callable_services(
    generated_meshes: list[GeneratedMesh],
) -> None:
    for generated in generated_meshes:
        for namespace, settings in generated.mesh.namespaces.items():
            if not settings.limit_view:
                continue
            (egress,) = generated.spec("Sidecar", namespace, "default")["egress"]
            called = {
                f"{service.namespace}/{name}.{service.namespace}.svc.cluster.local"
                for name, service in generated.services
                if service.callers is None
                or namespace in {runs_as(caller, generated.mesh)[0] for caller in service.callers}
            }
            for reference in settings.calls:
                home, name = reference.split("/")
                called.add(f"{home}/{name}.{home}.svc.cluster.local")
            system = [host for host in egress["hosts"] if host.startswith(("default/", "kube-"))]
            listed = set(egress["hosts"]) - set(system)
            elsewhere = {host for host in called if not host.startswith(f"{namespace}/")}
            assert len(system) == 2
            assert listed == {"./*", "istio-system/*"} | elsewhere, (namespace, generated.mesh)


def test_egress_hosts_are_exported_to_their_namespaces(
    generated_meshes: list[GeneratedMesh],
) -> None:
    for generated in generated_meshes:
        for name, host in generated.mesh.egress.hosts.items():
            gateway = host.through == "gateway"
            exported_to = {*host.namespaces, *(["."] if gateway else [])}
            kinds = ["ServiceEntry", *(["VirtualService"] if gateway else [])]
            for kind in kinds:
                spec = generated.spec(kind, "istio-system", f"egress-{name}")
                assert spec["hosts"] == [host.host]
                assert set(spec["exportTo"]) == exported_to
            ports = generated.spec("ServiceEntry", "istio-system", f"egress-{name}")["ports"]
            if host.tls == "originate":
                assert [(port["number"], port["targetPort"]) for port in ports] == [(80, 443)]
                assert_verified(generated, name)
            else:
                declared = [(port.number, port.protocol) for port in host.ports]
                assert [(port["number"], port["protocol"]) for port in ports] == declared


def assert_verified(generated: GeneratedMesh, name: str) -> None:
    """Assert that the proxy that originates TLS verifies the name and the CA."""
    host = generated.mesh.egress.hosts[name]
    policy = generated.spec("DestinationRule", "istio-system", f"egress-{name}")["trafficPolicy"]
    (settings,) = policy["portLevelSettings"]
    assert settings["port"] == {"number": 80}
    tls = settings["tls"]
    assert (tls["mode"], tls["sni"], tls["subjectAltNames"]) == ("SIMPLE", host.host, [host.host])
    assert tls.get("credentialName") == host.ca_secret
    assert ("caCertificates" in tls) is (host.ca_secret is None)


def test_the_egress_gateway_allows_the_namespaces_of_each_host(
    generated_meshes: list[GeneratedMesh],
) -> None:
    for generated in generated_meshes:
        hosts = generated.mesh.egress.by_gateway
        if not hosts:
            continue
        policy = generated.spec("AuthorizationPolicy", "istio-system", "egress")
        assert policy["selector"]["matchLabels"]["app"] == "istio-egressgateway"
        allows = {
            rule["when"][0]["values"][0]: set(rule["from"][0]["source"]["namespaces"])
            for rule in policy["rules"]
        }
        assert allows == {host.host: set(host.namespaces) for host in hosts.values()}


def values_of(value: Any, key: str) -> Iterator[Manifest]:
    """Find all values of a key, at any depth."""
    if isinstance(value, list):
        for entry in value:
            yield from values_of(entry, key)
    elif isinstance(value, dict):
        for name, entry in value.items():
            if name == key:
                yield entry
            yield from values_of(entry, key)
