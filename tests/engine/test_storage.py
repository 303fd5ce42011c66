"""Local volumes against a real API server, without nodes or controllers."""

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy

import pytest
import yaml

from components.manifests import Manifest, coredns, local_storage
from components.remote.node_command import Script
from config import LocalStorage, catalogue
from tests.engine.test_node_labels import NODE, Api, serve
from tests.unit.machine import Result

CLAIMED = "pvc-0b9f2d3e"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with serve(tmp_path_factory.mktemp("api")) as api:
        yield api


def apply(api: Api, objects: Sequence[Manifest], *options: str) -> str:
    """Apply manifests as the provider does: on the server's side, with force."""
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
    options = ("--server-side", "--force-conflicts", *options)
    return api.kubectl("apply", *options, "--filename", "-", stdin=text)


def refusal(api: Api, objects: Sequence[Manifest]) -> str:
    with pytest.raises(AssertionError) as caught:
        apply(api, objects)
    return str(caught.value)


def test_the_api_server_accepts_every_object(api: Api) -> None:
    settings = LocalStorage()
    objects = local_storage.provisioner(settings, image=catalogue.LOCAL_STORAGE_IMAGE)
    (deployment,) = (deepcopy(m) for m in objects if m["kind"] == "Deployment")
    (data,) = (m["data"] for m in objects if m["kind"] == "ConfigMap")
    # Without its account, the API server refuses a pod before it reads it.
    deployment["metadata"] = {"name": "helper", "namespace": "kube-system"}
    deployment["spec"]["template"]["spec"] = yaml.safe_load(data["helperPod.yaml"])["spec"]
    every = [*objects, local_storage.storage_class(settings), deployment]
    accepted = apply(api, every, "--dry-run=server").splitlines()
    assert len(accepted) == len(every)
    print(f"{len(accepted)} objects accepted")


def test_another_reclaim_policy_needs_a_new_class(api: Api) -> None:
    """Why the resource is replaced; the other settings are changed in place."""
    apply(api, [local_storage.storage_class(LocalStorage())])
    apply(api, [local_storage.storage_class(LocalStorage(default=False))])
    edited = local_storage.storage_class(LocalStorage(reclaim_policy="Delete"))
    assert "reclaimPolicy: Forbidden" in refusal(api, [edited])


def test_the_patch_of_coredns_keeps_what_kubeadm_wrote(api: Api) -> None:
    labels = {"k8s-app": "kube-dns"}
    made = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": coredns.NAME, "namespace": coredns.NAMESPACE},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"containers": [{"name": "coredns", "image": "coredns"}]},
            },
        },
    }
    api.kubectl("create", "--filename", "-", stdin=json.dumps(made))
    # kubectl would ask for a whole Deployment.
    patch = ("apply", "--server-side", "--validate=false", "--filename", "-")
    api.kubectl(*patch, stdin=json.dumps(coredns.spread()))
    name = ("-n", coredns.NAMESPACE, "get", "deployment", coredns.NAME)
    spec = json.loads(api.kubectl(*name, "--output", "json"))["spec"]
    assert spec["replicas"] == 2
    pod = spec["template"]["spec"]
    assert [container["name"] for container in pod["containers"]] == ["coredns"]
    assert pod["affinity"]["podAntiAffinity"]


# --- the removal of a node -----------------------------------------------------------------------


def volume(name: str, node: str, *, claim: str | None, where: Manifest) -> Manifest:
    """A volume as local-path-provisioner makes it."""
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    namespace, _, claimed = (claim or "").partition("/")
    reference = {"kind": "PersistentVolumeClaim", "namespace": namespace, "name": claimed}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "storageClassName": "local-path",
            "nodeAffinity": {
                "required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
            },
            **({"claimRef": reference} if claim else {}),
            **where,
        },
    }


def local(name: str) -> Manifest:
    return {"local": {"path": f"/srv/volumes/{name}"}}


def remove(api: Api, *, allow: bool) -> Result:
    values = {"JOINED_NODE": NODE, "ALLOW_DATA_LOSS": str(allow).lower()}
    return api.run(Script(file="node-remove.sh", node="cp-1", settings=values))


def test_a_node_stays_for_its_volumes_which_are_named(api: Api) -> None:
    api.make_node()
    apply(
        api,
        [
            volume(CLAIMED, NODE, claim="shop/data-db-0", where=local(CLAIMED)),
            volume("by-hand", NODE, claim=None, where={"hostPath": {"path": "/srv/by-hand"}}),
            volume("elsewhere", "worker-10", claim="shop/data-db-1", where=local("elsewhere")),
            volume(
                "network", NODE, claim="shop/shared",
                where={"nfs": {"server": "192.0.2.9", "path": "/srv"}},
            ),
        ],
    )  # fmt: skip
    refused = remove(api, allow=False)
    assert refused.status == 1
    named = f"the data of the volumes by-hand, {CLAIMED} (shop/data-db-0) [local-volumes]"
    assert named in refused.stderr
    assert not api.node()["spec"].get("unschedulable")

    allowed = remove(api, allow=True)
    assert allowed.status == 0, allowed.stderr
    assert f"lost with {NODE}: by-hand, {CLAIMED} (shop/data-db-0)." in allowed.stderr
    nodes = json.loads(api.kubectl("get", "nodes", "--output", "json"))["items"]
    assert nodes == []
