"""`nordmesh explain`: the effective configuration, and the source of each value."""

import json
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import explain
from cli.ci import affected
from config import Istio, Kubernetes, StackConfig, catalogue, stack_file
from config.errors import NordmeshError
from config.load import load as load_stack
from config.load import read_stack
from tests.support.paths import PROJECT
from tests.unit.commands import nordmesh
from tests.unit.conftest import SSH_KEY

Values = dict[str, Any]


def write(project: Path, values: Values, stack: str = "dev") -> Path:
    """Write a stack file as pulumi does: with an encrypted SSH key."""
    config = {f"nordmesh:{key}": value for key, value in values.items()}
    if "nordmesh:sshPrivateKey" in config:
        config["nordmesh:sshPrivateKey"] = {"secure": "v1:hunter2:encrypted"}
    path = project / f"Pulumi.{stack}.yaml"
    path.write_text(yaml.safe_dump({"config": config, "encryptionsalt": "v1:salt"}))
    return path


def line_of(text: str, key: str) -> str:
    """The only line with the key, with its whitespace collapsed."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith(f"{key}:"))
    return " ".join(line.split())


@pytest.mark.parametrize("fixture", ["container_stack", "existing_stack"])
def test_explain_prints_the_effective_configuration_as_yaml(
    project: Path, fixture: str, request: pytest.FixtureRequest
) -> None:
    values = request.getfixturevalue(fixture)
    write(project, values)
    explained = read_stack(project, "dev")
    assert explained.problems == ()
    settings = yaml.safe_load(explain.explain(explained))
    settings.pop("sshPrivateKey", None)
    config = load_stack(values, project_dir=project)
    expected = config.model_dump(by_alias=True, mode="json")
    # An element of a list shows the keys that it has.
    assert settings == without_nulls_in_lists(expected)


def without_nulls_in_lists(value: Any, *, is_element: bool = False) -> Any:
    """The value without the keys of its lists' elements that are null."""
    if isinstance(value, list):
        return [without_nulls_in_lists(one, is_element=True) for one in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_nulls_in_lists(inner)
        for key, inner in value.items()
        if inner is not None or not is_element
    }


def test_the_old_switch_is_explained_as_its_list(project: Path, existing_stack: Values) -> None:
    existing_stack["machines"]["allowDataLoss"] = True
    text = write(project, existing_stack).read_text()
    (number,) = (n for n, line in enumerate(text.splitlines(), 1) if "allowDataLoss" in line)
    lines = explain.explain(read_stack(project, "dev")).splitlines()
    settings = [" ".join(line.split()) for line in lines if not line.startswith("#")]
    assert f"- etcd: cp-1 # line {number}" in settings


def test_the_passphrase_of_an_ssh_key_is_hidden(project: Path, existing_stack: Values) -> None:
    existing_stack["sshPrivateKeyPassword"] = {"secure": "v1:hunter2:encrypted"}
    existing_stack["machines"]["ssh"]["bastion"] = {
        "address": "192.0.2.5",
        "hostKey": existing_stack["machines"]["nodes"]["cp-1"]["hostKey"],
    }
    write(project, existing_stack)
    explained = read_stack(project, "dev")
    assert explained.problems == ()
    assert "sshPrivateKeyPassword: '[secret]'" in explain.explain(explained)
    assert "hunter2" not in explain.explain(explained)
    assert "debian, port 2222, through 192.0.2.5" in explain.explain(explained)


def test_each_value_shows_its_source(project: Path, existing_stack: Values) -> None:
    existing_stack["istio"]["profile"] = "default"
    existing_stack["kubernetes"]["cgroupDriver"] = "cgroupfs"
    lines = write(project, existing_stack).read_text().splitlines()
    text = explain.explain(read_stack(project, "dev"))

    def number(start: str) -> int:
        return next(n for n, line in enumerate(lines, 1) if line.strip().startswith(start))

    version = number("version: 1.17.8")
    assert line_of(text, "podCidr") == "podCidr: 10.244.0.0/16 # default"
    assert f"version: 1.17.8 # line {version}" in " ".join(text.split())
    driver = number("cgroupDriver")
    expected = f"cgroupDriver: cgroupfs # line {driver}; default: systemd"
    assert line_of(text, "cgroupDriver") == expected
    profile = number("profile")
    assert line_of(text, "profile") == f"profile: default # line {profile}; as the default"
    assert f"# line {number('user: debian')}; default: none" in text


def test_a_setting_of_a_pool_shows_its_line(project: Path, existing_stack: Values) -> None:
    machines = existing_stack["machines"]
    taint = {"key": "dedicated", "effect": "PreferNoSchedule"}
    machines["pools"] = {
        "web": {"labels": {"tier": "gold", "team": "web"}, "taints": [taint], "zone": "oslo-1"}
    }
    machines["nodes"]["worker-1"] |= {
        "pool": "web", "labels": {"tier": "silver"}, "region": "oslo",
    }  # fmt: skip
    lines = write(project, existing_stack).read_text().splitlines()
    loaded = read_stack(project, "dev")
    assert loaded.problems == ()
    text = explain.explain(loaded)
    shown = [" ".join(line.split()) for line in text.splitlines()]

    def number(start: str) -> int:
        return next(n for n, line in enumerate(lines, 1) if line.strip().startswith(start))

    assert f"team: web # line {number('team: web')}, pool web" in shown
    assert f"tier: silver # line {number('tier: silver')}" in shown
    assert f"zone: oslo-1 # line {number('zone: oslo-1')}, pool web" in shown
    effect = number("- effect: PreferNoSchedule")
    assert f"effect: PreferNoSchedule # line {effect}, pool web" in shown
    # In the pool itself, the line alone.
    assert f"team: web # line {number('team: web')}" in shown


def test_secrets_are_hidden(
    project: Path, existing_stack: Values, capsys: pytest.CaptureFixture[str]
) -> None:
    existing_stack["artifacts"] = {"mirror": {"secure": "v1:hunter2:mirror"}}
    existing_stack["kubernetes"]["endpoint"] = {"secure": "v1:hunter2:required"}
    inner = {"token": {"secure": "v1:hunter2:deep"}, "list": [1, 2]}
    existing_stack["istio"]["values"] = {"global": inner}
    write(project, existing_stack)
    assert nordmesh(project, "explain", "--stack", "dev") == 0
    output = capsys.readouterr()
    assert "hunter2" not in output.out + output.err
    assert output.err == ""
    document = yaml.safe_load(output.out)
    assert document["sshPrivateKey"] == "[secret]"
    assert document["artifacts"]["mirror"] == "[secret]"
    assert document["kubernetes"]["endpoint"] == "[secret]"
    assert document["istio"]["values"] == {"global": {"list": [1, 2]}}


def test_explain_prints_json(
    project: Path, existing_stack: Values, capsys: pytest.CaptureFixture[str]
) -> None:
    existing_stack["artifacts"] = {"mirror": {"secure": "v1:hunter2:mirror"}}
    existing_stack["istio"]["version"] = "1.18.7"
    write(project, existing_stack)
    assert nordmesh(project, "explain", "--stack", "dev", "--json") == 1
    output = json.loads(capsys.readouterr().out)
    assert output["stack"] == "dev"
    assert output["settings"]["artifacts"]["mirror"] == "[secret]"
    (problem,) = output["problems"]
    assert problem["path"] == "nordmesh:istio.version"
    assert {"what", "why", "fix"} < set(problem)


def test_lists_are_printed_as_yaml(project: Path, existing_stack: Values) -> None:
    values = {"list": [{"a": 1, "b": [2, 3]}, [4, [5]], "x", {}], "empty": []}
    existing_stack["istio"]["values"] = values
    write(project, existing_stack)
    text = explain.explain(read_stack(project, "dev"))
    assert yaml.safe_load(text)["istio"]["values"] == values
    assert "      - a: 1  " in text


def test_explain_lists_both_addresses_of_a_node(project: Path, existing_stack: Values) -> None:
    nodes = existing_stack["machines"]["nodes"]
    nodes["cp-1"]["privateAddress"] = "10.0.0.11"
    nodes["worker-1"]["address"] = "10.0.0.21"
    write(project, existing_stack)
    text = explain.explain(read_stack(project, "dev"))
    assert "control-plane  192.0.2.11, private 10.0.0.11  existing" in text
    assert "worker         10.0.0.21                      existing" in text


def test_explain_lists_nodes_and_proxy_requests(project: Path, existing_stack: Values) -> None:
    existing_stack["mesh"] = {"namespaces": {"backend": {}, "plain": {"injection": False}}}
    existing_stack["istio"]["proxy"] = {"requests": {"cpu": "50m", "memory": "64Mi"}}
    write(project, existing_stack)
    text = explain.explain(read_stack(project, "dev"))
    assert "#   cp-1      control-plane  192.0.2.11  existing  admin, port 22" in text
    assert "#   worker-1  worker         192.0.2.21  existing  debian, port 2222" in text
    assert "#   pods with a sidecar run in backend; their proxies request" in text
    assert "#      10 pods   0.6 cores    768Mi" in text
    assert "what the nodes have" not in text
    assert "#   Kubernetes 1.23.17 has had no security fixes since 2023-02-28" in text


def test_declared_pods_are_compared_with_capacity(project: Path, existing_stack: Values) -> None:
    existing_stack["mesh"] = {"namespaces": {"backend": {"pods": 20}}}
    worker = existing_stack["machines"]["nodes"]["worker-1"]
    worker["capacity"] = {"cpu": "2", "memory": "4Gi"}
    write(project, existing_stack)
    text = explain.explain(read_stack(project, "dev"))
    assert "#   the pods that are declared: 2.4 cores, 3072Mi" in text
    assert "#   what the nodes have for all pods: 2 cores, 4096Mi" in text
    assert "#   the proxies do not fit: their cpu requests" in text


def test_a_mesh_without_sidecars_is_reported(project: Path, existing_stack: Values) -> None:
    write(project, existing_stack)
    assert "#   no namespace has sidecars" in explain.explain(read_stack(project, "dev"))


def test_an_invalid_value_gives_the_error_of_a_preview(
    project: Path, container_stack: Values, capsys: pytest.CaptureFixture[str]
) -> None:
    container_stack["mesh"]["services"]["checkout"]["canary"]["weight"] = 101
    write(project, container_stack)
    assert nordmesh(project, "explain", "--stack", "dev") == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert "nordmesh:mesh.services.checkout.canary.weight" in output.err
    assert "what  101 is" in output.err


def test_an_unsupported_combination_is_printed_with_its_error(
    project: Path, container_stack: Values, capsys: pytest.CaptureFixture[str]
) -> None:
    container_stack["istio"]["version"] = "1.18.7"
    write(project, container_stack)
    assert nordmesh(project, "explain", "--stack", "dev") == 1
    output = capsys.readouterr()
    assert yaml.safe_load(output.out)["istio"]["version"] == "1.18.7"
    assert "does not support Kubernetes 1.23.17" in output.err


def test_a_missing_required_key_is_reported(project: Path, existing_stack: Values) -> None:
    del existing_stack["sshPrivateKey"]
    write(project, existing_stack)
    (problem,) = read_stack(project, "dev").problems
    assert problem.key == "nordmesh:sshPrivateKey"


def test_a_section_may_be_json(project: Path, container_stack: Values) -> None:
    values = deepcopy(container_stack)
    values["mesh"] = json.dumps(values["mesh"])
    write(project, values)
    text = explain.explain(read_stack(project, "dev"))
    mesh = stack_file.read(project, "dev").lines["mesh",]
    assert line_of(text, "weight") == f"weight: 10 # line {mesh}"
    (service,) = yaml.safe_load(text)["mesh"]["services"].values()
    assert service["canary"]["weight"] == 10


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "(other)"),
        ("config: [", "[stack-file-unreadable]"),
        ("config: &a {x: *a}", "[stack-file-unreadable]"),
        ("", "[not-a-stack-file]"),
        ("config: 3", "[not-a-stack-file]"),
    ],
)
def test_an_unreadable_file_is_an_error(project: Path, content: str | None, words: str) -> None:
    (project / "Pulumi.other.yaml").write_text("config: {}")
    if content is not None:
        (project / "Pulumi.dev.yaml").write_text(content)
    with pytest.raises(NordmeshError, match=r"Pulumi\.dev\.yaml") as caught:
        stack_file.read(project, "dev")
    assert words in str(caught.value)


def test_a_missing_file_is_reported_without_a_traceback(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nordmesh(project, "explain", "--stack", "dev") == 1
    assert "Pulumi.dev.yaml [no-stack-file]" in capsys.readouterr().err


@pytest.mark.parametrize("stack", ["local", "staging", "prod"])
def test_shipped_stacks_have_no_problems(project: Path, stack: str) -> None:
    text = (PROJECT / f"Pulumi.{stack}.yaml").read_text()
    text = text.replace(".lab/artifacts.lock.json", "stacks/artifacts.lock.json")
    text += "\n  nordmesh:sshPrivateKey: {secure: 'v1:a:b'}\n" if stack != "local" else ""
    (project / f"Pulumi.{stack}.yaml").write_text(text)
    explained = read_stack(project, stack)
    assert [str(problem) for problem in explained.problems] == []
    assert set(yaml.safe_load(explain.explain(explained))) >= set(StackConfig.model_fields)


def test_staging_is_a_smaller_prod(project: Path) -> None:
    stacks = {}
    for name in ("staging", "prod"):
        shutil.copy2(PROJECT / f"Pulumi.{name}.yaml", project)
        values = dict(stack_file.read(project, name).values)
        stacks[name] = load_stack({**values, "sshPrivateKey": SSH_KEY}, project_dir=project)
    staging, prod = stacks["staging"], stacks["prod"]
    assert staging.kubernetes.version == prod.kubernetes.version
    assert staging.istio
    assert prod.istio
    assert staging.istio.version == prod.istio.version
    assert len(staging.machines.nodes) < len(prod.machines.nodes)
    assert {node.provider for node in staging.machines.nodes.values()} == {"existing"}
    assert staging.mesh.mtls == "STRICT"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone: the tracked YAML and JSON files only."""
    target = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name.endswith((".yaml", ".json")):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
    return target


def shipped() -> list[str]:
    """The example stacks in the repository."""
    return [name for name, kind in affected.kinds(PROJECT).items() if kind == "example"]


@pytest.mark.parametrize("stack", shipped())
def test_a_shipped_stack_loads_on_a_fresh_clone(
    clone: Path, stack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = stack_file.read(clone, stack)
    load_stack({**file.values, "sshPrivateKey": SSH_KEY}, project_dir=clone)
    assert nordmesh(clone, "explain", "--stack", stack) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "nordmesh-ci:example" in output.out
    assert "pulumi config set --secret nordmesh:sshPrivateKey" in output.out


def test_prod_and_staging_are_shipped() -> None:
    assert {"prod", "staging"} <= set(shipped())


def test_versions_of_new_stacks_are_in_the_lock() -> None:
    lock = catalogue.read_lock(catalogue.DEFAULT_LOCK)
    kubernetes, istio = (model.model_fields["version"].examples for model in (Kubernetes, Istio))
    assert kubernetes
    assert istio
    for architecture in catalogue.ARCHITECTURES:
        downloads = catalogue.downloads(kubernetes[0], istio[0], architecture)
        assert lock.missing(downloads) == ()


def test_an_example_may_lack_only_the_ssh_key(
    project: Path, existing_stack: Values, capsys: pytest.CaptureFixture[str]
) -> None:
    del existing_stack["sshPrivateKey"]
    existing_stack["kubernetes"]["version"] = "1.23.99"
    path = write(project, existing_stack)
    document = yaml.safe_load(path.read_text())
    document["config"]["nordmesh-ci:example"] = True
    path.write_text(yaml.safe_dump(document))
    assert nordmesh(project, "explain", "--stack", "dev") == 1
    errors = capsys.readouterr().err
    assert "nordmesh:kubernetes.version" in errors
    assert "sshPrivateKey" not in errors
