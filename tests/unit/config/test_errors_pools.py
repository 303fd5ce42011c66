"""Invalid node pools, labels, taints, regions and zones: each edit gives one error."""

from typing import Any

import jsonschema_rs
import pytest

from config import StackConfig, schema
from config.warnings import warnings
from tests.support import kvm_stack
from tests.unit.config.test_errors import Load, Values, Wrong, edited, expect, refusal
from tests.unit.config.test_schema import stack_file

POOLS, NODES = "machines.pools", "machines.nodes"
CP, WORKER = f"{NODES}.cp-1", f"{NODES}.worker-1"
DEDICATED = {"key": "dedicated", "effect": "NoSchedule"}
LOCALITY = "mesh.services.checkout.locality"
HOST_PORT = {"istio-ingressgateway": {"expose": {"type": "HostPort", "nodes": ["worker-1"]}}}
IN_REGIONS = {f"{CP}.region": "oslo", f"{WORKER}.region": "bergen"}


def label(name: str, value: object = "x") -> dict[str, object]:
    return {f"{WORKER}.labels": {name: value}}


def label_path(name: str) -> str:
    return f'{WORKER}.labels["{name}"]'


def second_worker(**values: object) -> dict[str, object]:
    node = {"role": "worker", "provider": "container", "address": "10.66.0.22", **values}
    return {f"{NODES}.worker-2": node}


def taint(**values: object) -> dict[str, object]:
    return {f"{WORKER}.taints": [{**DEDICATED, **values}]}


# Invalid single values. The JSON Schema finds them too.
VALUES = [
    Wrong(
        "a label name with a space",
        label("two words"),
        label_path("two words"),
        "label-name-format",
        ("'two words' is not the name of a label", "tier or example.com/tier"),
    ),
    Wrong(
        "a prefix in upper case",
        label("Example.com/tier"),
        label_path("Example.com/tier"),
        "label-name-format",
        (),
    ),
    Wrong(
        "a prefix with an empty part",
        label("a..b/tier"),
        label_path("a..b/tier"),
        "label-name-format",
        (),
    ),
    Wrong(
        "a label value with a space",
        label("tier", "very good"),
        f"{WORKER}.labels.tier",
        "label-value-format",
        ("'very good' is not a value", "use very-good"),
    ),
    Wrong(
        "a long label value",
        label("tier", "g" * 64),
        f"{WORKER}.labels.tier",
        "label-value-format",
        ("(64 characters)", f"use {'g' * 63} "),
    ),
    Wrong(
        "a label value that YAML reads as true",
        label("ssd", True),
        f"{WORKER}.labels.ssd",
        "text-expected",
        ("expected text, not true", 'use "true"'),
    ),
    Wrong(
        "a label value that YAML reads as a number",
        label("generation", 2),
        f"{WORKER}.labels.generation",
        "text-expected",
        ('use "2"',),
    ),
    Wrong(
        "an unknown effect",
        taint(effect="NoScheduling"),
        f"{WORKER}.taints[0].effect",
        "choice-unknown",
        ("'NoScheduling' is not one of", "use NoSchedule"),
    ),
    Wrong(
        "a taint without an effect",
        {f"{WORKER}.taints": [{"key": "dedicated"}]},
        f"{WORKER}.taints[0].effect",
        "key-missing",
        ("add effect: NoSchedule",),
    ),
    Wrong(
        "a taint in kubectl's notation",
        {f"{WORKER}.taints": ["dedicated=db:NoSchedule"]},
        f"{WORKER}.taints[0]",
        "mapping-expected",
        ("{key: dedicated, effect: NoSchedule}",),
    ),
    Wrong(
        "a taint key with a colon",
        taint(key="dedicated:db"),
        f"{WORKER}.taints[0].key",
        "taint-key-format",
        ("'dedicated:db' is not the key of a taint",),
    ),
    Wrong(
        "a taint value with a slash",
        taint(value="a/b"),
        f"{WORKER}.taints[0].value",
        "label-value-format",
        ("use a-b",),
    ),
    Wrong(
        "a locality as the zone",
        {f"{WORKER}.region": "oslo", f"{WORKER}.zone": "oslo/oslo-1"},
        f"{WORKER}.zone",
        "zone-format",
        ("'oslo/oslo-1' is not a zone", "the zone alone"),
    ),
    Wrong(
        "a pool that identifies machines",
        {POOLS: {"web": {"address": "10.66.0.21"}}, f"{WORKER}.pool": "web"},
        f"{POOLS}.web.address",
        "key-unknown",
        ("there is no key address here", "labels, taints, region, zone"),
    ),
    Wrong(
        "a pool without a value",
        {POOLS: {"web": None}, f"{WORKER}.pool": "web"},
        f"{POOLS}.web",
        "value-missing",
        ("web has no value",),
    ),
]

# Names that belong to Kubernetes.
RESERVED = [
    Wrong(
        "a label of kubelet",
        label("kubernetes.io/hostname"),
        label_path("kubernetes.io/hostname"),
        "label-of-kubelet",
        ("kubelet sets kubernetes.io/hostname itself", "example.com/hostname"),
    ),
    Wrong(
        "a label of kubeadm",
        label("node-role.kubernetes.io/control-plane", ""),
        label_path("node-role.kubernetes.io/control-plane"),
        "label-of-kubeadm",
        ("kubeadm sets", "the key role of a node"),
    ),
    Wrong(
        "another label of Kubernetes",
        label("node.kubernetes.io/tier"),
        label_path("node.kubernetes.io/tier"),
        "label-prefix-reserved",
        ("the prefix of node.kubernetes.io/tier is reserved", "example.com/tier"),
    ),
    Wrong(
        "a label of nordmesh",
        label("nordmesh.io/labels"),
        label_path("nordmesh.io/labels"),
        "label-prefix-reserved",
        (),
    ),
    *(
        Wrong(
            f"{prefix} as a label",
            label(f"{prefix}.kubernetes.io/{key}"),
            label_path(f"{prefix}.kubernetes.io/{key}"),
            "label-topology",
            (f"has its own key, {key}", f"set {key} on the node or its pool"),
        )
        for prefix, key in (("topology", "zone"), ("failure-domain.beta", "region"))
    ),
    Wrong(
        "a taint of the node's state",
        taint(key="node.kubernetes.io/unschedulable"),
        f"{WORKER}.taints[0].key",
        "taint-of-kubernetes",
        ("Kubernetes adds and removes", "kubectl cordon"),
    ),
    Wrong(
        "the taint of control planes",
        taint(key="node-role.kubernetes.io/master"),
        f"{WORKER}.taints[0].key",
        "taint-of-kubeadm",
        ("nordmesh and kubeadm decide",),
    ),
    Wrong(
        "another taint of Kubernetes",
        taint(key="scheduling.k8s.io/dedicated"),
        f"{WORKER}.taints[0].key",
        "taint-prefix-reserved",
        ("use a prefix of your own",),
    ),
]

# What only several values show.
TOGETHER = [
    Wrong(
        "taints for kubelet to register with",
        {"kubernetes.kubelet.registerWithTaints": [DEDICATED]},
        "kubernetes.kubelet.registerWithTaints",
        "setting-reserved",
        ("use taints of a node or of its pool in machines",),
    ),
    Wrong(
        "an unknown pool",
        {POOLS: {"web": {"labels": {}}}, f"{CP}.pool": "web", f"{WORKER}.pool": "wbe"},
        f"{WORKER}.pool",
        "pool-unknown",
        ("there is no pool wbe", "use web"),
    ),
    Wrong(
        "a pool in a file without pools",
        {f"{WORKER}.pool": "web"},
        f"{WORKER}.pool",
        "pool-unknown",
        ("add machines.pools.web",),
    ),
    Wrong(
        "a pool that no node has",
        {POOLS: {"web": {"labels": {"tier": "gold"}}}},
        f"{POOLS}.web",
        "pool-unused",
        ("no node has pool: web",),
    ),
    Wrong(
        "a size for nodes that have none",
        {POOLS: {"web": {"cpus": 4}}, f"{WORKER}.pool": "web"},
        f"{POOLS}.web.cpus",
        "pool-key-without-effect",
        ("worker-1 cannot have cpus, because of provider: container",),
    ),
    Wrong(
        "a taint twice",
        {
            f"{WORKER}.taints": [
                {**DEDICATED, "value": value, "effect": "PreferNoSchedule"} for value in ("a", "b")
            ]
        },
        f"{WORKER}.taints",
        "taint-duplicate",
        ("2 taints have the key dedicated and the effect PreferNoSchedule", "keep one of them"),
    ),
    Wrong(
        "a taint on the only worker",
        taint(),
        f"{WORKER}.taints",
        "taint-on-every-node",
        ("the only worker has a taint: worker-1 dedicated:NoSchedule", "PreferNoSchedule"),
    ),
    Wrong(
        "a taint that evicts, on the only worker, from its pool",
        {
            POOLS: {"web": {"taints": [{**DEDICATED, "effect": "NoExecute"}]}},
            f"{WORKER}.pool": "web",
        },
        f"{POOLS}.web.taints",
        "taint-on-every-node",
        ("worker-1 dedicated:NoExecute", "istiod, gateways"),
    ),
    Wrong(
        "taints on all workers",
        {**second_worker(taints=[DEDICATED]), **taint(value="db")},
        f"{NODES}.worker-2.taints",
        "taint-on-every-node",
        (
            "every worker has a taint: worker-1 dedicated=db:NoSchedule; worker-2 dedicated:NoS",
            "leave one worker without NoSchedule",
        ),
    ),
    Wrong(
        "a taint on the only node",
        {
            NODES: {
                "cp-1": {
                    "role": "control-plane",
                    "provider": "container",
                    "address": "10.66.0.11",
                    "taints": [DEDICATED],
                }
            }
        },
        f"{CP}.taints",
        "taint-on-every-node",
        ("the only node has a taint: cp-1 dedicated:NoSchedule", "leave one node without"),
    ),
    Wrong(
        "a taint on the node of a gateway",
        {"istio.ingressGateways": HOST_PORT, **second_worker(), **taint(value="db")},
        f"{WORKER}.taints",
        "taint-on-gateway-node",
        (
            "dedicated=db:NoSchedule keeps the gateway istio-ingressgateway off worker-1",
            "remove worker-1 from istio.ingressGateways.istio-ingressgateway.expose.nodes",
        ),
    ),
    Wrong(
        "a zone without its region",
        {f"{WORKER}.zone": "oslo-1"},
        f"{WORKER}.zone",
        "zone-without-region",
        ("worker-1 has the zone oslo-1 and no region", "region: oslo"),
    ),
    Wrong(
        "a zone without its region, in a pool",
        {POOLS: {"web": {"zone": "oslo-1"}}, f"{WORKER}.pool": "web", f"{CP}.pool": "web"},
        f"{POOLS}.web.zone",
        "zone-without-region",
        (),
    ),
    Wrong(
        "failover to a region that no node has",
        {**IN_REGIONS, LOCALITY: {"failover": [{"from": "oslo", "to": "bergn"}]}},
        f"{LOCALITY}.failover[0].to",
        "region-unknown",
        ("no node is in the region bergn", "use bergen"),
    ),
    *(
        Wrong(
            f"{key} from a region that no node has",
            {**IN_REGIONS, LOCALITY: {key: [{"from": f"osl{zone}", "to": to}]}},
            f"{LOCALITY}.{key}[0].from",
            "region-unknown",
            ("no node is in the region osl", f"use oslo{zone}"),
        )
        for key, zone, to in (("failover", "", "bergen"), ("distribute", "/a", {"bergen/*": 100}))
    ),
    Wrong(
        "requests for a region that no node has",
        {**IN_REGIONS, LOCALITY: {"distribute": [{"from": "oslo/*", "to": {"stavanger/a": 100}}]}},
        f'{LOCALITY}.distribute[0].to["stavanger/a"]',
        "region-unknown",
        ("use one of bergen, oslo, or set region: stavanger on a node",),
    ),
]


def stack(values: Values) -> Values:
    """The stack with outlier detection, which locality settings need."""
    return edited(values, {"mesh.services.checkout.outlierDetection": {}})


@pytest.mark.parametrize("wrong", [*VALUES, *RESERVED, *TOGETHER], ids=lambda wrong: wrong.name)
def test_a_wrong_edit_is_refused(load: Load, container_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(stack(container_stack), wrong.edit)), wrong)


@pytest.mark.parametrize("wrong", VALUES, ids=lambda wrong: wrong.name)
def test_an_editor_shows_a_wrong_value(container_stack: Values, wrong: Wrong) -> None:
    validator = jsonschema_rs.validator_for(schema.schema())
    assert validator.is_valid(stack_file(stack(container_stack)))
    assert not validator.is_valid(stack_file(edited(stack(container_stack), wrong.edit)))


@pytest.mark.parametrize(
    "edit",
    [
        {**second_worker(), **taint()},
        {**taint(effect="PreferNoSchedule"), "istio.ingressGateways": HOST_PORT},
        {f"{CP}.taints": [DEDICATED]},
        {f"{WORKER}.taints": [DEDICATED, {**DEDICATED, "effect": "NoExecute"}], **second_worker()},
    ],
)
def test_taints_that_leave_room_are_accepted(
    load: Load, container_stack: Values, edit: dict[str, object]
) -> None:
    assert load(edited(container_stack, edit))


@pytest.mark.parametrize(
    "edit",
    [
        # A node without a region may be in any.
        {f"{CP}.region": "oslo", LOCALITY: {"failover": [{"from": "oslo", "to": "narvik"}]}},
        {**IN_REGIONS, LOCALITY: {"distribute": [{"from": "*", "to": {"oslo": 80, "bergen": 20}}]}},
    ],
)
def test_localities_that_some_node_may_have_are_accepted(
    load: Load, container_stack: Values, edit: dict[str, object]
) -> None:
    assert load(edited(stack(container_stack), edit))


def test_a_wrong_value_of_a_pool_is_one_error(load: Load, container_stack: Values) -> None:
    """However many nodes the pool has."""
    edit: dict[str, object] = {
        POOLS: {
            "web": {"labels": {"two words": "x"}, "capacity": {"cpu": "many", "memory": "8Gi"}}
        },
        f"{CP}.pool": "web",
        f"{WORKER}.pool": "web",
    }
    paths = [problem.key for problem in refusal(load, edited(container_stack, edit)).problems]
    assert paths == [
        f'nordmesh:{POOLS}.web.labels["two words"]', f"nordmesh:{POOLS}.web.capacity.cpu",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    ["tier", "example.com/tier", "node-role.kubernetes.io/worker", "istio.io/x", "a" * 63,
     "node-restriction.kubernetes.io/zone", "my-k8s.io/x"],
)  # fmt: skip
def test_labels_that_an_administrator_sets(load: Load, container_stack: Values, name: str) -> None:
    config = load(edited(container_stack, label(name, "")))
    assert config.machines.labels("worker-1") == {name: ""}


# --- what a node has from its pool ---------------------------------------------------------------


def pooled(values: Values, **node: object) -> dict[str, object]:
    pool: dict[str, Any] = {
        "labels": {"tier": "gold", "team": "web"},
        "taints": [{**DEDICATED, "effect": "PreferNoSchedule"}],
        "region": "oslo",
        "zone": "oslo-1",
        "capacity": {"cpu": "4", "memory": "8Gi"},
    }
    nodes = values["machines"]["nodes"]
    nodes = {**nodes, "worker-1": {**nodes["worker-1"], "pool": "web", **node}}
    return {POOLS: {"web": pool}, NODES: nodes}


def test_a_node_has_the_settings_of_its_pool(load: Load, container_stack: Values) -> None:
    config = load(edited(container_stack, pooled(container_stack)))
    node = config.machines.nodes["worker-1"]
    assert config.machines.labels("worker-1") == {
        "tier": "gold",
        "team": "web",
        "topology.kubernetes.io/region": "oslo",
        "topology.kubernetes.io/zone": "oslo-1",
    }
    assert [str(taint) for taint in node.taints] == ["dedicated:PreferNoSchedule"]
    assert node.capacity is not None
    assert node.capacity.memory == "8Gi"
    assert config.machines.labels("cp-1") == {}


def test_a_value_of_the_node_wins(load: Load, container_stack: Values) -> None:
    edit = pooled(container_stack, labels={"tier": "silver"}, taints=[], zone="oslo-2")
    config = load(edited(container_stack, edit))
    assert config.machines.nodes["worker-1"].taints == []
    assert config.machines.labels("worker-1") == {
        "tier": "silver",
        "team": "web",
        "topology.kubernetes.io/region": "oslo",
        "topology.kubernetes.io/zone": "oslo-2",
    }


def test_a_guest_with_an_unknown_pool_is_one_error(load: Load, existing_stack: Values) -> None:
    """Not one for each size that the pool is meant to have."""
    values = {**existing_stack, "machines": kvm_stack.machines()}
    for key in ("cpus", "memory", "disk"):
        del values["machines"]["nodes"]["worker-1"][key]
    values["machines"]["nodes"]["worker-1"]["pool"] = "large"
    codes = [problem.code for problem in refusal(load, values).problems]
    assert codes.count("pool-unknown") == 1
    assert "key-missing" not in codes


def test_guests_of_a_pool_need_no_sizes_of_their_own() -> None:
    values = kvm_stack.machines()
    sizes = {key: values["nodes"]["worker-1"].pop(key) for key in ("cpus", "memory", "disk")}
    values["nodes"]["worker-1"]["pool"] = "large"
    values["pools"] = {"large": sizes}
    assert jsonschema_rs.validator_for(node_schema()).is_valid(values["nodes"]["worker-1"])
    del values["nodes"]["worker-1"]["pool"]
    assert not jsonschema_rs.validator_for(node_schema()).is_valid(values["nodes"]["worker-1"])


def node_schema() -> Values:
    """The schema of a guest."""
    whole = schema.schema()
    return {"$ref": "#/definitions/KvmNode", "definitions": whole["definitions"]}


def test_nodes_without_a_region_are_named(load: Load, container_stack: Values) -> None:
    def lines(config: StackConfig) -> list[str]:
        return [line for line in warnings(config) if "region" in line]

    assert lines(load(container_stack)) == []
    (line,) = lines(load(edited(container_stack, {f"{CP}.region": "oslo"})))
    assert "no locality of pods on worker-1" in line
    assert lines(load(edited(container_stack, {**IN_REGIONS, f"{WORKER}.taints": []}))) == []


def test_a_taint_answers_the_warning_about_a_database(load: Load, container_stack: Values) -> None:
    database: dict[str, object] = {f"{CP}.database": {"engine": "mariadb"}}
    (line,) = (x for x in warnings(load(edited(container_stack, database))) if "scheduler" in x)
    assert "machines.nodes.cp-1.taints" in line
    tainted = load(edited(container_stack, {**database, f"{CP}.taints": [DEDICATED]}))
    assert [x for x in warnings(tainted) if "scheduler" in x] == []
