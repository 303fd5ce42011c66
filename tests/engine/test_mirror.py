"""`nordmesh lock` and `nordmesh mirror` between real registries, with skopeo."""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli import lock, registry
from config import catalogue, image_references
from config.catalogue import Lock
from lab import images
from lab.paths import PROJECT
from tests.support.program import copy_program
from tests.unit.commands import nordmesh

ARCHITECTURES = ("amd64", "arm64")
# What the stack `prod` has.
PARTS = ("prometheus", "grafana", "kiali")
MONITORING = catalogue.monitoring_images("1.17.6", PARTS)
IMAGES = [
    *catalogue.images("1.23.17", "1.17.6"),
    catalogue.LOCAL_STORAGE_IMAGE,
    catalogue.KUBE_ROUTER_IMAGE,
    *MONITORING.values(),
]


@dataclass(frozen=True, kw_only=True)
class Registries:
    """Two registries: one with images, and an empty one with its storage directory."""

    full: str
    empty: str
    copied: Path


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[Registries]:
    copied = tmp_path / "copied"
    with (
        images.running_registry(tmp_path / "full", tmp_path / "full.log") as full,
        images.running_registry(copied, tmp_path / "copied.log") as empty,
    ):
        fill(tmp_path, full)
        yield Registries(full=f"http://{full}", empty=f"http://{empty}", copied=copied)


def fill(directory: Path, address: str) -> None:
    """Push an index with a small image for each of two architectures, for each reference."""
    for reference in IMAGES:
        repository, tag = image_references.split(reference)
        where = registry.locate(repository, f"http://{address}")
        entries = []
        for architecture in ARCHITECTURES:
            folder = directory / hashlib.sha256(f"{reference}{architecture}".encode()).hexdigest()
            digest = write_layout(folder, f"{reference} {architecture}", architecture)
            subprocess.run(
                [
                    "skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests",
                    "--dest-tls-verify=false", f"oci:{folder}", where.at(digest),
                ],
                check=True,
            )  # fmt: skip
            entries.append(registry.entry_of(registry.manifest(where, digest), architecture))
        registry.put(where, tag, registry.index_of(entries))


def write_layout(folder: Path, content: str, architecture: str) -> str:
    """Write an OCI layout of an image with one layer; return the digest of its manifest."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    layer = blob(content.encode(), "layer.v1.tar")
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = {"architecture": architecture, "os": "linux", "rootfs": rootfs}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [layer],
    }
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return str(entry["digest"])


@pytest.fixture
def project(tmp_path: Path, registries: Registries) -> Path:
    """Project with the example stack `prod`, and a lock file for its images."""
    directory = tmp_path / "project"
    directory.mkdir()
    copy_program(directory)
    text = (PROJECT / "Pulumi.prod.yaml").read_text()
    (directory / "Pulumi.prod.yaml").write_text(text)
    path = directory / "stacks/artifacts.lock.json"
    catalogue.write_lock(path, Lock(binaries={}))
    added, failed = lock.add_images(path, IMAGES, registries.full)
    assert len(added) == len(IMAGES)
    assert not failed
    return directory


def run(project: Path, registries: Registries, *more: str) -> int:
    addresses = ["--registry", registries.empty, "--from-registry", registries.full]
    return nordmesh(project, "mirror", "--stack", "prod", *addresses, *more)


def blobs(storage: Path) -> set[str]:
    return {path.parent.name for path in storage.rglob("blobs/sha256/*/*/data")}


def test_images_are_copied_once(
    project: Path, registries: Registries, capsys: pytest.CaptureFixture[str]
) -> None:
    count = len(IMAGES)
    assert run(project, registries) == 0
    assert (
        f"{count} copied (0.0 MB), 0 were up to date (0.0 MB), 0 failed" in capsys.readouterr().out
    )
    assert run(project, registries) == 0
    assert f"0 copied (0.0 MB), {count} were up to date" in capsys.readouterr().out

    locked = catalogue.read_lock(project / "stacks/artifacts.lock.json")
    for reference in IMAGES:
        repository, tag = image_references.split(reference)
        where = registry.locate(repository, registries.empty)
        tagged = registry.manifest(where, tag).platforms()
        digests = {name: entry["digest"] for name, entry in tagged.items()}
        assert digests == {"amd64": locked.digest(reference, "amd64")}

    # After the second architecture, the tag covers both.
    assert run(project, registries, "--platform", "arm64") == 0
    for reference in IMAGES:
        repository, tag = image_references.split(reference)
        tagged = registry.manifest(registry.locate(repository, registries.empty), tag).platforms()
        digests = {name: entry["digest"] for name, entry in tagged.items()}
        assert digests == locked.images[reference]


def test_a_moved_tag_is_not_followed(project: Path, registries: Registries, tmp_path: Path) -> None:
    source, tag = image_references.split(IMAGES[0])
    where = registry.locate(source, registries.full)
    locked = catalogue.read_lock(project / "stacks/artifacts.lock.json")
    # The tag moves to another image.
    folder = tmp_path / "evil"
    digest = write_layout(folder, "evil", "amd64")
    subprocess.run(
        ["skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests",
         "--dest-tls-verify=false", f"oci:{folder}", where.at(tag)],
        check=True,
    )  # fmt: skip
    assert registry.manifest(where, tag).digest == digest
    assert run(project, registries) == 0
    copied = registry.manifest(registry.locate(source, registries.empty), tag)
    assert copied.platforms()["amd64"]["digest"] == locked.digest(IMAGES[0], "amd64")


def test_a_missing_digest_does_not_stop_the_other_images(
    project: Path, registries: Registries, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "stacks/artifacts.lock.json"
    locked = catalogue.read_lock(path)
    wrong = f"sha256:{'0' * 64}"
    entries = {**locked.images, IMAGES[0]: {"amd64": wrong}}
    catalogue.write_lock(path, Lock(binaries={}, images=entries))
    assert run(project, registries) == 1
    result = capsys.readouterr()
    assert f"{len(IMAGES) - 1} copied" in result.out
    assert f"FAILED {IMAGES[0]}: skopeo cannot copy" in result.err
    assert wrong in result.err


def test_an_interrupted_copy_resumes(
    project: Path, registries: Registries, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(project, registries) == 0
    # State after a kill between the layers and the manifest: blobs exist, but no image.
    revisions = registries.copied / (
        "docker/registry/v2/repositories/registry.k8s.io/pause/_manifests"
    )
    manifests = blobs(registries.copied)
    subprocess.run(["rm", "-r", str(revisions)], check=True)
    capsys.readouterr()
    assert run(project, registries) == 0
    assert "1 copied" in capsys.readouterr().out
    assert blobs(registries.copied) == manifests
