"""Local volumes: their settings, and what the platform makes of them."""

import json

import pytest
import yaml

from config import StackConfig, catalogue
from tests.support.mocked import Recorder, changed, config, run
from tests.unit.config.test_errors import Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

WRONG = [
    Wrong(
        "a relative path",
        {"storage": {"local": {"path": "volumes"}}},
        "storage.local.path",
        "storage-path-format",
        ("'volumes' is not an absolute path", "/srv/volumes"),
    ),
    Wrong(
        "the root of the machine",
        {"storage": {"local": {"path": "/"}}},
        "storage.local.path",
        "storage-path-format",
        ("'/' is not an absolute path",),
    ),
    *(
        Wrong(
            f"volumes in {path}",
            {"storage": {"local": {"path": path}}},
            "storage.local.path",
            "storage-path-reserved",
            (f"{path} is in {owner}", "/srv/volumes"),
        )
        for path, owner in (
            ("/var/lib/kubelet/volumes", "/var/lib/kubelet"),
            ("/tmp", "/tmp"),
            ("/var/lib/etcd", "/var/lib/etcd"),
        )
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_a_wrong_setting_is_refused(load: Load, container_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


def test_a_directory_beside_a_reserved_one_is_accepted(load: Load, container_stack: Values) -> None:
    stack = edited(container_stack, {"storage": {"local": {"path": "/var/lib/kubelet-volumes"}}})
    local = load(stack).storage.local
    assert local is not None
    assert local.path == "/var/lib/kubelet-volumes"


# --- the platform --------------------------------------------------------------------------------


def with_storage(**settings: object) -> StackConfig:
    return config(storage={"local": settings})


@pytest.fixture(scope="module")
def recorded() -> Recorder:
    recorder, _ = run(with_storage())
    return recorder


def test_without_the_key_there_is_no_storage_class() -> None:
    recorder, _ = run(config())
    assert recorder.names(":StorageClass") == []


def test_a_volume_waits_for_its_pod_and_is_kept(recorded: Recorder) -> None:
    made = recorded.inputs(":StorageClass", "local-path")
    assert made["volumeBindingMode"] == "WaitForFirstConsumer"
    assert made["reclaimPolicy"] == "Retain"
    # Kubernetes refuses to change it.
    options = recorded.options["StorageClass local-path"]
    assert options["replace_on_changes"] == ["reclaimPolicy"]
    assert options["delete_before_replace"]


def test_every_pod_runs_the_pinned_image() -> None:
    digest = f"sha256:{'d' * 64}"
    image = catalogue.LOCAL_STORAGE_IMAGE
    recorder, _ = run(with_storage(), {image: {"amd64": digest}})
    spec = recorder.inputs("apps/v1:Deployment", "kube-system/local-path-provisioner")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"] == f"{image}@{digest}"
    data = recorder.inputs(":ConfigMap", "kube-system/local-path-config")["data"]
    (made,) = yaml.safe_load(data["helperPod.yaml"])["spec"]["containers"]
    assert made["image"] == f"{image}@{digest}"


def test_a_new_path_changes_no_other_object(recorded: Recorder) -> None:
    after, _ = run(with_storage(path="/srv/disk"))
    assert changed(recorded, after) == ["kube-system/local-path-config"]
    data = after.inputs(":ConfigMap", "kube-system/local-path-config")["data"]
    (paths,) = json.loads(data["config.json"])["nodePathMap"]
    assert paths["paths"] == ["/srv/disk"]
