"""Downloads on nodes: from a copied mirror only, and over connections that are cut."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from config import catalogue
from config.catalogue import Lock
from lab import images
from lab.screen import Cluster
from tests.live.harness import CHECKOUT, Project
from tests.support.cut import Mirror, serving

WORKER = "10.67.0.21"
NODES = ("10.67.0.11", WORKER)
GATEWAY = "10.67.0.1"
LIBRARIES = "".join(
    (CHECKOUT / "components/scripts" / name).read_text()
    for name in ("lib.sh", "fetch.sh", "images.sh")
)


@pytest.fixture(scope="module")
def lock(project: Project) -> Lock:
    return catalogue.read_lock(project.directory / ".lab" / "artifacts.lock.json")


@pytest.fixture(scope="module")
def copy(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """Serve a copy of the lab mirror, made by `nordmesh mirror`, to the nodes of the lab."""
    directory = tmp_path_factory.mktemp("mirror")
    result = project.run_python(
        "-m", "cli", "mirror", "--stack", project.stack, "--dir", str(directory),
        "--base", f"http://{GATEWAY}:8080",
    )  # fmt: skip
    assert result.code == 0, result.text
    with serving(directory, GATEWAY) as mirror:
        yield mirror


def on_worker(project: Project, script: str) -> str:
    """Run functions of the script libraries on worker-1; the output ends with `exit CODE`."""
    text = f"export NODE_NAME=worker-1\n{LIBRARIES}\n{script}"
    return project.ssh(WORKER, f"bash -c {shlex.quote(text)} 2>&1; echo exit $?")


def kubectl(lock: Lock) -> tuple[str, str]:
    """Return the path of kubectl on a mirror and its checksum."""
    (key,) = (key for key in lock.binaries if key.endswith("/kubectl"))
    return key, lock.binaries[key]


def fetch(project: Project, sha256: str, *urls: str) -> str:
    """Install kubectl in a temporary directory; return the output."""
    return on_worker(project, f"fetch copied {sha256} /usr/local/bin - {' '.join(urls)}")


@pytest.fixture(autouse=True)
def clean(project: Project) -> Iterator[None]:
    yield
    project.ssh(WORKER, "rm -f /usr/local/bin/copied /var/lib/nordmesh/copied.*")


def test_an_interrupted_download_resumes(project: Project, copy: Mirror, lock: Lock) -> None:
    key, sha256 = kubectl(lock)
    copy.requests, copy.cuts, copy.after = [], 2, 3_000_000
    output = fetch(project, sha256, f"{copy.address}/{key}")
    assert output.endswith("exit 0\n"), output
    assert copy.requests == [(f"/{key}", 0), (f"/{key}", 3_000_000), (f"/{key}", 6_000_000)]
    assert sha256 in project.ssh(WORKER, "sha256sum /usr/local/bin/copied")
    assert "Client Version" in project.ssh(WORKER, "copied version --client 2>/dev/null")
    # An installed file is not requested.
    assert fetch(project, sha256, f"{copy.address}/{key}") == "exit 0\n"
    assert len(copy.requests) == 3


def test_a_download_of_an_earlier_run_resumes(project: Project, copy: Mirror, lock: Lock) -> None:
    key, sha256 = kubectl(lock)
    partial = f"/var/lib/nordmesh/copied.{sha256}.part"
    project.ssh(WORKER, f"head -c 5000000 /usr/local/bin/kubectl >{partial}")
    copy.requests = []
    assert fetch(project, sha256, f"{copy.address}/{key}").endswith("exit 0\n")
    assert copy.requests == [(f"/{key}", 5_000_000)]
    # A partial file with other content is discarded.
    project.ssh(WORKER, f"rm /usr/local/bin/copied; head -c 5000000 /dev/zero >{partial}")
    assert fetch(project, sha256, f"{copy.address}/{key}").endswith("exit 0\n")
    assert copy.requests[1:] == [(f"/{key}", 5_000_000), (f"/{key}", 0)]


def test_a_server_without_range_support_sends_the_whole_file(
    project: Project, copy: Mirror, lock: Lock
) -> None:
    key, sha256 = kubectl(lock)
    copy.requests, copy.cuts, copy.after, copy.has_ranges = [], 1, 3_000_000, False
    assert fetch(project, sha256, f"{copy.address}/{key}").endswith("exit 0\n")
    copy.has_ranges = True
    assert [first for _, first in copy.requests] == [0, 3_000_000, 0]


def test_a_checksum_mismatch_is_refused(project: Project, copy: Mirror, lock: Lock) -> None:
    key, sha256 = kubectl(lock)
    wrong = sha256[:-1] + ("0" if sha256[-1] != "0" else "1")
    output = fetch(project, wrong, f"{copy.address}/{key}", f"{copy.address}/second/{key}")
    assert f"checksum of copied: got {sha256}, pinned is {wrong}" in output
    assert "[wrong-checksum]" in output
    assert f"{copy.address}/{key}" in output
    assert output.endswith("exit 1\n")
    assert "second" not in [path.split("/")[1] for path, _ in copy.requests]
    files = project.ssh(WORKER, "ls /usr/local/bin/copied /var/lib/nordmesh/copied.* 2>&1 || true")
    assert files.count("No such file") == 2


def test_the_fallback_is_used_only_if_it_is_allowed(
    project: Project, copy: Mirror, lock: Lock
) -> None:
    key, sha256 = kubectl(lock)
    output = fetch(project, sha256, f"{copy.address}/none/{key}", f"{copy.address}/{key}")
    assert f"{copy.address}/none/{key} does not have copied" in output
    assert output.endswith("exit 0\n")
    output = fetch(project, "0" * 64, f"{copy.address}/none/{key}")
    assert f"download of copied from {copy.address}/none/{key} failed" in output
    assert output.endswith("exit 1\n")


def test_nodes_have_the_locked_images(project: Project, lock: Lock) -> None:
    for address in NODES:
        listed = project.ssh(address, "ctr -n k8s.io images ls").splitlines()[1:]
        present = {line.split()[0]: line.split()[2] for line in listed}
        expected = project.ssh(address, "cat /var/lib/nordmesh/images").splitlines()
        assert len(expected) > 4
        for line in expected:
            reference, digest = line.split()
            assert digest == lock.images[reference]["amd64"]
            assert present[reference] == digest


def test_pods_run_the_locked_images(cluster: Cluster, lock: Lock) -> None:
    locked = {
        f"{reference.rpartition(':')[0]}@{digests['amd64']}"
        for reference, digests in lock.images.items()
    }
    run = {
        status["imageID"]
        for pod in cluster.items("pods", "--all-namespaces")
        for status in pod["status"].get("containerStatuses", [])
    }
    assert run
    assert run <= locked


def test_an_image_with_another_digest_is_refused(project: Project) -> None:
    pause, digest = "registry.k8s.io/pause:3.6", f"sha256:{'0' * 64}"
    file = "/var/lib/nordmesh/images"
    before = project.ssh(WORKER, f"cat {file}")
    try:
        output = on_worker(project, f"echo {pause} {digest} >{file}\nwait_for_images")
    finally:
        project.ssh(WORKER, f"printf %s {shlex.quote(before)} >{file}")
    assert f"these images cannot be pulled: {pause} {digest} [image-pull-failed]" in output
    assert output.endswith("exit 1\n")
    assert "exit 0" in on_worker(project, "wait_for_images")


def test_no_official_registry_is_contacted(project: Project) -> None:
    references = project.ssh(
        WORKER, "grep -rhoE 'https?://[^/\"]+' /etc/containerd/certs.d | sort -u"
    )
    assert references == f"http://{GATEWAY}:5000\n"
    output = project.ssh(
        WORKER,
        "ctr -n k8s.io images pull --hosts-dir /etc/containerd/certs.d "
        "docker.io/library/none:1 2>&1 || true",
    )
    assert "not found" in output
    assert "registry-1.docker.io" not in output


def test_images_can_be_copied_to_another_registry(
    project: Project, lock: Lock, tmp_path: Path
) -> None:
    echo = catalogue.ECHO_IMAGE
    with images.running_registry(tmp_path / "registry", tmp_path / "log", GATEWAY) as address:
        command = (
            "-m", "cli", "mirror", "--stack", project.stack, "--registry", f"http://{address}",
            "--from-registry", f"http://{GATEWAY}:5000",
        )  # fmt: skip
        first, second = project.run_python(*command), project.run_python(*command)
        assert first.code == 0, first.text
        assert ", 0 were up to date (0.0 MB), 0 failed" in first.text
        assert "0 copied (0.0 MB)" in second.text
        pinned = f"{address}/{echo.rpartition(':')[0]}@{lock.images[echo]['amd64']}"
        for reference in (pinned, f"{address}/{echo}"):
            output = project.ssh(
                WORKER,
                f"ctr -n test images pull --plain-http {reference} && ctr -n test images rm "
                f"{reference}",
            )
            assert "done" in output
