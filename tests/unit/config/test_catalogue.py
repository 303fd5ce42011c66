"""Supported versions, the artifacts of a node, and `nordmesh lock` with a local server."""

import json
import threading
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli import lock
from config import StackConfig, catalogue
from config.errors import NordmeshError
from config.kubernetes import checks as kubernetes
from tests.unit.commands import nordmesh

TODAY = date(2026, 11, 20)
Values = dict[str, Any]
Load = Callable[[Values], StackConfig]


@pytest.mark.parametrize(
    ("istio", "fits"),
    [
        ("1.11.8", False),
        ("1.12.9", False),
        ("1.13.9", True),
        ("1.14.6", True),
        ("1.15.7", True),
        ("1.16.5", True),
        ("1.16.7", True),
        ("1.17.8", True),
        ("1.18.1", False),
        ("1.18.7", False),
    ],
)
def test_istio_releases_that_support_kubernetes_1_23(istio: str, fits: bool) -> None:
    assert catalogue.supported("1.23.17", istio) is fits


@pytest.mark.parametrize(
    ("istio", "nearest"),
    [("1.11.8", "1.13.9"), ("1.12.9", "1.13.9"), ("1.16.5", "1.16.5"), ("1.18.7", "1.17.8")],
)
def test_the_nearest_pair_keeps_the_kubernetes_version(istio: str, nearest: str) -> None:
    assert catalogue.nearest_pair("1.23.16", istio) == ("1.23.16", nearest)


@pytest.mark.parametrize(
    ("version", "nearest"),
    [
        ("1.16.6", "1.16.7"),
        ("1.16.2", "1.16.5"),
        ("1.16", "1.16.7"),
        ("1.5.2", "1.11.8"),
        ("1.29.0", "1.18.7"),
        ("latest", "1.11.8"),
    ],
)
def test_the_nearest_known_version(version: str, nearest: str) -> None:
    assert catalogue.nearest_version(version, catalogue.ISTIO) == nearest


def test_images_have_official_names() -> None:
    assert catalogue.images("1.23.17", "1.16.5", demo=True) == [
        "registry.k8s.io/kube-apiserver:v1.23.17",
        "registry.k8s.io/kube-controller-manager:v1.23.17",
        "registry.k8s.io/kube-scheduler:v1.23.17",
        "registry.k8s.io/kube-proxy:v1.23.17",
        "registry.k8s.io/etcd:3.5.6-0",
        "registry.k8s.io/coredns/coredns:v1.8.6",
        "registry.k8s.io/pause:3.6",
        "docker.io/flannel/flannel:v0.26.7",
        "docker.io/flannel/flannel-cni-plugin:v1.6.2-flannel1",
        "registry.k8s.io/metrics-server/metrics-server:v0.6.3",
        "docker.io/istio/pilot:1.16.5",
        "docker.io/istio/proxyv2:1.16.5",
        "docker.io/nordmesh/echo:1.1.0",
    ]
    assert catalogue.ECHO_IMAGE not in catalogue.images("1.23.17", "1.16.5")
    filtered = catalogue.images("1.23.17", "1.16.5", network_policy=True)
    assert [image for image in filtered if "kube-router" in image] == [catalogue.KUBE_ROUTER_IMAGE]
    assert "example.com/i/pilot:1.16.5" in catalogue.images(
        "1.23.17", "1.16.5", hub="example.com/i"
    )


def test_binaries_have_a_checksum_and_a_url() -> None:
    downloads = catalogue.downloads("1.23.17", "1.16.5")
    sums = {download.key: f"{number:064x}" for number, download in enumerate(downloads)}
    binaries = catalogue.binaries("1.23.17", "1.16.5", catalogue.Lock(binaries=sums))
    assert binaries.kubelet == catalogue.Binary(
        name="kubelet",
        url="https://dl.k8s.io/release/v1.23.17/bin/linux/amd64/kubelet",
        sha256=f"{1:064x}",
    )
    assert binaries.istioctl is not None
    assert binaries.istioctl.members == ("istioctl",)
    assert binaries.istioctl.source(None) == (
        "https://github.com/istio/istio/releases/download/1.16.5/istioctl-1.16.5-linux-amd64.tar.gz"
    )
    assert binaries.kubeadm.source("http://10.66.0.1:8080") == (
        "http://10.66.0.1:8080/dl.k8s.io/release/v1.23.17/bin/linux/amd64/kubeadm"
    )


def test_the_container_runtime_has_official_urls() -> None:
    sums = {download.key: "0" * 64 for download in catalogue.all_downloads()}
    lock = catalogue.Lock(binaries=sums)
    github = "https://github.com"
    containerd, runc, plugins = catalogue.binaries("1.23.17", None, lock, "arm64").runtime
    assert containerd.url == (
        f"{github}/containerd/containerd/releases/download/v1.7.30/"
        "containerd-1.7.30-linux-arm64.tar.gz"
    )
    assert containerd.members == ("bin/containerd", "bin/containerd-shim-runc-v2", "bin/ctr")
    assert containerd.directory == "/usr/local/bin"
    assert runc.url == f"{github}/opencontainers/runc/releases/download/v1.3.4/runc.arm64"
    assert (runc.directory, runc.members) == ("/usr/local/sbin", ())
    assert plugins.url == (
        f"{github}/containernetworking/plugins/releases/download/v1.7.1/"
        "cni-plugins-linux-arm64-v1.7.1.tgz"
    )
    assert plugins.directory == "/opt/cni/bin"
    assert {"./bridge", "./host-local", "./loopback", "./portmap"} < set(plugins.members)


def test_the_container_runtime_is_listed_once_per_architecture() -> None:
    keys = [download.key for download in catalogue.all_downloads()]
    assert len(set(keys)) == len(keys)
    assert sum("/runc." in key for key in keys) == len(catalogue.ARCHITECTURES)


def test_missing_checksums_are_an_error() -> None:
    with pytest.raises(NordmeshError, match=r"no checksum of .*kubeadm.*istioctl"):
        catalogue.binaries("1.23.17", "1.16.5", catalogue.Lock(binaries={}))


def test_the_shipped_lock_is_sorted_and_matches_the_catalogue() -> None:
    entries = catalogue.read_lock(catalogue.DEFAULT_LOCK).binaries
    assert list(entries) == sorted(entries)
    assert set(entries) <= {download.key for download in catalogue.all_downloads()}
    for architecture in catalogue.ARCHITECTURES:
        downloads = catalogue.downloads("1.23.16", None, architecture)
        assert not catalogue.Lock(binaries=entries).missing(downloads)


def test_each_architecture_has_its_own_binaries() -> None:
    amd, arm = (catalogue.downloads("1.23.17", "1.16.5", name) for name in ("amd64", "arm64"))
    assert [download.name for download in amd] == [download.name for download in arm]
    assert not {download.key for download in amd} & {download.key for download in arm}
    assert all("arm64" in download.key for download in arm)


def test_unsupported_releases_give_one_line_each(load: Load, existing_stack: Values) -> None:
    config = load(existing_stack)
    assert kubernetes.warnings(config, TODAY) == [
        "Kubernetes 1.23.17 has had no security fixes since 2023-02-28",
        "Istio 1.17.8 has had no security fixes since 2023-10-27",
    ]
    assert kubernetes.warnings(config, date(2023, 2, 28)) == []


def test_waived_checks_give_warnings(load: Load, existing_stack: Values) -> None:
    existing_stack["istio"] |= {
        "outboundTrafficPolicy": "ALLOW_ANY",
        "allowUnsupported": "no longer needed",
    }
    lines = kubernetes.warnings(load(existing_stack), date(2023, 1, 1))
    assert [line.split(":")[0] for line in lines] == [
        "istio.allowUnsupported is not needed",
        "ALLOW_ANY",
    ]
    assert not any("\n" in line for line in lines)


# --- nordmesh lock ---


SIGNED = "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A tree of published checksums, in the layout of the official hosts."""
    root = tmp_path / "upstream"
    for number, download in enumerate(catalogue.all_downloads()):
        file = root / download.published.partition("://")[2]
        file.parent.mkdir(parents=True, exist_ok=True)
        # dl.k8s.io publishes the checksum alone, the others the output of sha256sum. runc's file is
        # signed and covers all architectures.
        name = "" if "dl.k8s.io" in download.url else f"  {Path(download.key).name}"
        if download.name == "runc":
            before = file.read_text() if file.exists() else SIGNED
            file.write_text(f"{before}{number:064x}{name}\n")
        else:
            file.write_text(f"{number:064x}{name}\n")
    return root


@pytest.fixture
def base(upstream: Path) -> Iterator[str]:
    """The URL of a server of this tree."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(upstream))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_lock_adds_missing_checksums(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lock.json"
    everything = catalogue.all_downloads()
    existing = {everything[0].key: "f" * 64}
    path.write_text(json.dumps({"binaries": existing}))
    assert nordmesh(tmp_path, "lock", "--lock", str(path), "--base", f"{base}/") == 0
    entries = catalogue.read_lock(path).binaries
    assert entries == {
        **{download.key: f"{number:064x}" for number, download in enumerate(everything)},
        **existing,
    }
    assert list(entries) == sorted(entries)
    output = capsys.readouterr().out
    assert f"added {everything[1].key}" in output
    assert everything[0].key not in output
    assert f"{len(everything) - 1} added, 0 failed; review" in output


def test_a_second_lock_changes_nothing(tmp_path: Path, base: str) -> None:
    path = tmp_path / "lock.json"
    fetch = lock.fetch_from(base)
    added, failed = lock.add_missing(path, fetch)
    assert len(added) == len(catalogue.all_downloads())
    assert not failed
    before = path.read_bytes()
    assert lock.add_missing(path, fetch) == ({}, {})
    assert path.read_bytes() == before


def test_lock_reports_failures_and_keeps_the_other_checksums(
    tmp_path: Path, base: str, upstream: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing, page, intact, *others = catalogue.all_downloads()
    istioctl = others[-1]
    (upstream / f"{missing.key}.sha256").unlink()
    (upstream / f"{page.key}.sha256").write_text("<html>moved</html>")
    (upstream / f"{istioctl.key}.sha256").write_text(f"{1:064x}  another-file.tar.gz\n")
    path = tmp_path / "lock.json"
    assert nordmesh(tmp_path, "lock", "--lock", str(path), "--base", base) == 1
    entries = catalogue.read_lock(path).binaries
    assert intact.key in entries
    assert not {missing.key, page.key, istioctl.key} & set(entries)
    message = capsys.readouterr().err
    assert f"FAILED {missing.key}.sha256: HTTP Error 404" in message
    assert "not a sha256" in message
    assert "is of another-file.tar.gz" in message


def test_lock_does_not_overwrite_a_broken_file(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "lock.json"
    path.write_text("{")
    assert nordmesh(tmp_path, "lock", "--lock", str(path), "--base", base) == 1
    assert "not JSON" in capsys.readouterr().err
    assert path.read_text() == "{"


def test_lock_accepts_only_http_and_https(capsys: pytest.CaptureFixture[str]) -> None:
    assert nordmesh(Path.cwd(), "lock", "--base", "file:///etc") == 1
    assert "not an http or https address" in capsys.readouterr().err


def test_lock_downloads_from_the_official_host_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    class _Response:
        def __enter__(self) -> "_Response":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read(self, _size: int) -> bytes:
            return b"0" * 64

    def urlopen(address: str, timeout: float) -> _Response:
        requests.append((address, timeout))
        return _Response()

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    assert lock.fetch_from(None)("https://dl.k8s.io/x.sha256") == "0" * 64
    assert requests == [("https://dl.k8s.io/x.sha256", 30)]


# --- a lock without digests of images -------------------------------------------------------------

AMD, ARM = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


@pytest.mark.parametrize(
    ("digests", "architectures", "digest"),
    [
        ({"amd64": AMD}, ["amd64"], AMD),
        ({"amd64": AMD, "arm64": ARM}, ["amd64"], AMD),
        ({"amd64": AMD, "arm64": ARM}, ["arm64"], ARM),
        # Nodes of both architectures share one reference, and no digest fits both.
        ({"amd64": AMD, "arm64": ARM}, ["amd64", "arm64"], None),
        ({"amd64": AMD, "arm64": AMD}, ["amd64", "arm64"], AMD),
        ({"amd64": AMD}, ["amd64", "arm64"], None),
        ({"amd64": AMD}, ["arm64"], None),
        ({}, ["amd64"], None),
        ({"amd64": AMD}, [], None),
    ],
)
def test_an_image_is_pinned_by_a_digest_that_fits_all_nodes(
    digests: dict[str, str], architectures: list[str], digest: str | None
) -> None:
    image = "docker.io/istio/pilot:1.16.5"
    reference = catalogue.Lock(binaries={}, images={image: digests}).pinned(image, architectures)
    assert reference == (f"{image}@{digest}" if digest else image)


def test_an_image_without_a_locked_digest_keeps_its_tag() -> None:
    lock = catalogue.Lock(binaries={}, images={"a:1": {"amd64": AMD}})
    assert lock.pinned("b:1", ["amd64"]) == "b:1"
    assert lock.digest("b:1", "amd64") is None


@pytest.mark.parametrize("images", [None, {}, {"a:1": {"amd64": AMD}}])
def test_a_written_lock_reads_back_unchanged(
    tmp_path: Path, images: dict[str, dict[str, str]] | None
) -> None:
    path = tmp_path / "lock.json"
    lock_content = catalogue.Lock(binaries={"x": "0" * 64}, images=images or {})
    catalogue.write_lock(path, lock_content)
    assert catalogue.read_lock(path) == lock_content
    assert ("images" in json.loads(path.read_text())) is bool(images)


@pytest.mark.parametrize(
    "images",
    [
        [],
        "none",
        {"a:1": AMD},
        {"a:1": {"amd64": None}},
        {"a:1": {"amd64": "a" * 64}},
        {"a:1": {"amd64": AMD[:-1]}},
        {"a:1": {"amd64": AMD.upper()}},
        {"a:1": {"amd64": f"{AMD}\n"}},
    ],
)
def test_an_invalid_digest_is_refused(tmp_path: Path, images: object) -> None:
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({"binaries": {}, "images": images}))
    with pytest.raises(NordmeshError, match=r"images|a:1"):
        catalogue.read_lock(path)
