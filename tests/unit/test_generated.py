"""What holds for every mesh: it is refused in words, or its objects do together what is written."""

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

EXAMPLES = 30
MESH_WIDE = ("istio-system", "default")
# What Istio's ingress gateway runs as, in the namespace of Istio.
GATEWAY_ACCOUNT = "istio-system", "istio-ingressgateway-service-account"


@dataclass(frozen=True, kw_only=True)
class Made:
    """A mesh, and the objects that its stack becomes."""

    mesh: Mesh
    objects: list[Manifest]

    def of_kind(self, kind: str) -> dict[tuple[str, str], Manifest]:
        """The objects of a kind by namespace and name."""
        return {
            (one["metadata"].get("namespace", ""), one["metadata"]["name"]): one
            for one in self.objects
            if one["kind"] == kind
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
def made_up() -> list[Made]:
    stacks = [stack for stack in map(accepted, examples(meshes, EXAMPLES)) if stack]
    # Two resources of one name fail in the run.
    return [Made(mesh=stack.mesh, objects=kubernetes_objects(run(stack)[0])) for stack in stacks]


def test_the_meshes_are_varied(made_up: list[Made]) -> None:
    """Without it, the other tests could hold for no mesh at all."""
    assert_varied(
        (service for made in made_up for _, service in made.services), shapes=70, of_each=4
    )
    counts = Counter[str]()
    for made in made_up:
        counts.update(f"view {one.limit_view}" for one in made.mesh.namespaces.values())
        counts.update(f"mode {one.mtls}" for one in made.mesh.namespaces.values())
        counts.update(host.through for host in made.mesh.egress.hosts.values())
        counts.update(host.tls for host in made.mesh.egress.hosts.values())
        counts.update(workload.apply for workload in made.mesh.workloads.values())
    wanted = {
        *("view True", "view False", "mode None", "mode STRICT", "mode PERMISSIVE"),
        *("gateway", "direct", "originate", "passthrough", "patch", "snippet"),
    }
    assert not {key: counts[key] for key in wanted if counts[key] < 4}


def test_a_mesh_that_is_refused_is_refused_in_words() -> None:
    refused = [against for _, against in map(problems, examples(meshes, 100)) if against]
    assert len(refused) >= 10
    for problem in (problem for against in refused for problem in against):
        assert problem.path[0] in ("mesh", "istio")
        assert all((problem.what, problem.why, problem.fix))


def test_every_section_has_its_objects_and_no_other(made_up: list[Made]) -> None:
    for made in made_up:
        mesh, services = made.mesh, made.mesh.services.items()
        egress = {name: ("istio-system", f"egress-{name}") for name in mesh.egress.hosts}
        through = {egress[name] for name in mesh.egress.by_gateway}
        shared = {("istio-system", "egress")} if through else set()
        originated = {
            egress[name] for name, host in mesh.egress.hosts.items() if host.tls == "originate"
        }
        homes = {name: service.namespace for name, service in services}
        assert {name for _, name in made.names("Namespace")} >= mesh.namespaces.keys()
        assert made.names("Gateway") == {("istio-system", name) for name in mesh.gateways} | through
        assert made.names("VirtualService") == {(homes[name], name) for name in homes} | through
        assert made.names("DestinationRule") == shared | originated | {
            (service.namespace, rule)
            for name, service in services
            for rule in (name, *(f"{name}.{subset}" for subset in service.weights))
        }
        assert made.names("AuthorizationPolicy") == shared | {
            (homes[name], f"{name}-callers") for name, one in services if one.callers is not None
        }
        assert made.names("PeerAuthentication") == {
            MESH_WIDE,
            *((name, "default") for name, one in mesh.namespaces.items() if one.mtls),
            *((homes[name], name) for name, one in services if one.mtls),
        }
        assert made.names("Sidecar") == {
            (name, "default") for name, one in mesh.namespaces.items() if one.limit_view
        }
        assert made.names("ServiceEntry") == set(egress.values())
        assert made.names("DeploymentPatch") | made.names("Deployment") >= {
            (one.namespace, one.deployment or name)
            for name, one in mesh.workloads.items()
            if one.apply == "patch"
        }


def test_pods_get_sidecars_where_it_is_written(made_up: list[Made]) -> None:
    for made in made_up:
        for name, namespace in made.mesh.namespaces.items():
            labels = made.of_kind("Namespace")["", name]["metadata"]["labels"]
            assert (labels["istio-injection"] == "enabled") is namespace.injection


def test_every_route_leads_to_a_subset_that_is_there(made_up: list[Made]) -> None:
    for made in made_up:
        subsets = {
            (rule["spec"]["host"], subset["name"])
            for rule in made.of_kind("DestinationRule").values()
            for subset in rule["spec"].get("subsets", [])
        }
        for route in made.of_kind("VirtualService").values():
            for destination in below(route["spec"], "destination"):
                if "subset" in destination:
                    assert (destination["host"], destination["subset"]) in subsets


def test_a_gateway_is_open_for_its_hosts(made_up: list[Made]) -> None:
    for made in made_up:
        for name, gateway in made.mesh.gateways.items():
            spec = made.spec("Gateway", gateway.namespace, name)
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


def test_declared_callers_may_call_and_nobody_else(made_up: list[Made]) -> None:
    accounts = {
        *((home, name) for home in ("shop", "back", "plain") for name in ("client", "default")),
        GATEWAY_ACCOUNT,
    }
    for made in made_up:
        own = {(one.namespace, one.service_account) for _, one in made.services}
        for name, service in made.services:
            if service.callers is None:
                continue
            policy = made.spec("AuthorizationPolicy", service.namespace, f"{name}-callers")
            assert policy["action"] == "ALLOW"
            for account in accounts | own:
                limits = [
                    limits_of(caller)
                    for caller in service.callers
                    if runs_as(caller, made.mesh) == account
                ]
                assert allowed(policy, account) == limits, (name, account, service)


def runs_as(caller: Caller, mesh: Mesh) -> tuple[str, str]:
    """The namespace and the service account of a caller."""
    if caller.service is not None:
        called = mesh.services[re.sub("^.*/", "", caller.service)]
        return called.namespace, called.service_account
    if caller.service_account is not None:
        namespace, name = caller.service_account.split("/")
        return namespace, name
    return GATEWAY_ACCOUNT


def limits_of(caller: Caller) -> Manifest:
    limits = caller.model_dump(include={"methods", "paths", "ports"}, exclude_defaults=True)
    return {key: [str(value) for value in values] for key, values in limits.items()}


def allowed(policy: Manifest, account: tuple[str, str]) -> list[Manifest]:
    """What a policy allows an account: the limits of each rule for it."""
    principal = f"cluster.local/ns/{account[0]}/sa/{account[1]}"
    found = []
    for rule in policy.get("rules", []):
        # A rule without a source, or with a condition more, is for others than the principal.
        assert rule.keys() <= {"from", "to"}
        principals = [name for one in rule["from"] for name in one["source"]["principals"]]
        if principal in principals:
            operations = [one["operation"] for one in rule.get("to", [{"operation": {}}])]
            assert len(operations) == 1
            found += operations
    return found


def test_policies_select_the_pods_of_their_service(made_up: list[Made]) -> None:
    for made in made_up:
        for name, service in made.services:
            pods = service.selector or {"app": name}
            if service.callers is not None:
                policy = made.spec("AuthorizationPolicy", service.namespace, f"{name}-callers")
                assert policy["selector"] == {"matchLabels": pods}
            if service.mtls is not None:
                policy = made.spec("PeerAuthentication", service.namespace, name)
                assert policy["selector"] == {"matchLabels": service.mtls.selector or pods}


def test_each_port_of_a_pod_has_the_mode_that_is_written_for_it(made_up: list[Made]) -> None:
    for made in made_up:
        for name, service in made.services:
            own, home = service.mtls, made.mesh.namespaces[service.namespace]
            mode = (own.mode if own else None) or home.mtls or made.mesh.mtls
            for port in (80, 443, 8080, 9090, 15090):
                expected = own.ports.get(port, mode) if own else mode
                assert mode_at(made, name, service, port) == expected, (port, service)


def mode_at(made: Made, name: str, service: Service, port: int) -> str:
    """The mTLS mode of a port by Istio's rules: the narrowest policy that says it."""
    policies = made.of_kind("PeerAuthentication")
    places = [MESH_WIDE, (service.namespace, "default"), (service.namespace, name)]
    specs = [policies[place]["spec"] for place in places if place in policies]
    modes = [spec["mtls"]["mode"] for spec in specs if "mtls" in spec]
    modes += [spec.get("portLevelMtls", {}).get(str(port), {}).get("mode") for spec in specs]
    narrowest: str = [mode for mode in modes if mode is not None][-1]
    return narrowest


# --- what proxies know ---------------------------------------------------------------------------


def test_a_limited_view_has_all_that_may_be_called_and_no_more(made_up: list[Made]) -> None:
    for made in made_up:
        for namespace, settings in made.mesh.namespaces.items():
            if not settings.limit_view:
                continue
            (egress,) = made.spec("Sidecar", namespace, "default")["egress"]
            called = {
                f"{one.namespace}/{name}.{one.namespace}.svc.cluster.local"
                for name, one in made.services
                if one.callers is None
                or namespace in {runs_as(caller, made.mesh)[0] for caller in one.callers}
            }
            for reference in settings.calls:
                home, name = reference.split("/")
                called.add(f"{home}/{name}.{home}.svc.cluster.local")
            system = [host for host in egress["hosts"] if host.startswith(("default/", "kube-"))]
            others = set(egress["hosts"]) - set(system)
            elsewhere = {host for host in called if not host.startswith(f"{namespace}/")}
            assert len(system) == 2
            assert others == {"./*", "istio-system/*"} | elsewhere, (namespace, made.mesh)


def test_hosts_outside_are_known_where_they_may_be_called(made_up: list[Made]) -> None:
    for made in made_up:
        for name, host in made.mesh.egress.hosts.items():
            gateway = host.through == "gateway"
            seen_from = {*host.namespaces, *(["."] if gateway else [])}
            kinds = ["ServiceEntry", *(["VirtualService"] if gateway else [])]
            for kind in kinds:
                spec = made.spec(kind, "istio-system", f"egress-{name}")
                assert spec["hosts"] == [host.host]
                assert set(spec["exportTo"]) == seen_from
            ports = made.spec("ServiceEntry", "istio-system", f"egress-{name}")["ports"]
            if host.tls == "originate":
                assert [(one["number"], one["targetPort"]) for one in ports] == [(80, 443)]
                assert_verified(made, name)
            else:
                written = [(one.number, one.protocol) for one in host.ports]
                assert [(one["number"], one["protocol"]) for one in ports] == written


def assert_verified(made: Made, name: str) -> None:
    """The proxy that makes the TLS compares the certificate's name, and knows its CA."""
    host = made.mesh.egress.hosts[name]
    policy = made.spec("DestinationRule", "istio-system", f"egress-{name}")["trafficPolicy"]
    (settings,) = policy["portLevelSettings"]
    assert settings["port"] == {"number": 80}
    tls = settings["tls"]
    assert (tls["mode"], tls["sni"], tls["subjectAltNames"]) == ("SIMPLE", host.host, [host.host])
    assert tls.get("credentialName") == host.ca_secret
    assert ("caCertificates" in tls) is (host.ca_secret is None)


def test_the_egress_gateway_passes_on_who_may_call(made_up: list[Made]) -> None:
    for made in made_up:
        hosts = made.mesh.egress.by_gateway
        if not hosts:
            continue
        policy = made.spec("AuthorizationPolicy", "istio-system", "egress")
        assert policy["selector"]["matchLabels"]["app"] == "istio-egressgateway"
        allows = {
            rule["when"][0]["values"][0]: set(rule["from"][0]["source"]["namespaces"])
            for rule in policy["rules"]
        }
        assert allows == {host.host: set(host.namespaces) for host in hosts.values()}


def below(value: Any, key: str) -> Iterator[Manifest]:
    """All mappings below a value that have the key."""
    if isinstance(value, list):
        for entry in value:
            yield from below(entry, key)
    elif isinstance(value, dict):
        for name, entry in value.items():
            if name == key:
                yield entry
            yield from below(entry, key)
