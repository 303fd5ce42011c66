"""NetworkPolicies of a mesh: what they allow, and kube-router, which enforces them."""

import ipaddress
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from components.manifests import Manifest, kube_router, network_policy
from components.manifests.network_policy import Networks
from config import Caller, Mesh, catalogue, selector
from config.mesh.network_policy import CHECKS
from config.sections import Sections
from config.warnings import warnings
from tests.support.generated import examples
from tests.support.generated_mesh import accepted, meshes
from tests.support.golden import check
from tests.support.mocked import base_sections, changed, config, node, run
from tests.support.network_policies import Pod, allows
from tests.support.paths import PROJECT
from tests.support.sections import partner
from tests.support.ways_out import WAYS, table
from tests.unit.components.manifests.test_access import MESH, WHY
from tests.unit.config.test_errors import Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

NETWORKS = Networks(
    pod_cidr="10.244.0.0/16", service_cidr="10.96.0.0/12", api_servers=["192.0.2.11", "192.0.2.12"]
)
OUTSIDE, OTHER, METADATA = "203.0.113.7", "198.51.100.9", "169.254.169.254"
HOST_PORTS = (443, 80, 5432, 8443)
PORTS = (8080, 9090, 53, *HOST_PORTS)


def policies_of(mesh: Mesh) -> list[Manifest]:
    """Every policy of a mesh that limits egress."""
    return [
        *(
            network_policy.callers(name, mesh.services)
            for name, service in mesh.services.items()
            if service.callers is not None
        ),
        *network_policy.egress(mesh, NETWORKS),
        network_policy.monitoring(mesh, NETWORKS),
    ]


def test_policies_match_their_golden_file() -> None:
    check("network-policies.yaml", yaml.safe_dump_all(policies_of(MESH), sort_keys=False))


def test_kube_router_matches_its_golden_file() -> None:
    objects = kube_router.kube_router(
        service_cidr="10.96.0.0/12",
        endpoint="api.oslo.example.internal",
        image=catalogue.KUBE_ROUTER_IMAGE,
    )
    check("kube-router.yaml", yaml.safe_dump_all(objects, sort_keys=False))


# --- what they allow, over generated meshes -------------------------------------------------------


@pytest.fixture(scope="module")
def generated() -> list[Mesh]:
    return [stack.mesh for stack in map(accepted, examples(meshes, 60)) if stack]


def pods_of(mesh: Mesh) -> list[Pod]:
    """A pod of each service, and one of no service in each namespace, with and without sidecars."""
    addresses = map(str, ipaddress.ip_network("10.244.1.0/24").hosts())
    labels = [
        *((x.namespace, x.pod_labels(name)) for name, x in mesh.services.items()),
        *((name, {"job": "import"}) for name in (*mesh.namespaces, "outside", "monitoring")),
        ("kube-system", {"k8s-app": "kube-dns"}),
        ("istio-system", {"app": "istiod"}),
        *(("istio-system", selector(f"istio-{x}gateway")) for x in ("ingress", "egress")),
    ]
    return [
        Pod(namespace=namespace, labels=own, address=next(addresses)) for namespace, own in labels
    ]


def is_caller(caller: Caller, pod: Pod, mesh: Mesh) -> bool:
    """Whether a pod is the caller, by the namespaces and labels alone."""
    if caller.gateway is not None:
        return pod.namespace == "istio-system" and pod.labels.get("app") == caller.gateway
    if caller.service_account is not None:
        return pod.namespace == caller.service_account.partition("/")[0]
    assert caller.service is not None
    name = caller.service.rpartition("/")[2]
    service = mesh.services[name]
    return (
        pod.namespace == service.namespace
        and service.pod_labels(name).items() <= pod.labels.items()
    )


def may_be_called(mesh: Mesh, source: Pod, target: Pod, port: int, protocol: str) -> bool:
    """Whether the file lets a pod connect to another one, for each service that it is a pod of."""
    verdicts = []
    for name, service in mesh.services.items():
        labels = service.pod_labels(name).items()
        if service.callers is None or service.namespace != target.namespace:
            continue
        if not labels <= target.labels.items():
            continue
        scraped = port == 15020 and source.namespace == "monitoring"
        verdicts.append(
            protocol == "TCP"
            and (
                port == 15090
                or scraped
                or any(
                    is_caller(caller, source, mesh)
                    and port
                    in (
                        [service.ports[x] if isinstance(x, str) else x for x in caller.ports]
                        or [port]
                    )
                    for caller in service.callers
                )
            )
        )
    return not verdicts or any(verdicts)


def may_see(mesh: Mesh, source: Pod, target: Pod) -> bool:
    """Whether a limited view of the source's namespace includes the target."""
    settings = mesh.namespaces.get(source.namespace)
    if settings is None or not settings.limit_view:
        return True
    named = {reference.partition("/")[0] for reference in settings.calls}
    if target.namespace in {source.namespace, "istio-system", *named}:
        return True
    if target.labels.get("k8s-app") == "kube-dns":
        return True
    return any(
        target.namespace == service.namespace
        and service.pod_labels(name).items() <= target.labels.items()
        and (
            service.callers is None
            or any(home(caller, mesh) == source.namespace for caller in service.callers)
        )
        for name, service in mesh.services.items()
    )


def home(caller: Caller, mesh: Mesh) -> str:
    """The namespace of a caller."""
    if caller.gateway is not None:
        return "istio-system"
    if caller.service_account is not None:
        return caller.service_account.partition("/")[0]
    return mesh.services[str(caller.service).rpartition("/")[2]].namespace


def test_a_pod_is_called_by_its_declared_callers_alone(generated: list[Mesh]) -> None:
    verdicts = Counter[bool]()
    for mesh in generated:
        policies, pods = policies_of(mesh), pods_of(mesh)
        for source, target in itertools.permutations(pods, 2):
            for port, protocol in ((8080, "TCP"), (9090, "TCP"), (15090, "TCP"), (15020, "TCP"),
                                   (53, "UDP")):  # fmt: skip
                expected = may_be_called(mesh, source, target, port, protocol) and may_see(
                    mesh, source, target
                )
                verdict = allows(policies, source, target, port, protocol)
                assert verdict is expected, (source, target, port, protocol)
                verdicts[verdict] += 1
    assert min(verdicts[True], verdicts[False]) > 1000, verdicts


def outside_allowed(mesh: Mesh, source: Pod, address: str, port: int) -> bool:
    """Whether the file lists an address outside for a pod."""
    if source.namespace == "outside" or source.namespace == "kube-system":
        return True  # not a namespace of the mesh
    if address in NETWORKS.api_servers and port == 6443:
        return True
    if source.namespace == "monitoring" and port in (10250, 2381):
        return True
    if address == METADATA:
        return False
    is_gateway = source.labels.get("app") == mesh.egress.gateway
    for host in mesh.egress.hosts.values():
        calls_itself = host.through == "direct" or source.namespace in (
            "istio-system",
            "monitoring",
        )
        listed = source.namespace in host.namespaces and calls_itself
        if not (listed or (is_gateway and host.through == "gateway")):
            continue
        if port in [x.number for x in host.ports] and address in (host.addresses or [address]):
            return True
    return False


def test_pods_leave_the_cluster_to_listed_hosts_alone(generated: list[Mesh]) -> None:
    verdicts = Counter[bool]()
    for mesh in generated:
        policies = policies_of(mesh)
        listed = [x for host in mesh.egress.hosts.values() for x in host.addresses]
        for source in pods_of(mesh):
            for address in {OUTSIDE, OTHER, METADATA, *NETWORKS.api_servers, *listed}:
                for port in (*PORTS, 6443, 10250):
                    expected = outside_allowed(mesh, source, address, port)
                    verdict = allows(policies, source, address, port)
                    assert verdict is expected, (source, address, port)
                    verdicts[verdict] += 1
                bare = source.namespace in ("outside", "kube-system")
                assert allows(policies, source, address, 53, "UDP") is bare
    assert min(verdicts[True], verdicts[False]) > 300, verdicts


def test_every_pod_resolves_names_and_reaches_istiod(generated: list[Mesh]) -> None:
    dns = Pod(namespace="kube-system", labels={"k8s-app": "kube-dns"}, address="10.244.0.2")
    istiod = Pod(namespace="istio-system", labels={"app": "istiod"}, address="10.244.0.3")
    for mesh in generated:
        policies = policies_of(mesh)
        for source in pods_of(mesh):
            assert allows(policies, source, dns, 53, "UDP")
            assert allows(policies, source, dns, 53, "TCP")
            assert allows(policies, source, istiod, 15012)
            assert allows(policies, source, "192.0.2.12", 6443)


def test_the_document_lists_every_way_out() -> None:
    lines = (PROJECT / "docs" / "network-policy.md").read_text().splitlines()
    first = lines.index(next(table()))
    expected = list(table())
    assert lines[first : first + len(expected) + 1] == [*expected, ""]


def test_every_way_out_is_tried_once_or_says_why_not() -> None:
    names = [way.name for way in WAYS]
    assert sorted(set(names)) == sorted(names)
    for way in WAYS:
        assert bool(way.tests) != bool(way.why_untried), way.name
        assert way.note or not way.is_open, way.name


# --- the stack ------------------------------------------------------------------------------------

HOST = partner()


def mesh_section(**edits: Any) -> dict[str, Any]:
    mesh: dict[str, Any] = config().model_dump(by_alias=True)["mesh"]
    return mesh | {"networkPolicy": True, **edits}


def test_kube_router_and_the_policies_are_created() -> None:
    recorder, _ = run(config(mesh=mesh_section(egress={"hosts": {"partner": HOST}})))
    assert "kube-system/kube-router" in recorder.names(":DaemonSet")
    assert recorder.names(":NetworkPolicy") == [
        "istio-system/egress",
        "istio-system/egress-gateway",
        "shop/egress",
    ]
    # They are deleted before kube-router, so that it ends with rules that allow everything.
    for policy in recorder.names(":NetworkPolicy"):
        needed = recorder.options[f"NetworkPolicy {policy}"]["depends_on"]
        assert "DaemonSet kube-system/kube-router" in needed


def test_nothing_enforces_policies_by_default() -> None:
    recorder, _ = run(config())
    assert recorder.names(":NetworkPolicy") == []
    assert "kube-system/kube-router" not in recorder.names(":DaemonSet")


def test_hosts_are_not_limited_while_the_mesh_allows_all() -> None:
    mesh = mesh_section()
    mesh["services"]["checkout"]["callers"] = []
    istio = {"version": "1.16.5", "outboundTrafficPolicy": "ALLOW_ANY"}
    stack = config(mesh=mesh, istio=istio, observability={"prometheus": {"enabled": True}})
    recorder, _ = run(stack)
    assert recorder.names(":NetworkPolicy") == ["shop/checkout-callers"]
    (line,) = [line for line in warnings(stack) if line.startswith("mesh.networkPolicy")]
    assert "it limits callers only" in line


def test_monitoring_reaches_the_hosts_that_it_may_call() -> None:
    """For example, the receiver of alerts."""
    receiver = {**WHY, "namespaces": ["monitoring"], "host": "alerts.example.no"}
    receiver |= {"addresses": [OUTSIDE], "through": "direct"}
    mesh = Mesh.model_validate({"egress": {"hosts": {"receiver": receiver}}})
    prometheus = Pod(namespace="monitoring", labels={}, address="10.244.1.9")
    policies = [network_policy.monitoring(mesh, NETWORKS)]
    assert allows(policies, prometheus, OUTSIDE, 443)
    assert not allows(policies, prometheus, OTHER, 443)


def test_monitoring_has_a_policy_of_its_own() -> None:
    stack = config(mesh=mesh_section(), observability={"prometheus": {"enabled": True}})
    recorder, _ = run(stack)
    assert "monitoring/egress" in recorder.names(":NetworkPolicy")


def test_a_new_worker_changes_no_policy_and_a_control_plane_only_policies() -> None:
    stack = config(mesh=mesh_section())
    before, _ = run(stack)
    for role, expected in (
        ("worker", []),
        ("control-plane", ["istio-system/egress", "shop/egress"]),
    ):
        edited_stack = stack.model_dump(by_alias=True)
        edited_stack["machines"]["nodes"]["new-1"] = node(role, "192.0.2.33")
        after, _ = run(type(stack).model_validate(edited_stack))
        policies = [name for name in changed(before, after) if name.endswith("/egress")]
        assert policies == expected


def open_ways(hosts: Mapping[str, Any], **edits: Any) -> Iterator[str]:
    stack = config(mesh=mesh_section(egress={"hosts": hosts}), **edits)
    return (line for line in warnings(stack) if "any host" in line or "ipvs" in line)


def test_ways_that_stay_open_are_named_in_the_preview() -> None:
    (line,) = open_ways({"partner": HOST})
    for way in (
        *("hostNetwork", "privileged pods", "programs on the nodes", "not in mesh.namespaces"),
        *("in the name of", "CoreDNS"),
    ):
        assert way in line
    direct = HOST | {"through": "direct"}
    _, line = open_ways({"partner": direct})
    assert line == (
        "mesh.egress.hosts.partner: a pod without a sidecar in shop may connect to port 443 of any "
        "host, because api.partner.example has no addresses. Set addresses, or through: gateway"
    )
    assert len([*open_ways({"partner": direct | {"addresses": ["192.0.2.50"]}})]) == 1
    wildcard = direct | {"host": "*.partner.example", "wildcardReason": "a host for each tenant"}
    _, line = open_ways({"partner": wildcard})
    assert line.endswith("because *.partner.example has no addresses")
    kubernetes = config().model_dump(by_alias=True)["kubernetes"] | {"kubeProxy": {"mode": "ipvs"}}
    _, line = open_ways({"partner": HOST}, kubernetes=kubernetes)
    assert "a new pod may call Services before its policies are in effect" in line
    _, line = open_ways({"partner": HOST}, observability={"prometheus": {"enabled": True}})
    assert all(word in line for word in ("pods in monitoring", "10250", "2381")), line


def test_a_list_that_only_proxies_enforce_is_named_in_the_preview() -> None:
    stack = config(mesh=mesh_section(networkPolicy=False, egress={"hosts": {"partner": HOST}}))
    (line,) = [line for line in warnings(stack) if "any host" in line]
    assert line.startswith("mesh.egress.hosts: only proxies refuse other hosts.")


def test_policies_need_the_firewall_of_the_node(container_stack: Values, load: Load) -> None:
    wrong = Wrong(
        "policies without the node's firewall",
        {"mesh.networkPolicy": True, "host": {"firewall": {"enabled": False}}},
        "mesh.networkPolicy",
        "network-policy-without-firewall",
        ("first packets of a new pod", "remove host.firewall.enabled"),
    )
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


def test_policies_need_a_mesh() -> None:
    values = {**base_sections(), "mesh": {"networkPolicy": True}}
    values.pop("istio", None)
    sections = Sections(values, PROJECT)
    (problem,) = (problem for check in CHECKS for problem in check(sections))
    assert problem.code == "network-policy-without-mesh"
    assert "add nordmesh:istio" in problem.fix
