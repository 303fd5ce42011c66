"""Reading registries with skopeo, and `nordmesh lock`, against a small registry in the test."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cli import lock, registry
from cli.registry import Manifest
from config import catalogue, image_references
from config.errors import NordmeshError
from tests.unit.commands import nordmesh

LOGIN = base64.b64encode(b"reader:word").decode()
OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
CONFIGS = {
    OCI: "application/vnd.oci.image.config.v1+json",
    DOCKER: "application/vnd.docker.container.image.v1+json",
}
PAUSE = "registry.k8s.io/pause:3.6"


@dataclass
class Registry:
    """Fake registry. needs_login: whether it refuses readers without one."""

    address: str = ""
    needs_login: bool = False
    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)

    def add(self, name: str, *names: str, media_type: str, content: Any) -> Manifest:
        """Serve a manifest by its tags and its digest."""
        manifest = Manifest(body=json.dumps({"mediaType": media_type, **content}).encode())
        for tag in (*names, manifest.digest):
            self.answers[f"/v2/{name}/manifests/{tag}"] = media_type, manifest.body
        return manifest

    def image(self, name: str, architecture: str, *tags: str, media_type: str = OCI) -> Manifest:
        """Serve an image for one architecture."""
        config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
        digest = Manifest(body=config).digest
        self.answers[f"/v2/{name}/blobs/{digest}"] = "application/octet-stream", config
        content = {
            "schemaVersion": 2,
            "config": {"mediaType": CONFIGS[media_type], "digest": digest, "size": len(config)},
            "layers": [{"digest": "sha256:" + "1" * 64, "size": 1000}],
        }
        return self.add(name, *tags, media_type=media_type, content=content)


def _handler(state: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if state.needs_login and self.headers.get("Authorization") != f"Basic {LOGIN}":
                challenge = {"WWW-Authenticate": 'Basic realm="here"'}
                return self._answer(401, "application/json", b"{}", **challenge)
            if self.path == "/v2/":
                return self._answer(200, "application/json", b"{}")
            if self.path in state.answers:
                return self._answer(200, *state.answers[self.path])
            errors = {"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}
            return self._answer(404, "application/json", json.dumps(errors).encode())

        def _answer(self, code: int, media_type: str, body: bytes, **headers: str) -> None:
            self.send_response(code)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Keep the tests' output clean."""

    return Handler


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    state = Registry()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as http:
        host = f"127.0.0.1:{http.server_port}"
        state.address = f"http://{host}"
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        logins = tmp_path / "auth.json"
        logins.write_text(json.dumps({"auths": {host: {"auth": LOGIN}}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(logins))
        yield state
        http.shutdown()


# --- manifests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("needs_login", [False, True])
def test_a_manifest_is_fetched_with_the_login_of_skopeo(
    server: Registry, needs_login: bool
) -> None:
    served = server.image("registry.k8s.io/pause", "amd64", "3.6")
    server.needs_login = needs_login
    where = registry.locate("registry.k8s.io/pause", server.address)
    fetched = registry.manifest(where, "3.6")
    assert fetched == served
    assert fetched.size == 1000 + fetched.content["config"]["size"]
    assert registry.architecture(where, served.digest) == "amd64"


def test_a_missing_login_is_reported_with_the_command_to_fix_it(
    server: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.needs_login = True
    (tmp_path / "none.json").write_text("{}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "none.json"))
    where = registry.locate("registry.k8s.io/pause", server.address)
    with pytest.raises(NordmeshError) as caught:
        registry.find(where, "3.6")
    assert caught.value.code == "registry-login"
    assert f"skopeo login {where.host}" in caught.value.fix


@pytest.mark.parametrize(
    ("repository", "source", "location"),
    [
        ("registry.k8s.io/pause", None, "https docker://registry.k8s.io/pause:1"),
        ("docker.io/istio/pilot", "http://r:5000", "http docker://r:5000/docker.io/istio/pilot:1"),
        ("quay.io/kiali/kiali", "https://r/a/b", "https docker://r/a/b/quay.io/kiali/kiali:1"),
    ],
)
def test_a_repository_is_located_at_its_source(
    repository: str, source: str | None, location: str
) -> None:
    located = registry.locate(repository, source)
    assert f"{'https' if located.is_encrypted else 'http'} {located.at('1')}" == location


def test_missing_and_mismatched_manifests_are_reported(server: Registry) -> None:
    where = registry.locate("registry.k8s.io/pause", server.address)
    digest = f"sha256:{'0' * 64}"
    assert registry.find(where, digest) is None
    with pytest.raises(NordmeshError) as caught:
        registry.manifest(where, "3.6")
    assert caught.value.code == "no-image"
    server.answers[f"/v2/registry.k8s.io/pause/manifests/{digest}"] = OCI, b'{"config": {}}'
    with pytest.raises(NordmeshError) as caught:
        registry.find(where, digest)
    assert caught.value.code == "wrong-digest"


def test_what_is_not_a_manifest_is_reported(server: Registry, tmp_path: Path) -> None:
    server.answers["/v2/docker.io/odd/one/manifests/page"] = "text/html", b"<html>"
    server.add("docker.io/odd/one", "empty", media_type=OCI, content={"schemaVersion": 2})
    server.add("docker.io/odd/one", "flat", media_type=OCI, content={"config": {}})
    images = [f"docker.io/odd/one:{tag}" for tag in ("page", "empty", "flat")]
    added, failed = lock.add_images(tmp_path / "lock.json", images, server.address)
    assert not added
    assert failed.keys() == set(images)
    where = registry.locate("docker.io/odd/one", server.address)
    with pytest.raises(NordmeshError) as caught:
        _ = registry.manifest(where, "flat").size
    assert caught.value.code == "not-a-manifest"


@pytest.mark.parametrize("port", [9, 1401])
def test_an_unreachable_registry_is_not_an_empty_one(port: int) -> None:
    """Nor one that refuses a login, whatever number is in the error."""
    where = registry.locate("registry.k8s.io/pause", f"http://127.0.0.1:{port}")
    with pytest.raises(NordmeshError) as caught:
        registry.find(where, "3.6")
    assert caught.value.code == "registry-failed"
    assert "connection refused" in caught.value.what


def test_without_skopeo_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NordmeshError, match="apt-get install skopeo"):
        registry.find(registry.locate("registry.k8s.io/pause", None), "3.6")


# --- nordmesh lock ---


def test_lock_adds_the_digest_of_each_architecture(server: Registry, tmp_path: Path) -> None:
    names = ("amd64", "arm64", "s390x")
    images = {
        name: server.image("registry.k8s.io/pause", name, media_type=DOCKER) for name in names
    }
    entries = [
        {"digest": image.digest, "platform": {"os": "linux", "architecture": name}}
        for name, image in images.items()
    ]
    windows = {"digest": "sha256:2", "platform": {"os": "windows", "architecture": "amd64"}}
    content = {"schemaVersion": 2, "manifests": [windows, *entries]}
    server.add("registry.k8s.io/pause", "3.6", media_type=DOCKER_LIST, content=content)
    single = server.image("docker.io/flannel/flannel", "arm64", "v0.26.7")
    server.image("docker.io/odd/one", "s390x", "1")
    path = tmp_path / "lock.json"
    path.write_text('{"binaries": {"a": "' + "0" * 64 + '"}}')
    references = [PAUSE, catalogue.FLANNEL_IMAGE, "docker.io/odd/one:1", "quay.io/no/such:1"]
    added, failed = lock.add_images(path, references, server.address)
    assert added == {
        PAUSE: {"amd64": images["amd64"].digest, "arm64": images["arm64"].digest},
        catalogue.FLANNEL_IMAGE: {"arm64": single.digest},
    }
    assert failed["docker.io/odd/one:1"] == "the image supports neither amd64 nor arm64, but s390x"
    assert "quay.io/no/such has no such tag" in failed["quay.io/no/such:1"]
    locked = catalogue.read_lock(path)
    assert locked.images == added
    assert locked.binaries == {"a": "0" * 64}
    # An existing entry never changes, even if the image changes upstream.
    server.image("docker.io/flannel/flannel", "amd64", "v0.26.7")
    again, _ = lock.add_images(path, references[:2], server.address)
    assert not again
    assert catalogue.read_lock(path) == locked


def test_the_command_locks_images(
    server: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for reference in catalogue.all_images():
        repository, tag = image_references.split(reference)
        official = repository.startswith("docker.io/istio/")
        name = repository.replace("docker.io/istio", "r.example.com/istio")
        server.image(name if official else repository, "amd64", tag)
    path = tmp_path / "lock.json"
    sums = {download.key: "0" * 64 for download in catalogue.all_downloads()}
    catalogue.write_lock(path, catalogue.Lock(binaries=sums))
    command = ["--lock", str(path), "--registry", server.address, "--hub", "r.example.com/istio"]
    assert nordmesh(tmp_path, "lock", *command) == 0
    locked = catalogue.read_lock(path).images
    assert len(locked) == len(catalogue.all_images())
    assert "r.example.com/istio/proxyv2:1.16.5" in locked
    assert "docker.io/istio/proxyv2:1.16.5" not in locked
    output = capsys.readouterr().out
    assert f"added {PAUSE}\n      {locked[PAUSE]['amd64']} amd64\n" in output
    assert nordmesh(tmp_path, "lock", "--lock", str(path), "--registry", "r.example.com") == 1
    assert "not an http or https address" in capsys.readouterr().err


@pytest.mark.parametrize(
    "images", ["[]", '{"a:1": "sha256:0"}', '{"a:1": {"amd64": "' + "0" * 64 + '"}}']
)
def test_a_lock_with_malformed_images_is_refused(tmp_path: Path, images: str) -> None:
    path = tmp_path / "lock.json"
    path.write_text('{"binaries": {}, "images": ' + images + "}")
    with pytest.raises(NordmeshError, match=r"a:1|images"):
        catalogue.read_lock(path)


def test_a_reference_is_pinned_if_one_digest_fits_all_architectures() -> None:
    digests = {name: f"sha256:{number:064x}" for number, name in enumerate(("amd64", "arm64"))}
    locked = catalogue.Lock(binaries={}, images={PAUSE: digests})
    assert locked.pinned(PAUSE, {"arm64"}) == f"{PAUSE}@{digests['arm64']}"
    assert locked.pinned(PAUSE, {"amd64", "arm64"}) == PAUSE, "no digest fits both"
    assert locked.pinned("docker.io/a/b:1", {"amd64"}) == "docker.io/a/b:1"
