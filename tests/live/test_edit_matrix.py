"""The edit matrix on a running cluster: what a preview names changes, and nothing else.

Every key of the classes `live` and `nodes` is edited whose edit is valid in the lab's stack file:
in groups, one `pulumi up` each.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pytest

from cli.review.preview import parse
from components.taken_objects import MANAGER
from config import StackConfig
from config.changes import CHANGES, Kind, every_key
from config.errors import ConfigError
from config.load import load
from lab.screen import Cluster
from tests.live.counted import repeated, wait_for
from tests.live.edited import STRANGER, add_client
from tests.live.harness import Project
from tests.live.test_mesh import CHECKOUT as URL
from tests.support import edits
from tests.support.applied import apply

pytestmark = pytest.mark.long

Values = dict[str, Any]
Step = tuple[str, str, str]

# Edits that the lab cannot have, by the beginning of their path.
NOT_HERE = {
    "machines.allowDataLoss": "the lab deletes its machines",
    "machines.ssh": "the nodes have no other login",
    "machines.nodes.cp-1.database": "it reserves memory of this machine",
    "machines.nodes.worker-1.database": "it reserves memory of this machine",
    "artifacts.mirror": "nothing else serves the files",
    "artifacts.registry": "nothing else serves the images",
    "artifacts.proxy": "there is no proxy",
    "kubernetes.publicEndpoint": "no other name leads to the API server",
    "kubernetes.encryptionKey": "an earlier key cannot come back",
    "kubernetes.restrictOomScoreAdj": "containers have no other way",
    "access": "no provider answers; tests/live/test_people.py",
    "backup": "a bucket; tests/live/test_restore.py",
    "istio.hub": "nothing else serves the images",
    "istio.values": "the lab's proxies need its values",
    "istio.ingressGateways.inner": "one worker has no room for another gateway",
    "istio.ingressGateways.outer": "one worker has no room for another gateway",
    "istio.egressGateways.spare-egressgateway": "one worker has no room for another gateway",
    "mesh.networkPolicy": "tests/live/test_network_policies.py",
    "mesh.egress.gateway": "there is no other gateway",
    "mesh.services.cart": "nothing runs as this service",
    "mesh.services.checkout.port": "the demo has no other port",
    "mesh.services.checkout.stable": "the demo has no other version",
    "mesh.services.checkout.canary.subset": "the demo has no other version",
    "mesh.services.checkout.serviceAccount": "the demo has no other account",
    "mesh.services.checkout.fault": "it fails requests",
    "mesh.workloads": "nothing runs as this workload",
    "demo": "the demo answers the requests",
}
# One worker has no room for these beside the pods that they replace.
NO_ROOM = re.compile(r"(requests\.cpu|Gateways(\.[\w-]+)?|replicas(\.m\w+)?|pilot\.requests)$")
# The gate waits for requests with this canary; tests/live/test_gates.py.
GATED = re.compile(r"\.canary$")

OWN_TYPES = ("nordmesh:", "pulumi:")  # components: nothing of the cluster
REQUESTS = ("--duration", "10s", "--rate", "20", "--concurrency", "2")
KINDS = (
    "apiservices", "authorizationpolicies", "clusterrolebindings", "clusterroles", "configmaps",
    "daemonsets", "deployments", "destinationrules", "gateways", "namespaces", "networkpolicies",
    "peerauthentications", "requestauthentications", "rolebindings", "roles", "serviceaccounts",
    "serviceentries", "services", "sidecars", "statefulsets", "storageclasses", "telemetries",
    "virtualservices",
)  # fmt: skip
WORKLOADS = ("DaemonSet", "Deployment", "StatefulSet")
OF_NODE = {"containerd", "kubelet", "sshd", "haproxy"}
OF_PLANE = {"etcd", "kube-apiserver"}
PLANE_SCRIPTS = {"kubeadm-init.sh", "encryption-use.sh", "encryption-retire.sh"}
NODE_SCRIPTS = {"node-prepare.sh", "kubeadm-join.sh", "kubeadm-init.sh"}
MESH_SCRIPTS = {"istio-install.sh", "istio-rollout.sh"}
# The servers that were started first of their name, with the times of their start; then the files.
LOOK = f"""
for name in {" ".join(sorted(OF_NODE | OF_PLANE))}; do
    pid=$(pgrep -o -x "$name") || continue
    echo "process $name $pid-$(cut -d' ' -f22 "/proc/$pid/stat")"
done
{{ cat /var/lib/nordmesh/host-files; ls /etc/kubernetes/manifests/* /etc/hosts; }} | sort -u |
    while read -r path; do
        [ ! -f "$path" ] || echo "file $path $(sha256sum <"$path" | cut -c1-64)"
    done
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What there is in a cluster: each thing with what changes when it does.

    processes, files: by node and name. objects: of nordmesh, by kind and name. pods: by namespace
    and name, with the starts of its containers.
    """

    processes: Mapping[tuple[str, str], str]
    files: Mapping[tuple[str, str], str]
    objects: Mapping[tuple[str, str], str]
    pods: Mapping[str, str]


def seen(project: Project, cluster: Cluster) -> Seen:
    found: dict[str, dict[tuple[str, str], str]] = {"process": {}, "file": {}}
    for node, address in project.machine_addresses().items():
        for line in project.ssh(address, LOOK).splitlines():
            what, name, value = line.split()
            found[what][node, name] = value
    objects = cluster.items(",".join(KINDS), "--all-namespaces", "--show-managed-fields")
    pods = cluster.items("pods", "--all-namespaces")
    return Seen(
        processes=found["process"],
        files=found["file"],
        objects={(item["kind"], name_of(item)): content(item) for item in objects if is_own(item)},
        pods={name_of(pod): starts(pod) for pod in pods},
    )


def name_of(item: Values) -> str:
    """The name of an object as Pulumi's resources have it."""
    metadata = item["metadata"]
    return "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))


def is_own(item: Values) -> bool:
    return any(entry["manager"] == MANAGER for entry in item["metadata"].get("managedFields", ()))


def content(item: Values) -> str:
    """What nordmesh writes of an object: no status, and nothing that the API server counts."""
    counted = {"managedFields", "resourceVersion", "generation"}
    metadata = {key: value for key, value in item["metadata"].items() if key not in counted}
    return json.dumps({**item, "metadata": metadata, "status": None}, sort_keys=True)


def starts(pod: Values) -> str:
    statuses = pod["status"].get("containerStatuses", ())
    return json.dumps([pod["metadata"]["uid"], [one["restartCount"] for one in statuses]])


def changed(before: Mapping[Any, str], after: Mapping[Any, str]) -> list[Any]:
    return [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]


def previewed(text: str) -> list[Step]:
    """The steps that a preview names: the operation, the kind or the script, and the resource."""
    return sorted(
        (step.op, edits.kind_of(step.type, step.now, step.op), step.name)
        for step in parse(text).changes
        if not step.type.startswith(OWN_TYPES)
    )


def updated(text: str) -> list[tuple[str, str]]:
    """The operations and the resources that an update reports as done."""
    done = rf"^ *[-+~]+ +(?!{'|'.join(OWN_TYPES)})(\S+) (\S+) (created|updated|deleted|replaced)\b"
    verbs = {"created": "create", "updated": "update", "deleted": "delete", "replaced": "replace"}
    return sorted((verbs[verb], name) for _, name, verb in re.findall(done, text, re.M))


@dataclass(frozen=True, kw_only=True)
class Group:
    """Edits that one `pulumi up` makes. name: of the class, and of what they change."""

    name: str
    paths: Mapping[str, str]
    values: Values


def group_of(key: str) -> str:
    change = CHANGES[key]
    if change.kind is Kind.NODES:
        return "nodes"
    return "live, of the mesh" if MESH_SCRIPTS & {*change.resources} else "live, of objects"


def groups(values: Values, project: Project) -> Iterator[Group]:
    """Edit each key that can be edited, in groups, each on top of the one before."""
    for name in ("live, of objects", "live, of the mesh", "nodes"):
        paths: dict[str, str] = {}
        for key in every_key():
            if CHANGES[key].kind not in (Kind.LIVE, Kind.NODES) or group_of(key) != name:
                continue
            others = edits.changed(written_out(values, project), key)
            for path, value in chain(others, edits.examples(key)):
                edit = edited(values, path, value, project)
                if edit is not None:
                    values, paths[key] = edit, ".".join(path)
                    break
        yield Group(name=name, paths=paths, values=values)


def edited(values: Values, path: tuple[str, ...], value: object, project: Project) -> Values | None:
    """A stack with another value; None if that is not valid here."""
    text = ".".join(path)
    is_here = not any(text == one or text.startswith(f"{one}.") for one in NOT_HERE)
    if not is_here or NO_ROOM.search(text) or GATED.search(text) or value is edits.REMOVED:
        return None
    try:
        edit = edits.with_value(values, path, value)
        is_other = loaded(edit, project) != loaded(values, project)
    except (ConfigError, AttributeError, LookupError, TypeError, ValueError):
        return None
    return edit if is_other else None


def loaded(values: Values, project: Project) -> StackConfig:
    texts = {key: json.dumps(value) for key, value in values.items()}
    return load(texts, project_dir=project.directory)


def written_out(values: Values, project: Project) -> Values:
    """A stack with every default."""
    return loaded(values, project).model_dump(by_alias=True, mode="json", exclude_none=True)


def unnamed(named: list[Step], before: Seen, after: Seen) -> Iterator[str]:
    """What changed though no step names it."""
    kinds = {kind for _, kind, _ in named}
    objects = {(kind.removesuffix("Patch"), name) for _, kind, name in named}
    prepared = {name.rpartition("-")[0] for _, kind, name in named if kind in NODE_SCRIPTS}
    for node, name in changed(before.processes, after.processes):
        is_named = node in prepared if name in OF_NODE else bool(kinds & PLANE_SCRIPTS)
        if not is_named:
            yield f"process {name} on {node}"
    for node, path in changed(before.files, after.files):
        if node not in prepared:
            yield f"file {path} on {node}"
    for found in changed(before.objects, after.objects):
        if found not in objects:
            yield f"object {found}"
    owners = tuple(f"{name}-" for kind, name in objects if kind in WORKLOADS)
    for pod in changed(before.pods, after.pods):
        is_meshed = pod.startswith(("istio-system/", "shop/")) and kinds & MESH_SCRIPTS
        is_plane = pod.startswith("kube-system/kube-apiserver") and kinds & PLANE_SCRIPTS
        if not (is_meshed or is_plane or pod.startswith(owners)):
            yield f"pod {pod}"


def not_happened(named: list[Step], done: str, before: Seen, after: Seen) -> Iterator[str]:
    """What a step names though it did not change."""
    if sorted((op, name) for op, _, name in named) != updated(done):
        yield f"the update did {updated(done)}"
    objects = {*changed(before.objects, after.objects)}
    files = {node for node, _ in changed(before.files, after.files)}
    for op, kind, name in named:
        if kind == "node-prepare.sh" and name.removesuffix("-prepare") not in files:
            yield f"{op} {name}: no file changed"
        if "." not in kind and not kind.endswith("Patch") and (kind, name) not in objects:
            yield f"{op} {kind} {name}"


@pytest.fixture
def client(cluster: Cluster) -> Iterator[str]:
    """The namespace of a client in the mesh that no edit restarts."""
    labels = {"istio-injection": "enabled"}
    metadata = {"name": STRANGER, "labels": labels}
    apply(cluster, [{"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}])
    add_client(cluster, STRANGER)
    yield STRANGER
    cluster.kubectl("delete", "namespace", STRANGER, seconds=300)


def settled(project: Project, cluster: Cluster) -> Seen:
    """What there is once no pod is on its way."""

    def is_settled() -> bool:
        pods = cluster.items("pods", "--all-namespaces")
        return not any(
            "deletionTimestamp" in pod["metadata"]
            or not all(one["ready"] for one in pod["status"].get("containerStatuses", ()))
            for pod in pods
        )

    wait_for("all pods to be ready", is_settled, seconds=300)
    return seen(project, cluster)


@pytest.mark.usefixtures("stack_file")
def test_what_a_preview_names_changes_and_nothing_else(
    project: Project, cluster: Cluster, client: str
) -> None:
    with project.config() as config:
        values = {key.removeprefix("nordmesh:"): value for key, value in config.items()}
    wrong, keys = list[str](), 0
    before = settled(project, cluster)
    for group in groups(values, project):
        with project.config() as config:
            config |= {f"nordmesh:{key}": value for key, value in group.values.items()}
        named = previewed(project.pulumi("preview", "--json").text)
        with repeated(lambda: cluster.call(client, URL, *REQUESTS)) as tallies:
            done = project.up().text
        after = settled(project, cluster)
        allowed = {name for key in group.paths for name in CHANGES[key].resources}
        extra = [*unnamed(named, before, after), *(one for one in named if one[1] not in allowed)]
        missing = list(not_happened(named, done, before, after))
        failed = sum(tally["failed"] for tally in tallies)
        requests = sum(tally["requests"] for tally in tallies)
        keys += len(group.paths)
        print(
            f"\n{group.name}: {len(group.paths)} keys, {len(named)} named; "
            f"{len(changed(before.files, after.files))} files, "
            f"{len(changed(before.processes, after.processes))} processes, "
            f"{len(changed(before.objects, after.objects))} objects and "
            f"{len(changed(before.pods, after.pods))} pods changed; {len(extra)} not named, "
            f"{len(missing)} named did not happen, {failed} of {requests} requests failed"
        )
        assert requests > 0
        wrong += [f"{group.name}: not named, or not of its class: {one}" for one in extra]
        wrong += [f"{group.name}: named, and did not happen: {one}" for one in missing]
        wrong += [f"{group.name}: {failed} requests failed"] if failed else []
        before = after
    assert not wrong, "\n".join(wrong)
    assert keys > 60
