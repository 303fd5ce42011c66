"""The manifests of local volumes: their golden file, and what their pods may do."""

from typing import Any

import pytest
import yaml

from components.manifests import Manifest, local_storage
from config import LocalStorage, catalogue
from lab import images
from tests.support.golden import check

DISK = LocalStorage(path="/srv/disk", default=False, reclaim_policy="Delete")


def provisioner(settings: LocalStorage) -> list[Manifest]:
    return local_storage.provisioner(settings, image=catalogue.LOCAL_STORAGE_IMAGE)


def test_the_objects_match_their_golden_file() -> None:
    objects = [*provisioner(DISK), local_storage.storage_class(DISK)]
    check("local-storage.yaml", yaml.safe_dump_all(objects, sort_keys=False))


@pytest.mark.parametrize("default", [True, False])
def test_the_class_is_that_of_claims_without_one(*, default: bool) -> None:
    metadata = local_storage.storage_class(LocalStorage(default=default))["metadata"]
    is_default = metadata["annotations"]["storageclass.kubernetes.io/is-default-class"]
    assert is_default == str(default).lower()


def helper(objects: list[Manifest]) -> dict[str, Any]:
    """The pod that makes and deletes directories."""
    (data,) = (m["data"] for m in objects if m["kind"] == "ConfigMap")
    pod: dict[str, Any] = yaml.safe_load(data["helperPod.yaml"])
    return pod


def test_the_pods_on_nodes_have_no_token_and_few_privileges() -> None:
    """They run as root with the volumes' directory of their node."""
    spec = helper(provisioner(DISK))["spec"]
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
    assert not container["securityContext"].get("privileged")


def test_the_lab_builds_the_image_with_a_shell() -> None:
    (image,) = (i for i in images.ALL if i.reference == catalogue.LOCAL_STORAGE_IMAGE)
    assert image.debian
