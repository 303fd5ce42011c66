"""Valid stacks: loading, defaults and derived values."""

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime import set_all_config
from pulumi.runtime.config import CONFIG
from pydantic import ValidationError

from config import EXAMPLE_HOST_KEY, Ssh, StackConfig, errors, load
from config.kubernetes import checks as kubernetes
from tests.support.paths import PROJECT
from tests.unit.config.test_errors import edited

Values = dict[str, Any]
Load = Callable[[Values], StackConfig]

PROD = PROJECT / "Pulumi.prod.yaml"


def test_a_container_stack_loads(load: Load, container_stack: Values) -> None:
    config = load(container_stack)
    assert [name for name, _ in config.machines.control_planes] == ["cp-1"]
    assert [name for name, _ in config.machines.workers] == ["worker-1"]
    assert config.machines.container is not None
    assert config.machines.container.gateway == "10.66.0.1"
    assert config.machines.container.prefix_length == 24
    assert config.machines.login(config.machines.nodes["cp-1"]) == Ssh(user="root", port=22)
    assert config.artifacts.mirror == "http://10.66.0.1:8080"
    assert config.demo.enabled


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("machines.nodes.worker-1.address", "10.66.0.2"),
        ("machines.nodes.worker-1.address", "10.66.0.254"),
        ("kubernetes.podCidr", "10.244.0.0/23"),  # a /24 for each of the two nodes
        ("kubernetes.endpoint", "worker-1.example.internal"),
    ],
)
def test_values_at_their_limits_are_accepted(
    load: Load, container_stack: Values, path: str, value: str
) -> None:
    assert load(edited(container_stack, {path: value}))


def test_an_existing_stack_gets_defaults(load: Load, existing_stack: Values) -> None:
    config = load(existing_stack)
    nodes = config.machines.nodes
    assert config.machines.login(nodes["cp-1"]) == Ssh(user="admin", port=22)
    assert config.machines.login(nodes["worker-1"]) == Ssh(user="debian", port=2222)
    assert config.machines.login(nodes["worker-1"]).bastion is None
    assert not config.machines.allow_data_loss
    assert config.artifacts.lock == "stacks/artifacts.lock.json"
    assert config.kubernetes.pod_cidr == "10.244.0.0/16"
    assert config.kubernetes.cgroup_driver == "systemd"
    assert config.istio is not None
    assert config.istio.hub == "docker.io/istio"
    assert config.istio.revision == "1-17-8"
    assert list(config.istio.gateways) == ["istio-egressgateway", "istio-ingressgateway"]
    assert config.istio.outbound_traffic_policy == "REGISTRY_ONLY"
    assert config.istio.proxy.limits.cpu == "2000m"
    assert config.mesh.mtls == "PERMISSIVE"
    assert not config.demo.enabled


def test_a_node_may_override_the_shared_bastion(load: Load, existing_stack: Values) -> None:
    key = existing_stack["machines"]["nodes"]["cp-1"]["hostKey"]
    existing_stack["machines"]["ssh"]["bastion"] = {"address": "192.0.2.5", "hostKey": key}
    existing_stack["machines"]["nodes"]["worker-1"]["bastion"] = {
        "address": "192.0.2.6",
        "hostKey": key,
        "port": 443,
        "user": "jump",
    }
    machines = load(existing_stack).machines
    shared, own = (machines.login(machines.nodes[name]).bastion for name in ("cp-1", "worker-1"))
    assert shared is not None
    assert own is not None
    assert (shared.address, shared.user, shared.port) == ("192.0.2.5", "root", 22)
    assert (own.address, own.user, own.port) == ("192.0.2.6", "jump", 443)


@pytest.mark.parametrize(
    ("canary", "weights"),
    [
        ({"subset": "v2", "weight": 10}, {"v1": 90, "v2": 10}),
        ({"subset": "v2", "weight": "25"}, {"v1": 75, "v2": 25}),
        ({"subset": "v2", "weight": 0}, {"v1": 100, "v2": 0}),
        ({"subset": "v2", "weight": 100}, {"v1": 0, "v2": 100}),
        (None, {"v1": 100}),
    ],
)
def test_the_stable_subset_gets_the_remaining_weight(
    load: Load, container_stack: Values, canary: Any, weights: dict[str, int]
) -> None:
    container_stack["demo"] = {"enabled": False}
    container_stack["mesh"]["services"]["checkout"]["canary"] = canary
    assert load(container_stack).mesh.services["checkout"].weights == weights


def test_text_from_pulumi_config_set_is_converted(load: Load, container_stack: Values) -> None:
    container_stack["demo"] = {"enabled": "true"}
    container_stack["istio"]["egressGateways"] = {}
    container_stack["istio"]["proxy"] = {"limits": {"cpu": 4}, "concurrency": "0"}
    container_stack["kubernetes"]["version"] = "v1.23.16"
    config = load(container_stack)
    assert config.demo.enabled
    assert config.istio is not None
    assert list(config.istio.gateways) == ["istio-ingressgateway"]
    assert config.istio.proxy.limits.cpu == "4"
    assert config.istio.proxy.limits.memory == "1024Mi"
    assert config.istio.proxy.concurrency == 0
    assert config.kubernetes.version == "1.23.16"


def test_a_host_key_loses_its_comment(load: Load, existing_stack: Values) -> None:
    node_values = existing_stack["machines"]["nodes"]["cp-1"]
    key = node_values["hostKey"]
    node_values["hostKey"] = f"{key} root@cp-1\n"
    node = load(existing_stack).machines.nodes["cp-1"]
    assert node.provider == "existing"
    assert node.host_key == key


@pytest.mark.parametrize(
    "key",
    [
        EXAMPLE_HOST_KEY,
        "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBAotZhldVLDTuGbd6"
        "+rtYyg1kImPBV2AZBBehU5fCB32KpRwWaNVa1IRCJoQ/eIOF/F5yb7j1RRr0c0PhncgAeE=",
    ],
)
def test_valid_host_keys_are_accepted(load: Load, existing_stack: Values, key: str) -> None:
    existing_stack["machines"]["nodes"]["cp-1"]["hostKey"] = key
    assert load(existing_stack)


def test_an_unsupported_pair_is_waived_with_a_reason(load: Load, existing_stack: Values) -> None:
    existing_stack["istio"] = {"version": "1.18.7", "allowUnsupported": "upgrade test of 2026-11"}
    config = load(existing_stack)
    warnings = kubernetes.warnings(config, date(2026, 11, 20))
    assert any("upgrade test of 2026-11" in line for line in warnings)


def test_models_are_frozen(load: Load, existing_stack: Values) -> None:
    config = load(existing_stack)
    with pytest.raises(ValidationError, match="frozen"):
        config.demo.enabled = True


def _program_keys(content: dict[str, Any]) -> dict[str, Any]:
    """The keys that the program reads, without those of the policy pack."""
    return {
        key.removeprefix("nordmesh:"): value
        for key, value in content.items()
        if key.startswith("nordmesh:")
    }


def test_the_prod_example_loads(load: Load, ssh_key: str) -> None:
    content = yaml.safe_load(PROD.read_text())["config"]
    values = _program_keys(content)
    config = load({**values, "sshPrivateKey": ssh_key})
    assert set(values) == set(StackConfig.model_fields)
    assert config.mesh.services["payment-service"].weights == {"v1": 95, "v2": 5}
    assert config.machines.login(config.machines.nodes["worker-2"]).user == "debian"


def test_the_prod_example_names_every_key() -> None:
    text = PROD.read_text()
    schema = StackConfig.model_json_schema()
    keys = {key for model in schema["$defs"].values() for key in model.get("properties", {})}
    assert [key for key in sorted(keys) if f"{key}:" not in text] == []


def test_a_release_without_a_checksum_explains_the_fix(ssh_key: str) -> None:
    content = yaml.safe_load(PROD.read_text())["config"]
    values = _program_keys(content)
    values["istio"]["version"] = "1.16.5"
    with pytest.raises(errors.ConfigError) as caught:
        load.load({**values, "sshPrivateKey": ssh_key}, project_dir=PROD.parent)
    (problem,) = caught.value.problems
    assert problem.key == "nordmesh:artifacts.lock"
    assert "istioctl-1.16.5-linux-amd64" in problem.what
    assert "nordmesh lock" in problem.fix


def test_read_returns_only_keys_of_the_namespace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PULUMI_CONFIG", json.dumps({"nordmesh:demo": "{}", "aws:region": "x"}))
    before = CONFIG.get()
    try:
        set_all_config({"nordmesh:mesh": '{"mtls":"STRICT"}'})
        assert load.read() == {"demo": "{}", "mesh": '{"mtls":"STRICT"}'}
    finally:
        CONFIG.set(before)


def test_pulumi_shows_a_config_error_without_a_traceback() -> None:
    assert issubclass(errors.ConfigError, pulumi.RunError)
