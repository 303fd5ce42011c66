"""`nordmesh mirror`: downloads that are interrupted, and arguments that it refuses."""

import hashlib
import json
from pathlib import Path

import pytest

from cli import mirror
from cli.download import Done, fetch
from config import catalogue
from config.errors import NordmeshError
from tests.support.cut import Mirror, serving
from tests.support.paths import PROJECT
from tests.support.program import copy_program
from tests.unit.commands import nordmesh
from tests.unit.conftest import Load, Values

CONTENT = bytes(range(256)) * 20_000  # 5 MB
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = len(CONTENT) // 2


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """Directory of a mirror with one file."""
    path = tmp_path / "upstream" / "dl.k8s.io"
    path.mkdir(parents=True)
    (path / "kubelet").write_bytes(CONTENT)
    return path.parent


@pytest.fixture
def no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.download.time.sleep", lambda _: None)


pytestmark = pytest.mark.usefixtures("no_sleep")


def download(server: Mirror, target: Path, sha256: str = SHA256) -> tuple[Done, list[str]]:
    progress: list[str] = []
    url = f"{server.address}/dl.k8s.io/kubelet"
    return fetch(url, sha256, target, progress.append), progress


def ranges(server: Mirror) -> list[int]:
    return [first for _, first in server.requests]


def test_a_file_is_downloaded_once(upstream: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy" / "kubelet"
    with serving(upstream) as server:
        assert download(server, target)[0] == Done(size=len(CONTENT), is_new=True)
        assert download(server, target)[0] == Done(size=len(CONTENT), is_new=False)
        assert ranges(server) == [0]
    assert target.read_bytes() == CONTENT
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.iterdir()] == ["kubelet"]


def test_an_interrupted_download_resumes(upstream: Path, tmp_path: Path) -> None:
    target = tmp_path / "kubelet"
    with serving(upstream) as server:
        server.cuts, server.after = 2, 2_000_000
        done, progress = download(server, target)
        assert ranges(server) == [0, 2_000_000, 4_000_000]
    assert done.note == "continued after 4.0 MB"
    assert "cut off at 2.0 MB (the server ended after 2000000 of 5120000 bytes)" in progress[0]
    assert target.read_bytes() == CONTENT


def test_the_next_run_resumes_a_failed_download(upstream: Path, tmp_path: Path) -> None:
    target = tmp_path / "kubelet"
    with serving(upstream) as server:
        server.cuts, server.after = 5, 100_000
        with pytest.raises(NordmeshError, match=r"(?s)download-failed\].*first 0\.5 MB"):
            download(server, target)
        assert not target.exists()
        server.requests.clear()
        download(server, target)
        assert ranges(server) == [500_000]
    assert target.read_bytes() == CONTENT


def test_a_complete_partial_file_is_not_downloaded_again(upstream: Path, tmp_path: Path) -> None:
    (tmp_path / ".kubelet.partial").write_bytes(CONTENT)
    with serving(upstream) as server:
        download(server, tmp_path / "kubelet")
        assert ranges(server) == []
    assert (tmp_path / "kubelet").read_bytes() == CONTENT


@pytest.mark.parametrize("partial", [b"\0" * HALF, CONTENT + b"more"])
def test_a_partial_file_with_other_content_is_discarded(
    upstream: Path, tmp_path: Path, partial: bytes
) -> None:
    (tmp_path / ".kubelet.partial").write_bytes(partial)
    with serving(upstream) as server:
        download(server, tmp_path / "kubelet")
        assert ranges(server) == [len(partial), 0]
    assert (tmp_path / "kubelet").read_bytes() == CONTENT


def test_a_server_without_range_support_sends_the_whole_file(
    upstream: Path, tmp_path: Path
) -> None:
    (tmp_path / ".kubelet.partial").write_bytes(CONTENT[:HALF])
    with serving(upstream) as server:
        server.has_ranges = False
        download(server, tmp_path / "kubelet")
        assert ranges(server) == [HALF]
    assert (tmp_path / "kubelet").read_bytes() == CONTENT


def test_a_checksum_mismatch_is_refused(upstream: Path, tmp_path: Path) -> None:
    (upstream / "dl.k8s.io" / "kubelet").write_bytes(CONTENT[:-1] + b"x")
    target = tmp_path / "kubelet"
    with (
        serving(upstream) as server,
        pytest.raises(NordmeshError, match=f"the lock file says {SHA256}") as caught,
    ):
        download(server, target)
    assert f"{server.address}/dl.k8s.io/kubelet serves another file" in str(caught.value)
    assert not target.exists()
    assert (tmp_path / ".kubelet.partial").stat().st_size == 0


def test_a_modified_file_is_downloaded_again(upstream: Path, tmp_path: Path) -> None:
    target = tmp_path / "kubelet"
    target.write_bytes(CONTENT[:-1] + b"x")
    with serving(upstream) as server:
        assert download(server, target)[0].is_new
    assert target.read_bytes() == CONTENT


def test_a_missing_file_is_requested_once(upstream: Path, tmp_path: Path) -> None:
    (upstream / "dl.k8s.io" / "kubelet").unlink()
    with (
        serving(upstream) as server,
        pytest.raises(NordmeshError, match="kubelet answers with status 404"),
    ):
        download(server, tmp_path / "kubelet")
    assert ranges(server) == [0]


def test_an_unreachable_server_is_reported_after_5_attempts(tmp_path: Path) -> None:
    unreachable = Mirror(address="http://127.0.0.1:9")
    with pytest.raises(NordmeshError, match=r"failed 5 times.*Connection refused"):
        download(unreachable, tmp_path / "kubelet")


# --- artifacts -----------------------------------------------------------------------------------


def test_a_stack_mirrors_everything_that_its_nodes_download(
    load: Load, container_stack: Values
) -> None:
    container_stack["observability"] = {"prometheus": {"enabled": True}}
    container_stack["istio"]["hub"] = "r.example.com/istio"
    config = load(container_stack)
    artifacts = mirror.of_stack(config)
    assert artifacts.architectures == ("amd64",)
    assert [item.name for item in artifacts.downloads] == [
        "kubeadm", "kubelet", "kubectl", "containerd", "runc", "cni-plugins", "istioctl",
    ]  # fmt: skip
    names = {image.rpartition(":")[0] for image in artifacts.images}
    assert {
        "r.example.com/istio/proxyv2",
        "registry.k8s.io/pause",
        "docker.io/prom/prometheus",
    } <= names
    both = mirror.of_stack(config, ["arm64", "amd64"])
    assert both.architectures == ("amd64", "arm64")
    assert len(both.downloads) == 14


def test_the_catalogue_mirrors_everything_except_the_demo_image() -> None:
    artifacts = mirror.of_catalogue(["amd64"])
    assert len(artifacts.downloads) * 2 == len(catalogue.all_downloads())
    assert "docker.io/istio/pilot:1.18.7" in artifacts.images
    assert catalogue.ECHO_IMAGE not in artifacts.images


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Project with the example stack `prod`, and a lock file for its binaries."""
    project = tmp_path / "project"
    project.mkdir()
    copy_program(project)
    text = (PROJECT / "Pulumi.prod.yaml").read_text()
    (project / "Pulumi.prod.yaml").write_text(text)
    digest = hashlib.sha256(b"program").hexdigest()
    sums = {download.key: digest for download in catalogue.all_downloads()}
    catalogue.write_lock(project / "stacks/artifacts.lock.json", catalogue.Lock(binaries=sums))
    return project


def test_the_command_copies_binaries_and_reports_failures(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upstream, copied = tmp_path / "upstream", tmp_path / "mirror"
    downloads = catalogue.downloads("1.23.17", "1.17.6")
    for download in downloads:
        (upstream / download.key).parent.mkdir(parents=True, exist_ok=True)
        (upstream / download.key).write_bytes(b"program")
    (upstream / downloads[0].key).write_bytes(b"another")
    with serving(upstream) as server:
        command = ["--stack", "prod", "--dir", str(copied), "--base", f"{server.address}/"]
        assert nordmesh(checkout, "mirror", *command) == 1
        output = capsys.readouterr()
        assert f"[1/7] {downloads[0].key}\n      FAILED: " in output.out
        assert "6 copied (0.0 MB), 0 were up to date (0.0 MB), 1 failed" in output.out
        assert f"FAILED {downloads[0].key}: " in output.err
        (upstream / downloads[0].key).write_bytes(b"program")
        assert nordmesh(checkout, "mirror", *command) == 0
        assert "1 copied (0.0 MB), 6 were up to date" in capsys.readouterr().out
        server.requests.clear()
        assert nordmesh(checkout, "mirror", *command) == 0
        assert "0 copied" in capsys.readouterr().out
        assert not server.requests
    assert all((copied / download.key).read_bytes() == b"program" for download in downloads)


def test_an_image_without_a_checksum_stops_the_copy(
    checkout: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cli.mirror.shutil.which", lambda _: "/usr/bin/skopeo")
    command = ["--stack", "prod", "--registry", "http://127.0.0.1:9", "--dir", str(tmp_path / "m")]
    assert nordmesh(checkout, "mirror", *command) == 1
    message = capsys.readouterr().err
    assert "[no-checksum]" in message
    assert "registry.k8s.io/kube-apiserver:v1.23.17 (amd64)" in message
    assert "nordmesh lock" in message
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stack", "prod"], "pass --dir"),
        (["--all", "--registry", "r.example.com"], "not an http or https address"),
        (["--all", "--dir", "x", "--base", "http://u:p@m"], "without user and password"),
        (["--all", "--dir", "x", "--platform", "s390x"], "'s390x' is not one of amd64, arm64"),
    ],
)
def test_invalid_arguments_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nordmesh(Path.cwd(), "mirror", *arguments) == 2
    assert message in capsys.readouterr().err


def test_mirroring_images_requires_skopeo(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.mirror.shutil.which", lambda _: None)
    assert nordmesh(Path.cwd(), "mirror", "--all", "--registry", "http://r:5000") == 1
    assert "apt-get install skopeo" in capsys.readouterr().err


def test_a_stack_that_cannot_be_loaded_is_reported(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert nordmesh(checkout, "mirror", "--stack", "none", "--dir", "x") == 1
    assert "Pulumi.none.yaml [no-stack-file]" in capsys.readouterr().err
    (checkout / "Pulumi.bad.yaml").write_text("config:\n  nordmesh:mesh: 5\n")
    assert nordmesh(checkout, "mirror", "--stack", "bad", "--dir", "x") == 1
    assert "nordmesh:mesh" in capsys.readouterr().err
    (checkout / "stacks/artifacts.lock.json").write_text(json.dumps([]))
    assert nordmesh(checkout, "mirror", "--stack", "prod", "--dir", "x") == 1
    assert "[lock-shape]" in capsys.readouterr().err
