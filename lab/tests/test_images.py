"""Images, the files of the mirror and the lock, built from small files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from config import catalogue
from lab import images, paths, programs
from lab.images import Image, Layout, Sources


@pytest.fixture
def cache(tmp_path: Path) -> paths.Cache:
    paths_of_cache = paths.Cache(root=tmp_path / "cache")
    paths_of_cache.stamps.mkdir(parents=True)
    for programs_by_name in images.MIRRORED.values():
        for program in (
            programs_by_name.values() if isinstance(programs_by_name, dict) else [programs_by_name]
        ):
            path = paths_of_cache.bin / program
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(program.encode())
    repositories = paths_of_cache.registry / "docker/registry/v2/repositories"
    for number, image in enumerate(images.ALL):
        link = repositories / image.repository / "_manifests/tags" / image.tag / "current/link"
        link.parent.mkdir(parents=True)
        link.write_text(f"sha256:{number:064x}")
    return paths_of_cache


def _names(layer: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        return archive.getnames()


def _blob(layout: Layout, digest: object) -> bytes:
    data = (layout.folder / "blobs" / str(digest).replace(":", "/")).read_bytes()
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
    return data


def test_a_layer_is_reproducible(tmp_path: Path) -> None:
    source = tmp_path / "etcd"
    digests = []
    for number in (1, 2):
        source.write_bytes(b"program")
        os.utime(source, (number, number))
        source.chmod(0o700 + number)
        layout = Layout(tmp_path / f"layout-{number}")
        digests.append(
            layout.layer(
                lambda tar: images.write_files(tar, {"usr/local/bin/etcd": source}, skeleton=True)
            )
        )
    assert digests[0] == digests[1]
    layer = _blob(layout, digests[0]["digest"])
    assert f"sha256:{hashlib.sha256(gzip.decompress(layer)).hexdigest()}" == digests[0]["diff"]
    assert {"tmp", "etc/passwd", "usr/local/bin/etcd"} <= set(_names(layer))


def test_a_tree_layer_excludes_devices_and_mount_points(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("dev/null", "proc/1/stat", "usr/sbin/iptables", "run/lock/x"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "bin").symlink_to("usr/bin")
    layout = Layout(tmp_path / "layout")
    layer = layout.layer(lambda archive: images.write_tree(archive, root))
    names = _names(_blob(layout, layer["digest"]))
    assert names == ["bin", "dev", "proc", "run", "usr", "usr/sbin", "usr/sbin/iptables"]


def test_a_directory_is_added_with_its_content(tmp_path: Path) -> None:
    pages = tmp_path / "share"
    (pages / "web").mkdir(parents=True)
    (pages / "web/page.html").write_text("page")
    (pages / "link").symlink_to("web")
    layout = Layout(tmp_path / "layout")
    files = {"usr/share": pages}
    layer = layout.layer(lambda archive: images.write_files(archive, files, skeleton=False))
    names = _names(_blob(layout, layer["digest"]))
    assert names == [
        "usr",
        "usr/share",
        "usr/share/link",
        "usr/share/web",
        "usr/share/web/page.html",
    ]


def test_an_image_has_its_config_and_shares_layers(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    base_layer = layout.layer(lambda archive: images.write_tree(archive, tmp_path / "layout"))
    image = Image(
        reference="docker.io/istio/proxyv2:1.16.5",
        files={},
        entrypoint=("/usr/local/bin/pilot-agent",),
        environment=("ISTIO_META_ISTIO_VERSION=1.16.5",),
        user="1337:1337",
    )
    layout.image(image, [base_layer])
    index = json.loads((layout.folder / "index.json").read_text())
    (entry,) = index["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": image.reference}
    manifest = json.loads(_blob(layout, entry["digest"]))
    assert [layer["digest"] for layer in manifest["layers"]] == [base_layer["digest"]]
    config = json.loads(_blob(layout, manifest["config"]["digest"]))
    assert config["rootfs"]["diff_ids"] == [base_layer["diff"]]
    assert config["config"]["User"] == "1337:1337"
    assert "ISTIO_META_ISTIO_VERSION=1.16.5" in config["config"]["Env"]
    assert any(value.startswith("PATH=") for value in config["config"]["Env"])


def test_an_image_is_rebuilt_when_a_file_or_the_debian_root_changes(cache: paths.Cache) -> None:
    sources = Sources(cache=cache)
    image = Image(reference="registry.k8s.io/a:1", files={"a": "kubernetes/kubectl"})
    first = images.identity(image, sources)
    assert images.identity(image, sources) == first
    (cache.stamps / "root.image").write_text("other")
    second = images.identity(image, sources)
    os.utime(cache.bin / "kubernetes/kubectl", (1, 1))
    assert len({first, second, images.identity(image, sources)}) == 3


def test_the_mirror_has_the_official_layout(cache: paths.Cache, tmp_path: Path) -> None:
    images.make_mirror(cache)
    kubelet = cache.mirror / "dl.k8s.io/release/v1.23.17/bin/linux/amd64/kubelet"
    assert kubelet.read_bytes() == b"kubernetes/kubelet"
    url = "github.com/istio/istio/releases/download/1.16.5/istioctl-1.16.5-linux-amd64.tar.gz"
    with tarfile.open(cache.mirror / url) as archive:
        member = archive.getmember("istioctl")
        assert member.mode == 0o755
    url = "github.com/istio/istio/releases/download/1.18.1/istioctl-1.18.1-linux-amd64.tar.gz"
    with tarfile.open(cache.mirror / url) as archive:
        packed = archive.extractfile("istioctl")
        assert packed is not None
        assert packed.read() == b"istio-1.18/istioctl"
    for download in catalogue.downloads(programs.KUBERNETES, None):
        if not download.members:
            assert (cache.mirror / download.key).is_file()
            continue
        with tarfile.open(cache.mirror / download.key) as archive:
            for name in download.members:
                assert archive.getmember(name).mode == 0o755
    lock = tmp_path / "checkout" / "artifacts.lock.json"
    images.write_lock(lock, cache)
    content = json.loads(lock.read_text())
    pause = next(n for n, image in enumerate(images.ALL) if "/pause:" in image.reference)
    assert content["images"]["registry.k8s.io/pause:3.6"] == {"amd64": f"sha256:{pause:064x}"}
    assert set(content["images"]) == {image.reference for image in images.ALL}
    binaries = content["binaries"]
    assert set(binaries) == set(images.MIRRORED)
    for name, digest in binaries.items():
        assert hashlib.sha256((cache.mirror / name).read_bytes()).hexdigest() == digest


def test_an_archive_is_rebuilt_when_a_program_changes(cache: paths.Cache) -> None:
    url = next(url for url in images.MIRRORED if "cni-plugins" in url)
    images.make_mirror(cache)
    before = (cache.mirror / url).stat().st_mtime_ns
    images.make_mirror(cache)
    assert (cache.mirror / url).stat().st_mtime_ns == before
    (cache.bin / "cni-plugins" / "bridge").write_bytes(b"another")
    images.make_mirror(cache)
    with tarfile.open(cache.mirror / url) as archive:
        packed = archive.extractfile("./bridge")
        assert packed is not None
        assert packed.read() == b"another"


def test_the_lock_is_rewritten_after_a_rebuild(cache: paths.Cache, tmp_path: Path) -> None:
    lock = tmp_path / "lock.json"
    images.make_mirror(cache)
    images.write_lock(lock, cache)
    before, modified = lock.read_text(), lock.stat().st_mtime_ns
    images.make_mirror(cache)
    images.write_lock(lock, cache)
    assert lock.stat().st_mtime_ns == modified

    rebuilt = cache.bin / "kubernetes" / "new"
    rebuilt.write_bytes(b"another kubelet")
    rebuilt.replace(cache.bin / "kubernetes" / "kubelet")
    images.make_mirror(cache)
    images.write_lock(lock, cache)
    assert lock.read_text() != before


def test_programs_that_are_not_built_are_not_in_the_lock(
    cache: paths.Cache, tmp_path: Path
) -> None:
    release = programs.ISTIO[1]
    (cache.bin / release.group / "istioctl").unlink()
    pilot = next(i for i in images.ALL if i.reference == f"docker.io/istio/pilot:{release.version}")
    images._link(pilot, cache).unlink()
    images.make_mirror(cache)
    lock = tmp_path / "lock.json"
    images.write_lock(lock, cache)
    read_lock = catalogue.read_lock(lock)
    (missing,) = set(images.MIRRORED) - set(read_lock.binaries)
    assert f"istioctl-{release.version}-" in missing
    assert {image.reference for image in images.ALL} - set(read_lock.images) == {pilot.reference}


def test_images_have_unique_official_names() -> None:
    references = [image.reference for image in images.ALL]
    assert len(set(references)) == len(references)
    assert images.ALL[0].repository == "registry.k8s.io/kube-apiserver"
    assert images.ALL[0].tag == "v1.23.17"


def test_images_of_each_istio_use_its_programs() -> None:
    for release in programs.ISTIO:
        pilot, proxy = (
            next(
                i for i in images.ALL if i.reference == f"docker.io/istio/{name}:{release.version}"
            )
            for name in ("pilot", "proxyv2")
        )
        files = {*pilot.files.values(), *proxy.files.values()} - {"envoy"}
        assert {file.partition("/")[0] for file in files} == {release.group}


def test_a_stock_envoy_reports_a_version_before_istio_1_17() -> None:
    for release in programs.ISTIO:
        minor = int(release.proxy_version.split(".")[1])
        assert minor < 17
