"""The whole platform under Pulumi's mocks: which resources there are, and what they are given."""

import json
from typing import Any

import pulumi
import pytest
from pulumi.runtime import Mocks, set_mocks
from pulumi.runtime.mocks import MockCallArgs, MockResourceArgs

from stacks import catalogue
from stacks.config import StackConfig
from stacks.platform import Platform

SECRET_MARK = "4dabf18193072939515e22adb298388d"  # noqa: S105 (of Pulumi's wire format)
SSH_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nnot-a-key\n-----END OPENSSH PRIVATE KEY-----\n"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGkUj6CiBLpxleZG7pHU45YpGrNlagoWIz6T40ULcM2"
INIT_RESULT = json.dumps(
    {
        "ca": "Y2E=",
        "clientCertificate": "Y2VydA==",
        "clientKey": "a2V5",
        "joinToken": "join-token-in-the-clear",
    }
)


class Recorder(Mocks):
    """Keeps every resource of a run; answers as a healthy cluster would."""

    def __init__(self) -> None:
        self.resources: dict[tuple[str, str], MockResourceArgs] = {}

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
        self.resources[args.typ, args.name] = args
        state = dict(args.inputs)
        if args.typ == "command:remote:Command":
            state["stdout"] = INIT_RESULT if args.name.endswith("-init") else ""
        return f"{args.name}-id", state

    def call(self, args: MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]] | None]:
        raise AssertionError(f"no function is called, but {args.token} was")

    def names(self, kind: str) -> list[str]:
        return sorted(name for typ, name in self.resources if typ.endswith(kind))

    def inputs(self, kind: str, name: str) -> dict[str, Any]:
        (found,) = (a for (typ, n), a in self.resources.items() if n == name and typ.endswith(kind))
        return {key: plain(value) for key, value in found.inputs.items()}

    def secrets(self, kind: str, name: str) -> list[str]:
        """The inputs that are secret as a whole."""
        (found,) = (a for (typ, n), a in self.resources.items() if n == name and typ.endswith(kind))
        return sorted(key for key, value in found.inputs.items() if plain(value) is not value)


def plain(value: Any) -> Any:
    """A value as it is inside its mark of a secret, if it has one."""
    return value["value"] if isinstance(value, dict) and SECRET_MARK in value else value


def config(**sections: object) -> StackConfig:
    base: dict[str, object] = {
        "machines": {
            "nodes": {
                "cp-1": node("control-plane", "192.0.2.11"),
                "worker-1": node("worker", "192.0.2.21"),
            }
        },
        "kubernetes": {
            "clusterName": "oslo",
            "version": "1.23.17",
            "endpoint": "api.oslo.example.internal",
        },
        "istio": {"version": "1.16.5"},
        "mesh": {
            "namespaces": {"shop": {"mtls": "STRICT"}},
            "services": {
                "checkout": {
                    "namespace": "shop",
                    "port": 8080,
                    "stable": "v1",
                    "canary": {"subset": "v2", "weight": 10},
                }
            },
        },
    }
    return StackConfig.model_validate(base | sections)


def node(role: str, address: str) -> dict[str, object]:
    return {"role": role, "provider": "existing", "address": address, "hostKey": HOST_KEY}


def run(config: StackConfig) -> tuple[Recorder, dict[str, Any]]:
    recorder = Recorder()
    set_mocks(recorder, project="nordmesh", stack="test")
    istio = config.istio.version if config.istio else None
    keys = [d.key for d in catalogue.downloads(config.kubernetes.version, istio)]
    lock = catalogue.Lock(binaries=dict.fromkeys(keys, "0" * 64))
    exports: dict[str, Any] = {}

    @pulumi.runtime.test  # type: ignore[untyped-decorator]
    def program() -> None:
        key = pulumi.Output.secret(SSH_KEY)
        exports.update(Platform(config, lock, ssh_private_key=key).exports())

    program()
    return recorder, exports


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    recorder, _ = run(config())
    return recorder


def test_each_node_has_its_own_resources(recorded: Recorder) -> None:
    assert recorded.names("remote:Command") == [
        "cp-1-init",
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


def test_no_secret_is_on_a_command_line(recorded: Recorder) -> None:
    secrets = ("PRIVATE KEY", "join-token-in-the-clear")
    for name in recorded.names("remote:Command"):
        inputs = recorded.inputs("remote:Command", name)
        commands = f"{inputs['create']} {inputs.get('delete')}"
        assert not any(secret in commands for secret in secrets), name


def test_logins_and_stdin_are_secrets(recorded: Recorder) -> None:
    for name in recorded.names("remote:Command"):
        assert "connection" in recorded.secrets("remote:Command", name)
    assert "stdin" in recorded.secrets("remote:Command", "worker-1-join")


def test_scripts_never_replace_and_never_leak_their_last_output(recorded: Recorder) -> None:
    for name in recorded.names("remote:Command"):
        inputs = recorded.inputs("remote:Command", name)
        assert "triggers" not in inputs
        assert inputs["addPreviousOutputInEnv"] is False


def test_what_a_secret_step_prints_is_not_logged(recorded: Recorder) -> None:
    assert recorded.inputs("remote:Command", "cp-1-init")["logging"] == "none"
    assert recorded.inputs("remote:Command", "worker-1-join")["logging"] == "stderr"


def test_worker_joins_with_the_join_account_only(recorded: Recorder) -> None:
    stdin = recorded.inputs("remote:Command", "worker-1-join")["stdin"]
    assert "token: join-token-in-the-clear" in stdin
    assert "client-certificate" not in stdin


def test_mesh_objects(recorded: Recorder) -> None:
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
    gone = [name for _, name in recorded.resources.keys() - after.resources.keys()]
    assert gone == ["shop/checkout.v1"]


def test_a_new_node_changes_no_other_resource(recorded: Recorder) -> None:
    edited = config().model_dump(by_alias=True)
    edited["machines"]["nodes"]["worker-2"] = node("worker", "192.0.2.22")
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == []
    new = {name for _, name in after.resources.keys() - recorded.resources.keys()}
    assert new == {"worker-2", "worker-2-prepare", "worker-2-join", "worker-2-ready"}


def test_a_cluster_without_workers_runs_workloads_on_its_control_plane(recorded: Recorder) -> None:
    assert "SCHEDULABLE=false" in recorded.inputs("remote:Command", "cp-1-init")["create"]
    alone, _ = run(config(machines={"nodes": {"cp-1": node("control-plane", "192.0.2.11")}}))
    assert "SCHEDULABLE=true" in alone.inputs("remote:Command", "cp-1-init")["create"]


def test_a_cluster_without_a_mesh() -> None:
    recorder, exports = run(config(istio=None, mesh={"namespaces": {"shop": {"injection": False}}}))
    assert recorder.names("Namespace") == ["kube-flannel", "shop"]
    assert not any("istio" in name for name in recorder.names("remote:Command"))
    assert "istioVersion" not in exports


def test_a_change_of_the_install_is_followed_by_a_look_at_its_health(recorded: Recorder) -> None:
    after, _ = run(config(istio={"version": "1.16.5", "pilot": {"replicas": {"min": 2}}}))
    assert changed(recorded, after) == ["istio-install", "istio-rollout"]


def test_a_policy_edit_leaves_the_install_alone(recorded: Recorder) -> None:
    edited = config().model_dump(by_alias=True)
    edited["mesh"]["mtls"] = "STRICT"
    after, _ = run(StackConfig.model_validate(edited))
    assert changed(recorded, after) == ["istio-system/default"]


def test_exports() -> None:
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


def changed(before: Recorder, after: Recorder) -> list[str]:
    both = before.resources.keys() & after.resources.keys()
    return sorted(
        name
        for typ, name in both
        if before.resources[typ, name].inputs != after.resources[typ, name].inputs
    )
