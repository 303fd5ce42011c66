"""The whole platform under Pulumi's mocks: its resources and their inputs."""

import json
from collections.abc import Sequence

import pytest
import yaml

from components import control_plane
from components.remote import node_command
from config import StackConfig, catalogue
from config.warnings import warnings
from tests.support.mocked import (
    HOST_KEY,
    Recorder,
    base_sections,
    changed,
    config,
    kubernetes_objects,
    node,
    run,
)


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    recorder, _ = run(config())
    return recorder


def test_each_node_has_its_own_resources(recorded: Recorder) -> None:
    assert recorded.names("remote:Command") == [
        "cp-1-credentials",
        "cp-1-init",
        "cp-1-key-retire",
        "cp-1-key-use",
        "cp-1-member",
        "cp-1-prepare",
        "istio-install",
        "istio-rollout",
        "worker-1-join",
        "worker-1-prepare",
        "worker-1-ready",
    ]


def test_every_connection_pins_its_host_key(recorded: Recorder) -> None:
    for name in recorded.names("remote:Command"):
        assert recorded.inputs("remote:Command", name)["connection"]["hostKey"] == HOST_KEY


def test_no_secret_is_passed_on_a_command_line(recorded: Recorder) -> None:
    secrets = ("PRIVATE KEY", "a2V5")
    for name in recorded.names("remote:Command"):
        inputs = recorded.inputs("remote:Command", name)
        commands = f"{inputs['create']} {inputs.get('delete')}"
        assert not any(secret in commands for secret in secrets), name


def test_logins_and_stdin_are_secrets(recorded: Recorder) -> None:
    for name in recorded.names("remote:Command"):
        assert "connection" in recorded.secrets("remote:Command", name)
    assert "stdin" in recorded.secrets("remote:Command", "worker-1-join")


def test_scripts_have_no_triggers_and_do_not_read_their_previous_output(recorded: Recorder) -> None:
    for name in recorded.names("remote:Command"):
        inputs = recorded.inputs("remote:Command", name)
        assert "triggers" not in inputs
        assert inputs["addPreviousOutputInEnv"] is False


def test_the_output_of_a_step_with_secrets_is_not_logged(recorded: Recorder) -> None:
    assert recorded.inputs("remote:Command", "cp-1-init")["logging"] == "none"
    assert recorded.inputs("remote:Command", "worker-1-join")["logging"] == "stderr"


def test_the_state_holds_no_credential_for_joining(recorded: Recorder) -> None:
    discovery = yaml.safe_load(recorded.inputs("remote:Command", "worker-1-join")["stdin"])
    assert discovery["users"] == [{"name": "nordmesh", "user": {}}]
    assert discovery["clusters"][0]["cluster"]["certificate-authority-data"] == "Y2E="


def test_mesh_objects_are_created(recorded: Recorder) -> None:
    platform = ("kube-flannel/", "kube-system/")
    objects = [n for n in recorded.names("") if "/" in n and not n.startswith(platform)]
    assert objects == [
        "istio-system/default",
        "shop/checkout",
        "shop/checkout",
        "shop/checkout.v1",
        "shop/checkout.v2",
        "shop/default",
    ]


def test_the_namespace_default_is_patched_and_never_deleted() -> None:
    """Every cluster has it: nordmesh sets its label, and a removal takes only the label away."""
    reason = "the release of 2019 deploys there"
    namespaces = {"shop": {}, "default": {"mtls": "STRICT", "useDefault": reason}}
    stack = config(mesh={"namespaces": namespaces})
    recorder, _ = run(stack)
    assert recorder.names(":Namespace") == ["kube-flannel", "shop"]
    assert recorder.names(":NamespacePatch") == ["default"]
    labels = recorder.inputs(":NamespacePatch", "default")["metadata"]["labels"]
    assert labels == {"istio-injection": "enabled"}
    assert "default/default" in recorder.names(":PeerAuthentication")
    assert any(reason in line for line in warnings(stack))


def test_coredns_runs_on_two_nodes_once_both_are_there(recorded: Recorder) -> None:
    """kubeadm starts both replicas on the first node, and nothing else ever moves one."""
    patch = recorded.inputs(":DeploymentPatch", "kube-system/coredns")
    (term,) = patch["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"][
        "requiredDuringSchedulingIgnoredDuringExecution"
    ]
    assert term["topologyKey"] == "kubernetes.io/hostname"
    assert term["labelSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
    needed = recorded.options["DeploymentPatch kube-system/coredns"]["depends_on"]
    assert {"Command cp-1-init", "Command worker-1-ready"} <= set(needed)


@pytest.mark.parametrize("worker", [None, [{"key": "dedicated", "effect": "NoExecute"}]])
def test_coredns_is_not_spread_where_one_node_has_to_run_both(
    worker: list[dict[str, str]] | None,
) -> None:
    """The second replica would be Pending for ever, and `pulumi up` would wait for it."""
    edited = config().model_dump(by_alias=True)
    edited["istio"] = None
    edited["mesh"] = {}
    if worker is None:
        del edited["machines"]["nodes"]["worker-1"]
    else:
        edited["machines"]["nodes"]["worker-1"]["taints"] = worker
    recorder, _ = run(StackConfig.model_validate(edited))
    assert recorder.names(":DeploymentPatch") == []


def test_a_weight_edit_changes_one_resource(recorded: Recorder) -> None:
    edited = config().model_dump(by_alias=True)
    edited["mesh"]["services"]["checkout"]["canary"]["weight"] = 25
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == ["shop/checkout"]


def test_finishing_a_canary_changes_the_route_and_deletes_the_old_subset(
    recorded: Recorder,
) -> None:
    edited = config().model_dump(by_alias=True)
    edited["mesh"]["services"]["checkout"] |= {"stable": "v2", "canary": None}
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == ["shop/checkout"]
    deleted = [name for _, name in recorded.resources.keys() - after.resources.keys()]
    assert deleted == ["shop/checkout.v1"]


def test_a_new_node_changes_no_other_resource(recorded: Recorder) -> None:
    edited = config().model_dump(by_alias=True)
    edited["machines"]["nodes"]["worker-2"] = node("worker", "192.0.2.22")
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == []
    new = {name for _, name in after.resources.keys() - recorded.resources.keys()}
    assert new == {"worker-2", "worker-2-prepare", "worker-2-join", "worker-2-ready"}


@pytest.mark.parametrize(
    ("public", "server"),
    [(None, "https://192.0.2.12:6443"), ("api.example.org", "https://api.example.org:6443")],
)
def test_the_cluster_is_reached_at_the_public_endpoint_or_a_control_plane_that_answers(
    monkeypatch: pytest.MonkeyPatch, public: str | None, server: str
) -> None:
    async def second(addresses: Sequence[str]) -> str:
        return addresses[1]

    monkeypatch.setattr(control_plane, "first_ready", second)
    edited = config().model_dump(by_alias=True)
    edited["kubernetes"]["publicEndpoint"] = public
    for number in (2, 3):
        edited["machines"]["nodes"][f"cp-{number}"] = node("control-plane", f"192.0.2.1{number}")
    recorder, exports = run(StackConfig.model_validate(edited))
    text = str(recorder.inputs("pulumi:providers:kubernetes", "cluster")["kubeconfig"])
    assert f"server: {server}" in text
    assert f"tls-server-name: {edited['kubernetes']['endpoint']}" in text
    assert exports["apiEndpoint"] == f"https://{edited['kubernetes']['endpoint']}:6443"


_OF_PLANE = ("", "-prepare", "-init", "-credentials", "-key-use", "-key-retire", "-member")


def test_new_control_planes_change_no_resource_of_another_node(recorded: Recorder) -> None:
    edited = config().model_dump(by_alias=True)
    for number in (2, 3):
        edited["machines"]["nodes"][f"cp-{number}"] = node("control-plane", f"192.0.2.1{number}")
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == ["control-planes"]
    new = {name for _, name in after.resources.keys() - recorded.resources.keys()}
    assert new == {
        *(f"{name}{script}" for name in ("cp-2", "cp-3") for script in _OF_PLANE),
        *(f"etcd-{name}" for name in ("cp-2", "cp-3")),
        # Where the scripts of these run, now that there is a choice.
        *("worker-1-runner", "istio-runner"),
    }
    for key in ("create", "delete"):
        first, other = (
            node_command.settings(after.inputs("remote:Command", f"{name}-init")[key]).keys()
            for name in ("cp-1", "cp-2")
        )
        assert first == other


def test_a_cluster_without_workers_runs_workloads_on_its_control_plane(recorded: Recorder) -> None:
    assert "SCHEDULABLE=false" in recorded.inputs("remote:Command", "cp-1-init")["create"]
    single, _ = run(config(machines={"nodes": {"cp-1": node("control-plane", "192.0.2.11")}}))
    assert "SCHEDULABLE=true" in single.inputs("remote:Command", "cp-1-init")["create"]


def test_updating_a_control_plane_never_creates_a_cluster(recorded: Recorder) -> None:
    command = recorded.inputs("remote:Command", "cp-1-init")
    assert node_command.settings(command["create"])["CLUSTER"] == "new"
    assert node_command.settings(command["update"])["CLUSTER"] == "exists"
    assert node_command.file(command["update"]) == "kubeadm-init.sh"


def test_delete_commands_name_their_node_and_cluster(recorded: Recorder) -> None:
    for name in ("cp-1-init", "worker-1-join"):
        settings = node_command.settings(recorded.inputs("remote:Command", name)["delete"])
        assert settings["ENDPOINT"] == config().kubernetes.endpoint
        assert name.startswith(settings["NODE_NAME"])


def test_a_cluster_without_istio_has_no_mesh_resources() -> None:
    recorder, exports = run(config(istio=None, mesh={"namespaces": {"shop": {"injection": False}}}))
    assert recorder.names("Namespace") == ["kube-flannel", "shop"]
    assert not any("istio" in name for name in recorder.names("remote:Command"))
    assert "istioVersion" not in exports


def test_a_changed_installation_is_followed_by_a_rollout(recorded: Recorder) -> None:
    after, _ = run(config(istio={"version": "1.16.5", "pilot": {"replicas": {"min": 2}}}))
    assert changed(recorded, after) == ["istio-install", "istio-rollout"]


def test_a_policy_edit_does_not_reinstall_istio(recorded: Recorder) -> None:
    edited = config().model_dump(by_alias=True)
    edited["mesh"]["mtls"] = "STRICT"
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == ["istio-system/default"]


def test_a_node_gets_the_binaries_of_its_architecture() -> None:
    machines = config().model_dump(by_alias=True)["machines"]
    machines["nodes"]["worker-1"]["architecture"] = "arm64"
    recorder, _ = run(config(machines=machines))
    for name, binary in (("cp-1", "linux/amd64/kubelet"), ("worker-1", "linux/arm64/kubelet")):
        assert binary in recorder.inputs("remote:Command", f"{name}-prepare")["create"]
    assert "linux-amd64" in recorder.inputs("remote:Command", "istio-install")["create"]


PAUSE = "registry.k8s.io/pause:3.6"
PILOT = "docker.io/istio/pilot:1.16.5"
DIGESTS = {"amd64": f"sha256:{'a' * 64}", "arm64": f"sha256:{'b' * 64}"}


def images_of(recorder: Recorder, node: str) -> dict[str, str]:
    """Return the images of a node with their digests, as its script receives them."""
    command = recorder.inputs("remote:Command", f"{node}-prepare")["create"]
    return dict(line.split() for line in node_command.settings(command)["IMAGES"].splitlines())


def test_a_node_pulls_images_by_the_digest_of_its_architecture() -> None:
    sections = config().model_dump(by_alias=True)["machines"]
    sections["nodes"]["worker-1"]["architecture"] = "arm64"
    recorder, _ = run(config(machines=sections), {PAUSE: DIGESTS, PILOT: DIGESTS})
    plane, worker = images_of(recorder, "cp-1"), images_of(recorder, "worker-1")
    assert (plane[PAUSE], worker[PAUSE]) == (DIGESTS["amd64"], DIGESTS["arm64"])
    assert worker[PILOT] == DIGESTS["arm64"]
    assert PILOT not in plane
    assert plane["registry.k8s.io/etcd:3.5.6-0"] == "-", "not in the lock"


def test_pods_name_their_images_by_digest() -> None:
    images = dict.fromkeys((catalogue.METRICS_SERVER_IMAGE, catalogue.FLANNEL_IMAGE), DIGESTS)
    recorder, _ = run(config(), images)
    texts = json.dumps(kubernetes_objects(recorder), default=str)
    for name in images:
        assert f'"{name}@{DIGESTS["amd64"]}"' in texts
        assert f'"{name}"' not in texts


def test_a_mirror_is_the_only_source_unless_a_fallback_is_allowed() -> None:
    artifacts = {"mirror": "https://m.example.no", "registry": "https://r.example.no"}
    for fallback in (False, True):
        recorder, _ = run(config(artifacts=artifacts | {"fallback": fallback}))
        for name in ("cp-1-prepare", "istio-install"):
            command = recorder.inputs("remote:Command", name)["create"]
            settings = node_command.settings(command)
            lines = "\n".join(settings.get(name, "") for name in ("RUNTIME", "BINARIES")).split(
                "\n"
            )
            for line in filter(None, lines):
                _, _, _, _, first, *fallbacks = line.split()
                assert first.startswith("https://m.example.no/")
                assert fallbacks == ([first.replace("m.example.no/", "")] if fallback else [])


def test_images_without_a_digest_cause_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    warned: list[str] = []
    monkeypatch.setattr("pulumi.log.warn", lambda line: warned.append(line))
    run(config(), {PAUSE: DIGESTS})
    (line,) = (line for line in warned if "no digest" in line)
    assert PILOT in line
    assert PAUSE not in line
    assert "nordmesh lock" in line


def warnings_of(
    patch: pytest.MonkeyPatch, images: dict[str, dict[str, str]], **sections: object
) -> tuple[Recorder, list[str]]:
    """Deploy with a lock of these images and return the warnings about digests."""
    warned: list[str] = []
    patch.setattr("pulumi.log.warn", lambda line: warned.append(line))
    recorder, _ = run(config(**sections), images)
    return recorder, [line for line in warned if "no digest" in line]


SHIPPED = catalogue.images("1.23.17", "1.16.5")


def test_a_lock_without_digests_names_each_image_once(monkeypatch: pytest.MonkeyPatch) -> None:
    observability = {"prometheus": {"enabled": True}, "grafana": {"enabled": True}}
    recorder, (line,) = warnings_of(monkeypatch, {}, observability=observability)
    assert line.startswith("stacks/artifacts.lock.json has no digest of ")
    expected = [*SHIPPED, catalogue.PROMETHEUS_IMAGE, catalogue.GRAFANA_IMAGE]
    listed = line.partition("no digest of ")[2].partition(": who may write")[0].split(", ")
    assert listed == expected
    # Nodes and pods both use the tags.
    for name in ("cp-1", "worker-1"):
        assert set(images_of(recorder, name).values()) == {"-"}
    texts = json.dumps(kubernetes_objects(recorder), default=str)
    assert f'"{catalogue.FLANNEL_IMAGE}"' in texts
    assert "@sha256:" not in texts


def test_a_complete_lock_causes_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, lines = warnings_of(monkeypatch, dict.fromkeys(SHIPPED, DIGESTS))
    assert lines == []
    for name in ("cp-1", "worker-1"):
        assert set(images_of(recorder, name).values()) == {DIGESTS["amd64"]}


def test_a_digest_of_another_architecture_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    machines = config().model_dump(by_alias=True)["machines"]
    machines["nodes"]["worker-1"]["architecture"] = "arm64"
    amd = {"amd64": DIGESTS["amd64"]}
    images = dict.fromkeys(SHIPPED, DIGESTS) | {PAUSE: amd, catalogue.FLANNEL_IMAGE: amd}
    recorder, (line,) = warnings_of(monkeypatch, images, machines=machines)
    assert f"no digest of {PAUSE}, {catalogue.FLANNEL_IMAGE}: " in line
    assert images_of(recorder, "cp-1")[PAUSE] == DIGESTS["amd64"]
    assert images_of(recorder, "worker-1")[PAUSE] == "-"
    texts = json.dumps(kubernetes_objects(recorder), default=str)
    assert f'"{catalogue.FLANNEL_IMAGE}"' in texts


def test_the_stack_exports_its_endpoint_nodes_and_version() -> None:
    _, exports = run(config())
    assert exports["apiEndpoint"] == "https://api.oslo.example.internal:6443"
    assert exports["nodes"]["worker-1"] == {"address": "192.0.2.21", "role": "worker"}
    assert exports["istioVersion"] == "1.16.5"
    assert "kubeconfig" in exports


def test_a_sudo_user_runs_scripts_as_root() -> None:
    machines = config().model_dump(by_alias=True)["machines"] | {"ssh": {"user": "debian"}}
    recorder, _ = run(config(machines=machines))
    command = recorder.inputs("remote:Command", "worker-1-prepare")["create"]
    assert command.startswith("sudo -n timeout ")


@pytest.mark.parametrize("count", [5, 50])
def test_a_node_more_costs_its_own_resources_alone(count: int) -> None:
    """The same among few nodes and among many; tests/engine/test_fleet.py counts the commands."""

    def platform(workers: int) -> Recorder:
        nodes = {"cp-1": node("control-plane", "192.0.2.1")}
        nodes |= {f"worker-{n}": node("worker", f"192.0.2.{n + 1}") for n in range(1, workers + 1)}
        recorder, _ = run(config(**base_sections() | {"machines": {"nodes": nodes}}))
        return recorder

    before, after = platform(count - 1), platform(count)
    new = f"worker-{count}"
    assert sorted(name for _, name in after.resources.keys() - before.resources.keys()) == [
        new,
        new,
        f"{new}-join",
        f"{new}-prepare",
        f"{new}-ready",
    ]
    assert changed(before, after) == []
