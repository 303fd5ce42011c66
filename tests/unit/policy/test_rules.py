"""The rules of the policy pack at their boundaries: what each refuses and what it just allows."""

import datetime
from typing import Any

import pytest

from components.host import backup
from components.manifests import mtls
from components.manifests.workloads import annotations as proxy_annotations
from components.remote.node_command import Script
from config import Backup, Mesh, Workload
from config.istio import Proxy
from policy.rules import RULES
from policy.rules.residency import registry_host
from policy.stack import Resource, Stack

AGE_KEY = "age1tlfdsyt7vk7ru5fdq4fqnphq434xr8pz3wpmkuhra0jjrjzg5qnqmv6wa4"
TODAY = datetime.date(2023, 2, 1)
PRODUCTION = {"nordmesh-policy:environment": "production"}
TEST = {"nordmesh-policy:environment": "test"}


def k8s_object(kind: str, name: str, *, is_protected: bool = True, **props: Any) -> Resource:
    """Build a Kubernetes object."""
    namespace, _, base = name.rpartition("/")
    metadata = {"name": base, **({"namespace": namespace} if namespace else {})}
    metadata |= props.pop("metadata", {})
    return Resource(
        type=f"kubernetes:x/v1:{kind}",
        name=name,
        urn=f"urn:{kind}:{name}",
        props={"metadata": metadata, **props},
        is_protected=is_protected,
    )


def script(
    file: str, name: str, settings: dict[str, str] | None = None, *, is_protected: bool = True
) -> Resource:
    """Build a command that runs a script on a node."""
    command = Script(file=file, node="a", settings=settings or {}).command("root")
    return Resource(
        type="command:remote:Command", name=name, urn=f"urn:{name}", props={"create": command},
        is_protected=is_protected,
    )  # fmt: skip


def subjects(rule: str, *resources: Resource, config: dict[str, Any] | None = None) -> list[str]:
    """List the subjects of the violations of a rule, in a production stack by default."""
    stack = Stack(resources=resources, config=config or PRODUCTION, today=TODAY)
    findings = next(r for r in RULES if r.name == rule).violations(stack)
    return [finding.subject for finding in findings]


# --- mTLS -----------------------------------------------------------------------------------------


def namespace(name: str, label: str = "istio-injection", value: str = "enabled") -> Resource:
    return k8s_object("Namespace", name, metadata={"labels": {label: value}})


def mode(name: str, mode: str | None, *, selector: bool = False, **ports: str) -> Resource:
    """Build a PeerAuthentication for selected pods or for the whole namespace."""
    spec: dict[str, Any] = {"selector": {"matchLabels": {"app": "a"}}} if selector else {}
    if mode:
        spec["mtls"] = {"mode": mode}
    if ports:
        spec["portLevelMtls"] = {
            port.strip("p"): {"mode": port_mode} for port, port_mode in ports.items()
        }
    return k8s_object("PeerAuthentication", name, spec=spec)


SHOP, STRICT = namespace("shop"), mode("istio-system/default", "STRICT")


@pytest.mark.parametrize(
    ("policies", "violations"),
    [
        ([], ["namespace:shop"]),
        ([STRICT], []),
        ([mode("istio-system/default", "PERMISSIVE")], ["namespace:shop"]),
        ([mode("shop/default", "STRICT")], []),
        ([STRICT, mode("shop/default", "PERMISSIVE")], ["namespace:shop"]),
        ([STRICT, mode("shop/default", "DISABLE")], ["namespace:shop"]),
        # A namespace without a mode inherits the mode of the mesh.
        ([STRICT, mode("shop/default", None)], []),
        ([STRICT, mode("shop/default", "UNSET")], []),
        ([mode("other/default", "STRICT")], ["namespace:shop"]),
        # A policy for selected pods does not cover the others.
        ([mode("shop/a", "STRICT", selector=True)], ["namespace:shop"]),
        ([STRICT, mode("shop/a", "STRICT", selector=True)], []),
        ([STRICT, mode("shop/a", None, selector=True)], []),
        ([STRICT, mode("shop/a", "UNSET", selector=True)], []),
        ([STRICT, mode("shop/a", "PERMISSIVE", selector=True)], ["workload:shop/a"]),
        ([STRICT, mode("shop/a", "DISABLE", selector=True)], ["workload:shop/a"]),
        ([STRICT, mode("shop/a", "STRICT", selector=True, p80="DISABLE")], ["port:shop/a:80"]),
        ([STRICT, mode("shop/a", None, selector=True, p80="STRICT", p81="UNSET")],
         ["port:shop/a:81"]),
    ],
)  # fmt: skip
def test_production_namespaces_must_refuse_plaintext(
    policies: list[Resource], violations: list[str]
) -> None:
    assert subjects("strict-mtls", SHOP, *policies) == violations
    assert subjects("strict-mtls", SHOP, *policies, config=TEST) == []
    accepted = {"nordmesh-policy:accept": dict.fromkeys(violations, "until the move")}
    assert subjects("strict-mtls", SHOP, *policies, config=PRODUCTION | accepted) == []


def test_only_namespaces_with_injection_need_strict_mtls() -> None:
    outside = [namespace("a", value="disabled"), k8s_object("Namespace", "b")]
    assert subjects("strict-mtls", *outside) == []
    assert subjects("strict-mtls", namespace("c", "istio.io/rev", "1-16")) == ["namespace:c"]


def test_a_declared_service_that_accepts_plaintext_is_refused() -> None:
    mesh = Mesh.model_validate(
        {
            "namespaces": {"shop": {"mtls": "STRICT"}},
            "services": {
                "pay": {
                    "namespace": "shop", "port": 80, "stable": "v1", "mtls": {"mode": "DISABLE"},
                }
            },
        }
    )  # fmt: skip
    service = mesh.services["pay"]
    assert service.mtls is not None
    manifest = mtls.service_peer_authentication("pay", service, service.mtls)
    policy = k8s_object("PeerAuthentication", "shop/pay", spec=manifest["spec"])
    assert subjects("strict-mtls", SHOP, STRICT, policy) == ["workload:shop/pay"]


# --- hosts and data -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("proxy", "violations"),
    [(None, 0), ({"host": "b", "hostKey": "k"}, 0), ({"host": "b"}, 1), ({"hostKey": ""}, 1)],
)
def test_a_bastion_also_needs_a_host_key(proxy: Any, violations: int) -> None:
    connection = {"host": "a", "hostKey": "k", "proxy": proxy}
    login = Resource(
        type="command:remote:Command", name="it", urn="u", props={"connection": connection}
    )
    assert subjects("pinned-host-keys", login) == ["host-key:it"] * violations


@pytest.mark.parametrize(
    ("host", "violations"),
    [
        ({}, []),
        ({"firewall": {"enabled": True}, "ssh": {"hardened": True}}, []),
        ({"firewall": {"enabled": False}}, ["host.firewall"]),
        ({"ssh": {"hardened": False}}, ["host.ssh"]),
    ],
)
def test_production_hosts_must_be_hardened(host: dict[str, Any], violations: list[str]) -> None:
    section = {"nordmesh:host": host}
    assert subjects("hardened-hosts", config=PRODUCTION | section) == violations
    assert subjects("hardened-hosts", config=TEST | section) == []


@pytest.mark.parametrize(
    ("hosts", "violations"),
    [
        (["shop.example.no", "*.shop.example.no", "shop/a.example.no"], []),
        (["shop.example.no", "*"], ["gateway:shop/public"]),
        (["shop/*"], ["gateway:shop/public"]),
    ],
)
def test_a_gateway_for_every_host_is_refused(hosts: list[str], violations: list[str]) -> None:
    servers = [{"hosts": ["a.example.no"]}, {"hosts": hosts}]
    assert (
        subjects(
            "no-wildcard-gateways", k8s_object("Gateway", "shop/public", spec={"servers": servers})
        )
        == violations
    )


def test_production_resources_with_data_must_be_protected() -> None:
    def resources(*, is_protected: bool) -> list[Resource]:
        labels = {"labels": {"istio-injection": "enabled"}}
        return [
            k8s_object("Namespace", "shop", is_protected=is_protected, metadata=labels),
            k8s_object("Namespace", "plain", is_protected=is_protected),
            script("kubeadm-init.sh", "init", is_protected=is_protected),
            script("kvm-create.sh", "guest", is_protected=is_protected),
            script("istio-install.sh", "mesh", is_protected=is_protected),
            script("node-prepare.sh", "prepare", is_protected=is_protected),
        ]

    unprotected = [f"unprotected:{name}" for name in ("guest", "init", "mesh", "shop")]
    assert subjects("protected-data", *resources(is_protected=False)) == unprotected
    assert subjects("protected-data", *resources(is_protected=False), config=TEST) == []
    assert subjects("protected-data", *resources(is_protected=True)) == []
    allowed = PRODUCTION | {"nordmesh:machines": {"allowDataLoss": True}}
    assert subjects("protected-data", *resources(is_protected=False), config=allowed) == [
        "allowDataLoss"
    ]
    for entry, left in {
        ("etcd", "a"): ["guest", "mesh", "shop"],
        ("disk", "a"): ["init", "mesh", "shop"],
        ("namespace", "shop"): ["guest", "init", "mesh"],
        ("namespace", "istio-system"): ["guest", "init", "shop"],
        ("volumes", "a"): ["guest", "init", "mesh", "shop"],
    }.items():
        machines = {"allowDataLoss": [dict([entry], reason="a test of its entry")]}
        found = subjects(
            "protected-data",
            *resources(is_protected=False),
            config=PRODUCTION | {"nordmesh:machines": machines},
        )
        assert found == [f"unprotected:{name}" for name in left]


# --- proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "violations"),
    [
        ({"cpu": "500m", "memory": "128Mi"}, 0),
        ({"cpu": "0.5", "memory": "131072Ki"}, 0),
        ({"cpu": "499m", "memory": "128Mi"}, 1),
        ({"cpu": "500m", "memory": "127Mi"}, 1),
        ({"cpu": "499m", "memory": "127Mi"}, 2),
    ],
)
@pytest.mark.parametrize("kind", ["Deployment", "DeploymentPatch", "DaemonSet", "StatefulSet"])
def test_proxy_limits_have_a_minimum(kind: str, limits: dict[str, str], violations: int) -> None:
    workload = Workload.model_validate({"namespace": "shop", "limits": limits})
    template = {"metadata": {"annotations": proxy_annotations(workload, Proxy())}}
    resource = k8s_object(kind, "shop/a", spec={"template": template})
    assert subjects("proxy-limits", resource) == ["proxy-limit:shop/a"] * violations


def test_an_invalid_quantity_is_left_to_the_api_server() -> None:
    annotations = {"sidecar.istio.io/proxyCPULimit": "much"}
    spec = {"template": {"metadata": {"annotations": annotations}}}
    assert subjects("proxy-limits", k8s_object("Deployment", "shop/a", spec=spec)) == []


# --- supply ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "rule"),
    [
        ("docker.io/a/b:1.16.5", "images-by-digest"),
        ("registry:5000/b:v0.26", "images-by-digest"),
        ("docker.io/a/b:1.16.5@sha256:" + "0" * 64, None),
        ("docker.io/a/b@sha256:" + "0" * 64, None),
        ("docker.io/a/b:latest", "pinned-images"),
        ("docker.io/a/b:v2", "pinned-images"),
        ("docker.io/a/b", "pinned-images"),
        ("registry.a.1.2:5000/b", "pinned-images"),
    ],
)
@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "StatefulSet", "CronJob", "Pod"])
def test_images_need_a_pinned_tag_and_a_digest(kind: str, image: str, rule: str | None) -> None:
    pod = k8s_object(
        kind, "shop/a", spec={"template": {"spec": {"containers": [{"image": image}]}}}
    )
    for name in ("pinned-images", "images-by-digest"):
        assert bool(subjects(name, pod)) is (name == rule)


def test_a_guest_image_needs_a_checksum() -> None:
    by_path = {"IMAGE_PATH": "/srv/debian.qcow2"}
    assert subjects("pinned-guest-images", script("kvm-create.sh", "a", by_path)) == [
        "guest-image:/srv/debian.qcow2"
    ]
    pinned = script("kvm-create.sh", "a", by_path | {"IMAGE_SHA256": "0" * 64})
    assert subjects("pinned-guest-images", pinned, script("kvm-delete.sh", "b", by_path)) == []


@pytest.mark.parametrize(
    ("reference", "host"),
    [
        ("quay.io/kiali/kiali:v1", "quay.io"),
        ("registry:5000/a", "registry"),
        ("localhost/a", "localhost"),
        ("library/nginx", "docker.io"),
        ("nginx:1.2", "docker.io"),
    ],
)
def test_the_registry_of_an_image_reference(reference: str, host: str) -> None:
    assert registry_host(reference) == host


# --- secrets --------------------------------------------------------------------------------------

JWT = f"eyJ{'a' * 12}.eyJ{'b' * 12}.{'c' * 12}"


@pytest.mark.parametrize(
    "resource",
    [
        k8s_object("ConfigMap", "shop/a", data={"x": JWT}),
        k8s_object("Deployment", "shop/a", spec={"env": [{"value": JWT}]}),
        k8s_object("DaemonSet", "shop/a", spec={"env": [{"value": JWT}]}),
        k8s_object("StatefulSet", "shop/a", spec={"env": [{"value": JWT}]}),
        script("node-prepare.sh", "shop/a", {"TOKEN": JWT}),
    ],
)
def test_a_plaintext_secret_is_refused(resource: Resource) -> None:
    assert subjects("no-plain-secrets", resource) == ["secret:shop/a"]


def test_a_kubernetes_secret_may_hold_a_secret() -> None:
    assert subjects("no-plain-secrets", k8s_object("Secret", "shop/a", data={"x": JWT})) == []


# --- residency ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("s3.eu-north-1.amazonaws.com", []),
        ("s3.us-east-1.amazonaws.com", ["s3.us-east-1.amazonaws.com"]),
        ("s3.unknown.example", ["s3.unknown.example"]),
    ],
)
def test_snapshots_stay_in_the_eea(host: str, found: list[str]) -> None:
    values = {"host": host, "region": "no", "bucket": "snaps", "accessKeyId": "writer"}
    settings = Backup.model_validate({"keys": [AGE_KEY], "s3": values})
    command = script(
        "backup-install.sh", "cp-1-backup", backup.settings("cp-1", settings, cluster="prod")
    )
    config = {**PRODUCTION, "nordmesh:backup": {"s3": values}}
    assert subjects("eea-residency", command, config=config) == found


@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("cognito-idp.eu-north-1.amazonaws.com", []),
        ("cognito-idp.us-east-1.amazonaws.com", ["cognito-idp.us-east-1.amazonaws.com"]),
        ("login.unknown.example", ["login.unknown.example"]),
    ],
)
def test_the_identity_provider_is_in_the_eea(host: str, found: list[str]) -> None:
    access = {"oidc": {"issuerUrl": f"https://{host}/pool", "clientId": "nordmesh"}}
    assert subjects("eea-residency", config={**PRODUCTION, "nordmesh:access": access}) == found


@pytest.mark.parametrize("section", ["artifacts", "istio", "observability"])
@pytest.mark.parametrize(
    ("host", "found"),
    [
        ("s3.eu-north-1.amazonaws.com", []),
        ("s3.us-east-1.amazonaws.com", ["s3.us-east-1.amazonaws.com"]),
    ],
)
def test_addresses_in_the_platforms_own_sections_are_in_the_eea(
    section: str, host: str, found: list[str]
) -> None:
    config = {**PRODUCTION, f"nordmesh:{section}": {"in": [{"url": f"https://{host}/x"}]}}
    assert subjects("eea-residency", config=config) == found


@pytest.mark.parametrize(
    ("declared", "violations"),
    [
        ({}, True),
        ({"country": "NO"}, False),
        ({"country": "US"}, True),
        ({"country": "US", "transfer-basis": "clauses of 2021"}, False),
    ],
)
def test_an_unknown_egress_host_needs_a_country(
    declared: dict[str, str], *, violations: bool
) -> None:
    entry = egress_entry("api.bank.example", declared)
    assert subjects("eea-residency", entry) == ["api.bank.example"] * violations


@pytest.mark.parametrize(
    ("host", "country", "violations"),
    [
        ("s3.fr-par.scw.cloud", "FR", False),
        ("s3.fr-par.scw.cloud", "NO", True),  # contradicts the table
        ("s3.us-east-1.amazonaws.com", "NO", True),
    ],
)
def test_a_declared_country_must_match_the_table(
    host: str, country: str, *, violations: bool
) -> None:
    entry = egress_entry(host, {"country": country})
    assert subjects("eea-residency", entry) == [host] * violations


def test_a_service_entry_inside_the_mesh_is_not_egress() -> None:
    spec = {"hosts": ["vm.bank.example"], "location": "MESH_INTERNAL"}
    assert subjects("eea-residency", k8s_object("ServiceEntry", "shop/a", spec=spec)) == []


def egress_entry(host: str, declared: dict[str, str]) -> Resource:
    annotations = {f"nordmesh.io/{key}": value for key, value in declared.items()}
    spec = {"hosts": [host]}
    return k8s_object("ServiceEntry", "shop/a", spec=spec, metadata={"annotations": annotations})


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("http://a.example http://b.example:80/c", ["a.example", "b.example"]),
        ("http://A_b-1.example/", ["a_b-1.example"]),
        ("http://$HOST/a http://${HOST}:80 http://{{ .host }}/ http://:9090/", []),
        ("http://[broken/ http://%s/", []),
        ("http://$HOST.example/ http://%s.example/ http://*.example", []),
        ("ftp://a.example //b.example c.example:80", []),
    ],
)
def test_hosts_are_read_from_urls_only(text: str, hosts: list[str]) -> None:
    """Patterns and templates do not count as hosts."""
    assert subjects("eea-residency", k8s_object("ConfigMap", "shop/a", data={"x": text})) == hosts


@pytest.mark.parametrize(
    ("host", "declared", "message"),
    [
        ("s3.fr-par.scw.cloud", {"country": "NO"}, "declares the egress host"),
        ("ghcr.io", {}, "ghcr.io is outside the EEA (US)"),
        ("s3.us-east-1.amazonaws.com", {"country": "US"}, "is outside the EEA (its name has no"),
        ("api.bank.example", {"country": "US"}, "api.bank.example is outside the EEA (US)"),
        ("api.bank.example", {}, "the country of the egress host api.bank.example is unknown"),
    ],
)
def test_the_reason_for_refusing_an_egress_host_is_given(
    host: str, declared: dict[str, str], message: str
) -> None:
    stack = Stack(resources=(egress_entry(host, declared),), config=PRODUCTION, today=TODAY)
    (rule,) = (candidate for candidate in RULES if candidate.name == "eea-residency")
    (finding,) = rule.violations(stack)
    assert message in finding.what


@pytest.mark.parametrize("country", ["NO", "US"])
def test_a_private_host_may_declare_any_country(country: str) -> None:
    """The table knows that the host is private, but not its country."""
    assert subjects("eea-residency", egress_entry("vm.bank.internal", {"country": country})) == []


# --- reasons --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "is_valid"), [("a" * 9, False), (" " * 9 + "a", False), ("a" * 10, True)]
)
def test_a_reason_has_a_minimum_length(reason: str, *, is_valid: bool) -> None:
    config = PRODUCTION | {"nordmesh-policy:accept": {"docker.io": reason}}
    assert subjects("reasons", config=config) == ([] if is_valid else ["docker.io"])


def test_no_reason_waives_a_secret() -> None:
    config = PRODUCTION | {"nordmesh-policy:accept": {"secret:shop/a": "until the move"}}
    secret = k8s_object("ConfigMap", "shop/a", data={"x": JWT})
    assert subjects("no-plain-secrets", secret, config=config) == ["secret:shop/a"]


GATEWAY = k8s_object("Gateway", "shop/public", spec={"servers": [{"hosts": ["*"]}]})
LATEST = k8s_object("Pod", "shop/a", spec={"containers": [{"image": "registry.internal/a:latest"}]})
ELSEWHERE = k8s_object("ConfigMap", "shop/a", data={"x": "https://a.example/"})
GUEST = script("kvm-create.sh", "a", {"IMAGE_PATH": "/srv/debian.qcow2"})
LIMITED = k8s_object(
    "Deployment",
    "shop/a",
    spec={"template": {"metadata": {"annotations": {"sidecar.istio.io/proxyCPULimit": "1m"}}}},
)
OPEN_HOSTS = {"nordmesh:host": {"firewall": {"enabled": False}}}


@pytest.mark.parametrize(
    ("rule", "resource", "config", "is_waived"),
    [
        ("strict-mtls", SHOP, {}, True),
        ("eea-residency", ELSEWHERE, {}, True),
        ("hardened-hosts", None, OPEN_HOSTS, True),
        ("no-wildcard-gateways", GATEWAY, {}, True),
        ("pinned-images", LATEST, {}, True),
        ("pinned-guest-images", GUEST, {}, True),
        ("pinned-host-keys", script("node-prepare.sh", "a"), {}, False),
        ("protected-data", k8s_object("Namespace", "shop", is_protected=False,
                                metadata={"labels": {"istio.io/rev": "1"}}), {}, False),
        ("proxy-limits", LIMITED, {}, False),
        ("no-plain-secrets", k8s_object("ConfigMap", "shop/a", data={"x": JWT}), {}, False),
    ],
)  # fmt: skip
def test_a_reason_waives_only_some_rules(
    rule: str, resource: Resource | None, config: dict[str, Any], *, is_waived: bool
) -> None:
    resources = (resource,) if resource else ()
    (subject,) = subjects(rule, *resources, config=PRODUCTION | config)
    (code,) = (candidate for candidate in RULES if candidate.name == rule)
    assert code.is_mandatory
    accepted = {"nordmesh-policy:accept": {subject: "until the move"}}
    stack = Stack(resources=resources, config=PRODUCTION | config | accepted, today=TODAY)
    assert bool(code.violations(stack)) is not is_waived
    (waivers,) = (candidate for candidate in RULES if candidate.name == "let-through")
    (warning,) = waivers.violations(stack)
    assert warning.what == (
        f"{subject} is waived: until the move"
        if is_waived
        else f"nordmesh-policy:accept names {subject}, but it waives nothing"
    )
