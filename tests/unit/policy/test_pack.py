"""The rules of the policy pack, without a Pulumi engine; see also tests/engine/test_policy.py."""

import datetime
from typing import Any

import pytest
import yaml

from components.remote.node_command import Script
from config import catalogue, stack_file
from policy.places import locate
from policy.rules import RULES
from policy.rules.rule import Finding
from policy.stack import Resource, Stack, config_of, key_service_of
from tests.support.paths import PROJECT

TODAY = datetime.date(2023, 2, 1)


def violations_of(rule: str, stack: Stack) -> list[Finding]:
    return next(r for r in RULES if r.name == rule).violations(stack)


def stack(**config: Any) -> Stack:
    return Stack(config=config, today=TODAY)


@pytest.mark.parametrize(
    ("host", "country", "law"),
    [
        ("bucket.s3.eu-north-1.amazonaws.com", "SE", "US"),
        ("bucket.s3.us-east-1.amazonaws.com", None, "US"),
        ("bucket.s3.eu-west-2.amazonaws.com", None, "US"),
        ("s3.amazonaws.com", None, "US"),
        ("my-eu-north-1x.s3.amazonaws.com", None, "US"),
        ("s3.fr-par.scw.cloud", "FR", None),
        ("bucket.fsn1.your-objectstorage.com", "DE", None),
        ("REGISTRY-1.docker.io", "US", "US"),
        ("*.githubusercontent.com", "US", "US"),
        ("mirror.internal", "inside", None),
        ("checkout.shop.svc", "inside", None),
        ("10.66.0.1", "inside", None),
        ("registry", "inside", None),
    ],
)
def test_a_known_host_has_a_location_and_a_jurisdiction(
    host: str, country: str | None, law: str | None
) -> None:
    location = locate(host)
    assert location is not None
    assert (location.country, location.law) == (country, law)


@pytest.mark.parametrize("host", ["notdocker.io", "docker.io.attacker.no", "8.8.8.8", "a.no"])
def test_an_unknown_host_has_no_location(host: str) -> None:
    assert locate(host) is None


@pytest.mark.parametrize(
    ("backend", "message"),
    [
        ("https://api.pulumi.com", "the state backend api.pulumi.com is outside"),
        ("s3://state?region=us-east-1", "s3.us-east-1.amazonaws.com is outside"),
        ("s3://state", "s3.unknown.amazonaws.com is outside"),
        ("gs://state", "storage.googleapis.com is outside"),
        ("azblob://state", "blob.core.windows.net is outside"),
        ("postgres://user:hush@db.elsewhere.net/state", "db.elsewhere.net is not in"),
    ],
)
def test_a_state_backend_outside_the_eea_is_refused(backend: str, message: str) -> None:
    (violation,) = violations_of("eea-residency", Stack(backend=backend, today=TODAY))
    assert message in violation.text
    assert "hush" not in violation.text


@pytest.mark.parametrize(
    "backend",
    [
        "file:///srv/state",
        "s3://state?region=eu-north-1",
        "s3://state?endpoint=https://s3.fr-par.scw.cloud&region=fr-par",
        "s3://state?endpoint=minio.internal:9000",
        "postgres://user:hush@10.0.0.5/state",
    ],
)
def test_a_state_backend_inside_the_eea_passes(backend: str) -> None:
    assert not violations_of("eea-residency", Stack(backend=backend, today=TODAY))


@pytest.mark.parametrize(
    ("service", "message"),
    [
        ("awskms://alias/mesh?region=us-east-1", "service kms.us-east-1.amazonaws.com is outside"),
        ("awskms://alias/mesh", "kms.unknown.amazonaws.com is outside"),
        ("awskms:///arn:aws:kms:us-west-2:1:key/2", "kms.us-west-2.amazonaws.com is outside"),
        ("azurekeyvault://mesh.vault.azure.net/keys/state", "mesh.vault.azure.net is outside"),
        ("gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k", "googleapis.com is outside"),
        ("hashivault://mesh", "vault.elsewhere.net is not in"),
    ],
)
def test_a_key_service_outside_the_eea_is_refused(service: str, message: str) -> None:
    vault = {"VAULT_SERVER_URL": "https://vault.elsewhere.net:8200"}
    address = key_service_of({"secretsprovider": service}, vault)
    (violation,) = violations_of("eea-residency", Stack(key_service=address, today=TODAY))
    assert message in violation.text


@pytest.mark.parametrize(
    "file",
    [
        {},
        {"encryptionsalt": "v1:..."},
        {"secretsprovider": "passphrase"},
        {"secretsprovider": "awskms://alias/mesh?region=eu-north-1"},
        {"secretsprovider": "hashivault://mesh"},
    ],
)
def test_a_key_service_inside_the_eea_passes(file: dict[str, str]) -> None:
    address = key_service_of(file, {"VAULT_ADDR": "https://vault.internal:8200"})
    assert not violations_of("eea-residency", Stack(key_service=address, today=TODAY))


def test_an_unknown_state_backend_is_a_warning() -> None:
    assert violations_of("visible-state", Stack(today=TODAY))
    assert not violations_of("visible-state", Stack(backend="file:///srv", today=TODAY))


def test_a_provider_under_foreign_law_is_a_warning() -> None:
    (violation,) = violations_of(
        "foreign-law", Stack(backend="s3://s?region=eu-north-1", today=TODAY)
    )
    assert "under the law of US" in violation.text


@pytest.mark.parametrize(
    ("config", "is_production"),
    [
        ({}, True),
        ({"nordmesh:machines": {"nodes": {"a": {"provider": "container"}}}}, False),
        ({"nordmesh:machines": {"nodes": {"a": {"provider": "existing"}}}}, True),
        ({"nordmesh-policy:environment": "test"}, False),
        (
            {
                "nordmesh:machines": {"nodes": {"a": {"provider": "container"}}},
                "nordmesh-policy:environment": "production",
            },
            True,
        ),
    ],
)
def test_a_stack_is_production_unless_it_is_a_lab(
    config: dict[str, Any], is_production: bool
) -> None:
    assert stack(**config).is_production is is_production


def test_a_reason_waives_a_finding_with_a_warning() -> None:
    subject = Stack(
        backend="https://api.pulumi.com",
        config={
            "nordmesh-policy:accept": {
                "api.pulumi.com": "until the move of 2027-01",
                "ghcr.io": "no longer needed by anything",
                "docker.io": "because",
            }
        },
        today=TODAY,
    )
    assert not violations_of("eea-residency", subject)
    assert [finding.text for finding in violations_of("let-through", subject)] == [
        "api.pulumi.com is waived: until the move of 2027-01",
        "nordmesh-policy:accept names docker.io, but it waives nothing; fix: remove it",
        "nordmesh-policy:accept names ghcr.io, but it waives nothing; fix: remove it",
    ]
    (violation,) = violations_of("reasons", subject)
    assert "docker.io" in violation.text


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"x": "-----BEGIN OPENSSH PRIVATE KEY-----"}, "a private key"),
        ({"x": ["AKIA" + "A" * 16]}, "an AWS access key"),
        ({"x": {"y": "ghp_" + "a" * 36}}, "a GitHub token"),
        ({"adminPassword": "hush-hush"}, "a secret by its name"),
        ({"url": "https://user:hush-hush@host/"}, "a password in an address"),
    ],
)
def test_a_plaintext_secret_is_reported_without_its_value(value: Any, shape: str) -> None:
    (violation,) = violations_of("no-plain-secrets", stack(**{"nordmesh:istio": value}))
    assert shape in violation.text
    assert "hush-hush" not in violation.text


@pytest.mark.parametrize(
    "value", [{"tls": {"secret": "shop-cert"}}, {"caSecret": "ca"}, {"password": ""}, {"token": 3}]
)
def test_a_reference_to_a_secret_is_not_a_secret(value: Any) -> None:
    assert not violations_of("no-plain-secrets", stack(**{"nordmesh:mesh": value}))


def test_encrypted_values_are_left_out(tmp_path: Any) -> None:
    secure = {"nordmesh:sshPrivateKey": {"secure": "v1:AAAA"}, "nordmesh:demo": {"enabled": True}}
    (tmp_path / "Pulumi.x.yaml").write_text(yaml.safe_dump({"config": secure}))
    assert config_of(stack_file.document(tmp_path, "x")) == {"nordmesh:demo": {"enabled": True}}
    assert config_of(stack_file.document(tmp_path, "y")) == {}


@pytest.mark.parametrize(
    ("today", "message"),
    [
        (catalogue.KUBERNETES["1.23.17"].end_of_life, "only until 2023-02-28"),
        (datetime.date(2023, 3, 1), "has had no security fixes since 2023-02-28"),
        # 90 days before it.
        (datetime.date(2022, 11, 30), None),
        (datetime.date(2022, 12, 1), "only until 2023-02-28"),
    ],
)
def test_a_release_near_or_past_its_end_of_life_is_reported(
    today: datetime.date, message: str | None
) -> None:
    command = (
        "timeout 1 bash -c 'export KUBERNETES_VERSION=1.23.17\neval \"$(x)\" # node-prepare.sh'"
    )
    subject = Resource(
        type="command:remote:Command", name="it", urn="urn:it", props={"create": command}
    )
    violations = violations_of("end-of-life", Stack(resources=(subject,), today=today))
    assert [violation.what.endswith(message or "") for violation in violations] == [True] * bool(
        message
    )


def prepare(*images: str) -> Resource:
    """Return the command that prepares a node with these images."""
    command = Script(
        file="node-prepare.sh", node="a", settings={"IMAGES": "\n".join(images)}
    ).command("root")
    kind = "command:remote:Command"
    return Resource(type=kind, name="a-prepare", urn="a", props={"create": command})


def test_only_images_pulled_by_tag_violate_the_digest_rule() -> None:
    locked, free = "docker.io/istio/pilot:1.16.5", "docker.io/istio/proxyv2:1.16.5"
    node = prepare(f"{locked} sha256:{'0' * 64}", f"{free} -")
    (violation,) = violations_of("images-by-digest", Stack(resources=(node,), today=TODAY))
    assert violation.text.startswith("1 images")
    assert free in violation.text
    assert locked not in violation.text


def test_an_allowed_fallback_counts_as_a_used_host() -> None:
    node = prepare("docker.io/istio/pilot:1.16.5 -")
    artifacts = {"registry": "https://registry.internal"}
    for fallback in (False, True):
        config = {"nordmesh:artifacts": artifacts | {"fallback": fallback}}
        stack = Stack(resources=(node,), config=config, today=TODAY)
        assert bool(violations_of("eea-residency", stack)) is fallback


def test_time_servers_must_be_inside_the_eea() -> None:
    for server, is_refused in (("ntp.example.internal", False), ("0.pool.ntp.org", True)):
        config = {"nordmesh:host": {"timeServers": [server]}}
        violations = violations_of("eea-residency", Stack(config=config, today=TODAY))
        assert [v.text.partition(" is ")[0] for v in violations] == (
            [f"the time server {server}"] if is_refused else []
        )


def test_values_that_are_unknown_at_preview_violate_no_rule() -> None:
    unknown = "[unknown]"
    props = {
        "connection": unknown,
        "create": unknown,
        "spec": unknown,
        "metadata": unknown,
        "data": unknown,
    }
    kinds = ("Gateway", "ServiceEntry", "PeerAuthentication", "Namespace", "Deployment")
    types = ["command:remote:Command", *(f"kubernetes:core/v1:{kind}" for kind in kinds)]
    resources = tuple(Resource(type=t, name="it", urn=f"urn:{t}", props=props) for t in types)
    subject = Stack(resources=resources, backend="file:///srv", today=TODAY)
    for rule in RULES:
        assert not rule.violations(subject), rule.name


def test_the_shipped_stacks_have_valid_reasons_and_no_secrets() -> None:
    for name in ("local", "prod"):
        config = config_of(stack_file.document(PROJECT, name))
        assert not violations_of("reasons", Stack(config=config, today=TODAY))
        assert not violations_of("no-plain-secrets", Stack(config=config, today=TODAY))


@pytest.mark.parametrize("type_", ["command:remote:Command", "command:remote:CopyToRemote"])
@pytest.mark.parametrize("connection", [{"host": "192.0.2.1"}, {"hostKey": ""}, None])
def test_a_connection_without_a_host_key_is_refused(type_: str, connection: Any) -> None:
    subject = Resource(type=type_, name="it", urn="urn:it", props={"connection": connection})
    (violation,) = violations_of("pinned-host-keys", Stack(resources=(subject,), today=TODAY))
    assert "give it the machine's host key" in violation.text


def test_short_names_of_cluster_services_are_inside_the_cluster() -> None:
    hosts = ("istiod-1-16-5.istio-system", "prometheus.monitoring", "prometheus.elsewhere")
    data = {"data": {"config": " ".join(f"http://{host}:9090/" for host in hosts)}}
    namespace = Resource(
        type="kubernetes:core/v1:Namespace", name="monitoring", urn="urn:n", props={}
    )
    config = Resource(type="kubernetes:core/v1:ConfigMap", name="it", urn="urn:c", props=data)
    (violation,) = violations_of("eea-residency", Stack(resources=(namespace, config), today=TODAY))
    assert violation.subject == "prometheus.elsewhere"
