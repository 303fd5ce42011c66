"""What may be lost: the entries of machines.allowDataLoss, and the switch of earlier releases."""

import re
from typing import Any

import pulumi
import pytest
import yaml

from components import identities
from components.manifests import monitoring
from components.observability import refuse_leftover
from components.remote.node_command import Script
from config import StackConfig
from config.data_loss import checks
from config.data_loss.things import things
from config.errors import NordmeshError
from tests.support import kvm_stack
from tests.support.mocked import base_sections, config
from tests.unit.config.test_errors import Load, Values, edited, refusal

WHY = "scratch data of the load test"


def stack(allowed: object, **sections: object) -> StackConfig:
    machines = base_sections()["machines"]
    assert isinstance(machines, dict)
    return config(machines={**machines, "allowDataLoss": allowed}, **sections)


@pytest.mark.parametrize(
    ("entries", "code", "remedy"),
    [
        ([{"reason": WHY}], "data-loss-thing-count", "set one of volumes, disk"),
        (
            [{"etcd": "cp-1", "namespace": "shop", "reason": WHY}],
            "data-loss-thing-count",
            "add an entry for each",
        ),
        ([{"etcd": "cp-1", "reason": "TODO"}], "data-loss-reason", "a sentence"),
        ([{"etcd": "cp-1"}], "key-missing", "reason"),
        ([{"ectd": "cp-1", "reason": WHY}], "key-unknown", "use etcd"),
        ([{"etcd": "cp-1", "reason": WHY}] * 2, "data-loss-duplicate", "remove one"),
        ([{"disk": "worker-1", "reason": WHY}], "data-loss-bought-disk", "volumes: worker-1"),
        ([{"disk": "cp-1", "reason": WHY}], "data-loss-bought-disk", "etcd: cp-1"),
        ([{"etcd": "worker-1", "reason": WHY}], "data-loss-other-role", "volumes: worker-1"),
        ([{"volumes": "cp-1", "reason": WHY}], "data-loss-other-role", "etcd: cp-1"),
        ("yes", "list-expected", "a list"),
    ],
)
def test_a_wrong_entry_is_refused(
    load: Load, existing_stack: Values, entries: object, code: str, remedy: str
) -> None:
    values = edited(existing_stack, {"machines.allowDataLoss": entries})
    (problem,) = refusal(load, values).problems
    assert problem.code == code
    assert "machines.allowDataLoss" in problem.key
    assert remedy in problem.fix


@pytest.mark.parametrize("entry", ["volumes: gone", "namespace: gone", "etcd: cp-0", "disk: gone"])
def test_a_thing_that_is_not_in_the_file_can_be_named(entry: str) -> None:
    """The entry of a removed thing stays until the `pulumi up` that removes it."""
    kind, name = entry.split(": ")
    allowed, note = checks.warnings(stack([{kind: name, "reason": WHY}]))
    assert name in allowed
    assert WHY in allowed
    assert f"no {entry}" in note
    assert "put it back" in note


def test_a_misspelt_name_gets_a_proposal() -> None:
    *_, note = checks.warnings(stack([{"volumes": "wroker-1", "reason": WHY}]))
    assert "did you mean worker-1?" in note


def test_each_reason_is_shown() -> None:
    reasons = {"volumes": WHY, "etcd": "the cluster is built again from git"}
    names = {"volumes": "worker-1", "etcd": "cp-1"}
    entries = [{kind: names[kind], "reason": reasons[kind]} for kind in reasons]
    lines = list(checks.warnings(stack(entries)))
    assert [line.rpartition(": ")[2] for line in lines] == list(reasons.values())


# --- the switch -----------------------------------------------------------------------------------

STACKS: dict[str, dict[str, Any]] = {
    "bought": {},
    "guests": {"machines": kvm_stack.machines()},
    "metrics": {
        "observability": {
            "prometheus": {"enabled": True, "storage": {"storageClass": "local-path"}}
        }
    },
    "no mesh": {"istio": None, "mesh": {"namespaces": {"shop": {"injection": False}}}},
}


@pytest.mark.parametrize("name", STACKS)
def test_the_switch_names_everything_and_prints_the_list(name: str) -> None:
    sections = {**base_sections(), **STACKS[name]}

    def load(allowed: object) -> StackConfig:
        machines = {**sections["machines"], "allowDataLoss": allowed}
        return StackConfig.model_validate({**sections, "machines": machines})

    old = load(True)
    assert [entry.thing for entry in old.machines.allow_data_loss] == list(things(old))
    (line,) = checks.warnings(old)
    printed = yaml.safe_load(re.sub(r"WHY", f'"{WHY}"', line[line.index("allowDataLoss: [") :]))
    new = load(printed["allowDataLoss"])
    assert list(things(new)) == [entry.thing for entry in new.machines.allow_data_loss]
    print(f"\n{name}: {len(new.machines.allow_data_loss)} entries")


def test_the_switch_that_is_off_allows_nothing() -> None:
    assert stack(False).machines.allow_data_loss == []
    assert list(checks.warnings(stack(False))) == []


# --- identities -----------------------------------------------------------------------------------


def test_a_trust_domain_is_read_from_the_script_that_installs_it() -> None:
    document = 'spec: {meshConfig: {trustDomain: "prod.example.internal"}}'
    script = Script(file="istio-install.sh", node="cp-1", settings={"CONTROL_PLANE": document})
    inputs = {"create": script.command("root")}
    assert identities.trust_domain(inputs) == "prod.example.internal"
    assert identities.trust_domain({}) is None


# --- metrics --------------------------------------------------------------------------------------


def namespace_change(old: str | None, new: str | None) -> pulumi.ResourceHookArgs:
    """Return what a hook of the namespace of metrics gets when their storage class changes."""
    before, after = (dict(monitoring.namespace(storage_class=name)) for name in (old, new))
    return pulumi.ResourceHookArgs(
        urn="", id="", name="monitoring", type="", old_inputs=before, new_inputs=after
    )


@pytest.mark.parametrize(
    ("old", "new"), [(None, "local-path"), ("local-path", "fast"), (None, None)]
)
def test_metrics_may_get_a_volume(old: str | None, new: str | None) -> None:
    refuse_leftover(namespace_change(old, new))


def test_metrics_do_not_leave_their_volume_unprotected() -> None:
    with pytest.raises(NordmeshError) as caught:
        refuse_leftover(namespace_change("local-path", None))
    assert caught.value.code == "metrics-volume-unprotected"
    assert caught.value.path == "nordmesh:observability.prometheus.storage.storageClass"
    assert "{namespace: monitoring, reason: WHY}" in caught.value.fix
