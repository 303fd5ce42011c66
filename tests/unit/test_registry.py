"""Registry client and `nordmesh lock`, against a small registry in the test."""

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
from cli.registry import Client, Manifest
from config import catalogue
from config.errors import NordmeshError
from tests.unit.commands import nordmesh

LOGIN = base64.b64encode(b"reader:word").decode()
OCI = "application/vnd.oci.image.manifest.v1+json"
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
PAUSE = "registry.k8s.io/pause:3.6"


@dataclass
class Registry:
    """Fake registry. mode: the kind of login it requires (token, login-token, basic, none)."""

    address: str = ""
    mode: str = "token"
    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    put: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, *names: str, media_type: str, content: Any) -> Manifest:
        """Serve a manifest by its tags and its digest."""
        manifest = Manifest(media_type=media_type, body=json.dumps(content).encode())
        for tag in (*names, manifest.digest):
            self.answers[f"/v2/{name}/manifests/{tag}"] = media_type, manifest.body
        return manifest

    def image(self, name: str, architecture: str, *tags: str, media_type: str = OCI) -> Manifest:
        """Serve an image for one architecture."""
        config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
        digest = Manifest(media_type="", body=config).digest
        self.answers[f"/v2/{name}/blobs/{digest}"] = "application/octet-stream", config
        content = {
            "schemaVersion": 2,
            "config": {"digest": digest, "size": len(config)},
            "layers": [{"digest": "sha256:" + "1" * 64, "size": 1000}],
        }
        return self.add(name, *tags, media_type=media_type, content=content)


def _handler(state: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/token?"):
                if state.mode == "login-token" and not self._has(f"Basic {LOGIN}"):
                    return self._answer(401, "text/plain", b"")
                return self._answer(200, "application/json", b'{"token": "abc"}')
            if self._wants_login():
                return None
            if self.path in state.redirects:
                return self._answer(307, "text/plain", b"", Location=state.redirects[self.path])
            if self.path in state.answers:
                return self._answer(200, *state.answers[self.path])
            return self._answer(404, "application/json", b"{}")

        def do_PUT(self) -> None:
            if not self._wants_login():
                body = self.rfile.read(int(self.headers["Content-Length"]))
                state.put[self.path] = self.headers["Content-Type"], body
                self._answer(201, "text/plain", b"")

        def _has(self, value: str) -> bool:
            return bool(self.headers.get("Authorization") == value)

        def _wants_login(self) -> bool:
            required = {"none": None, "basic": f"Basic {LOGIN}"}.get(state.mode, "Bearer abc")
            if required is None or self._has(required):
                return False
            bearer = f'Bearer realm="{state.address}/token",service="here",scope="x"'
            challenge = 'Basic realm="here"' if state.mode == "basic" else bearer
            self._answer(401, "application/json", b"{}", **{"WWW-Authenticate": challenge})
            return True

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
def server() -> Iterator[Registry]:
    state = Registry()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(state)) as http:
        state.address = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield state
        http.shutdown()


def client(server: Registry) -> Client:
    return Client(logins={server.address.partition("://")[2]: LOGIN})


# --- logins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "token", "login-token", "basic"])
def test_a_manifest_is_fetched_with_each_kind_of_login(server: Registry, mode: str) -> None:
    served = server.image("registry.k8s.io/pause", "amd64", "3.6")
    server.mode = mode
    where = registry.locate("registry.k8s.io/pause", server.address)
    fetched = client(server).manifest(where, "3.6")
    assert fetched == served
    assert fetched.size == 1000 + fetched.content["config"]["size"]


def test_a_token_is_requested_once(server: Registry) -> None:
    server.image("registry.k8s.io/pause", "amd64", "3.6")
    where, anonymous = registry.locate("registry.k8s.io/pause", server.address), Client()
    for _ in range(3):
        anonymous.manifest(where, "3.6")
    tokens = [path for path, _ in server.requests if path.startswith("/token?")]
    assert tokens == ["/token?scope=repository%3Aregistry.k8s.io%2Fpause%3Apull&service=here"]


@pytest.mark.parametrize("mode", ["login-token", "basic"])
def test_a_missing_login_is_reported_with_the_command_to_fix_it(
    server: Registry, mode: str
) -> None:
    server.mode = mode
    where = registry.locate("registry.k8s.io/pause", server.address)
    with pytest.raises(NordmeshError, match="skopeo login 127"):
        Client().manifest(where, "3.6")


def test_a_login_is_not_sent_to_a_redirect_target(server: Registry) -> None:
    served = server.image("registry.k8s.io/pause", "amd64", "3.6")
    other = Registry(mode="none")
    other.answers["/elsewhere"] = OCI, served.body
    with ThreadingHTTPServer(("127.0.0.2", 0), _handler(other)) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        path = "/v2/registry.k8s.io/pause/manifests/3.6"
        server.redirects[path] = f"http://127.0.0.2:{http.server_port}/elsewhere"
        where = registry.locate("registry.k8s.io/pause", server.address)
        assert client(server).manifest(where, "3.6") == served
        http.shutdown()
    assert other.requests == [("/elsewhere", None)]


def test_a_redirect_target_cannot_request_the_login(server: Registry) -> None:
    other = Registry(mode="login-token")
    with ThreadingHTTPServer(("127.0.0.2", 0), _handler(other)) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        other.address = f"http://127.0.0.2:{http.server_port}"
        path = "/v2/registry.k8s.io/pause/manifests/3.6"
        server.redirects[path] = f"{other.address}/elsewhere"
        where = registry.locate("registry.k8s.io/pause", server.address)
        with pytest.raises(NordmeshError, match=r"must not read or write.*401"):
            client(server).manifest(where, "3.6")
        http.shutdown()
    assert other.requests == [("/elsewhere", None)]


def test_logins_are_read_from_the_files_of_skopeo_and_docker(tmp_path: Path) -> None:
    docker, skopeo = tmp_path / ".docker/config.json", tmp_path / "run/containers/auth.json"
    for file in (docker, skopeo):
        file.parent.mkdir(parents=True)
    docker.write_text(
        json.dumps(
            {
                "auths": {
                    "https://index.docker.io/v1/": {"auth": LOGIN},
                    "helper.example.com": {},
                    "broken.example.com": {"auth": "%"},
                }
            }
        )
    )
    skopeo.write_text(json.dumps({"auths": {"r.example.com": {"auth": LOGIN}}}))
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
    assert registry.read_logins(environment) == {"docker.io": LOGIN, "r.example.com": LOGIN}
    from_variable = environment | {"REGISTRY_AUTH_FILE": str(skopeo)}
    assert registry.read_logins(from_variable) == {"r.example.com": LOGIN}
    assert registry.read_logins({"REGISTRY_AUTH_FILE": "/nonexistent"}) == {}
    assert LOGIN not in repr(Client(logins={"a": LOGIN}))


# --- locations and responses ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repository", "source", "location"),
    [
        ("registry.k8s.io/pause", None, "https registry.k8s.io/pause"),
        ("docker.io/istio/pilot", None, "https registry-1.docker.io/istio/pilot"),
        ("docker.io/istio/pilot", "http://r:5000", "http r:5000/docker.io/istio/pilot"),
        ("quay.io/kiali/kiali", "https://r/a/b", "https r/a/b/quay.io/kiali/kiali"),
    ],
)
def test_a_repository_is_located_at_its_source(
    repository: str, source: str | None, location: str
) -> None:
    located = registry.locate(repository, source)
    assert f"{'https' if located.is_encrypted else 'http'} {located}" == location


def test_missing_and_mismatched_manifests_are_reported(server: Registry) -> None:
    reader, where = client(server), registry.locate("registry.k8s.io/pause", server.address)
    digest = f"sha256:{'0' * 64}"
    assert reader.find(where, digest) is None
    with pytest.raises(NordmeshError, match=r"has no registry\.k8s\.io/pause"):
        reader.manifest(where, "3.6")
    server.answers[f"/v2/registry.k8s.io/pause/manifests/{digest}"] = OCI, b"{}"
    with pytest.raises(NordmeshError, match=f"returned sha256:.* instead of {digest}"):
        reader.find(where, digest)
    server.answers["/v2/registry.k8s.io/pause/manifests/3.6"] = "text/html", b"<html>"
    with pytest.raises(NordmeshError, match=r"returned text/html, not a manifest"):
        reader.manifest(where, "3.6")


def test_a_manifest_without_content_is_reported(server: Registry, tmp_path: Path) -> None:
    server.add("docker.io/odd/one", "1", media_type=OCI, content={"schemaVersion": 2})
    where = registry.locate("docker.io/odd/one", server.address)
    with pytest.raises(NordmeshError, match="no manifest"):
        _ = client(server).manifest(where, "1").size
    _, failed = lock.add_images(
        tmp_path / "lock.json", ["docker.io/odd/one:1"], server.address, client(server)
    )
    assert failed == {"docker.io/odd/one:1": "the registry returned no manifest"}


def test_an_unreachable_registry_is_reported() -> None:
    where = registry.locate("registry.k8s.io/pause", "http://127.0.0.1:9")
    with pytest.raises(NordmeshError, match=r"127.0.0.1:9 does not answer"):
        Client().manifest(where, "3.6")


def test_an_index_can_be_tagged(server: Registry) -> None:
    amd, arm = (server.image("registry.k8s.io/pause", name) for name in ("amd64", "arm64"))
    index = registry.index_of([registry.entry_of(amd, "amd64"), registry.entry_of(arm, "arm64")])
    client(server).put(registry.locate("registry.k8s.io/pause", server.address), "3.6", index)
    ((path, (media_type, body)),) = server.put.items()
    assert path == "/v2/registry.k8s.io/pause/manifests/3.6"
    platforms = Manifest(media_type=media_type, body=body).platforms()
    assert {name: entry["digest"] for name, entry in platforms.items()} == {
        "amd64": amd.digest,
        "arm64": arm.digest,
    }


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
    added, failed = lock.add_images(path, references, server.address, client(server))
    assert added == {
        PAUSE: {"amd64": images["amd64"].digest, "arm64": images["arm64"].digest},
        catalogue.FLANNEL_IMAGE: {"arm64": single.digest},
    }
    assert failed["docker.io/odd/one:1"] == "the image supports only s390x"
    assert "has no quay.io/no/such" in failed["quay.io/no/such:1"]
    locked = catalogue.read_lock(path)
    assert locked.images == added
    assert locked.binaries == {"a": "0" * 64}
    # An existing entry never changes, even if the image changes upstream.
    server.image("docker.io/flannel/flannel", "amd64", "v0.26.7")
    again, _ = lock.add_images(path, references[:2], server.address, client(server))
    assert not again
    assert catalogue.read_lock(path) == locked


def test_the_command_locks_images(
    server: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.mode = "none"
    for reference in catalogue.all_images():
        repository, tag = registry.split(reference)
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
