"""Registries and their logins, from a small one of the test; and `nordmesh lock` with it."""

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
    """Answers by path; mode: how it wants to be logged in to (token, login-token, basic, none)."""

    address: str = ""
    mode: str = "token"
    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    put: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, *names: str, media_type: str, content: Any) -> Manifest:
        """A manifest, by tag and digest."""
        made = Manifest(media_type=media_type, body=json.dumps(content).encode())
        for tag in (*names, made.digest):
            self.answers[f"/v2/{name}/manifests/{tag}"] = media_type, made.body
        return made

    def image(self, name: str, architecture: str, *tags: str, media_type: str = OCI) -> Manifest:
        """An image for one architecture."""
        config = json.dumps({"architecture": architecture, "os": "linux"}).encode()
        digest = Manifest(media_type="", body=config).digest
        self.answers[f"/v2/{name}/blobs/{digest}"] = "application/octet-stream", config
        content = {
            "schemaVersion": 2,
            "config": {"digest": digest, "size": len(config)},
            "layers": [{"digest": "sha256:" + "1" * 64, "size": 1000}],
        }
        return self.add(name, *tags, media_type=media_type, content=content)


def _handler(own: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            own.asked.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/token?"):
                if own.mode == "login-token" and not self._has(f"Basic {LOGIN}"):
                    return self._answer(401, "text/plain", b"")
                return self._answer(200, "application/json", b'{"token": "abc"}')
            if self._wants_login():
                return None
            if self.path in own.redirects:
                return self._answer(307, "text/plain", b"", Location=own.redirects[self.path])
            if self.path in own.answers:
                return self._answer(200, *own.answers[self.path])
            return self._answer(404, "application/json", b"{}")

        def do_PUT(self) -> None:
            if not self._wants_login():
                body = self.rfile.read(int(self.headers["Content-Length"]))
                own.put[self.path] = self.headers["Content-Type"], body
                self._answer(201, "text/plain", b"")

        def _has(self, value: str) -> bool:
            return bool(self.headers.get("Authorization") == value)

        def _wants_login(self) -> bool:
            wanted = {"none": None, "basic": f"Basic {LOGIN}"}.get(own.mode, "Bearer abc")
            if wanted is None or self._has(wanted):
                return False
            bearer = f'Bearer realm="{own.address}/token",service="here",scope="x"'
            challenge = 'Basic realm="here"' if own.mode == "basic" else bearer
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
    own = Registry()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(own)) as http:
        own.address = f"http://127.0.0.1:{http.server_port}"
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        yield own
        http.shutdown()


def client(server: Registry) -> Client:
    return Client(logins={server.address.partition("://")[2]: LOGIN})


# --- logins --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["none", "token", "login-token", "basic"])
def test_a_manifest_with_every_kind_of_login(server: Registry, mode: str) -> None:
    made = server.image("registry.k8s.io/pause", "amd64", "3.6")
    server.mode = mode
    where = registry.locate("registry.k8s.io/pause", server.address)
    found = client(server).manifest(where, "3.6")
    assert found == made
    assert found.size == 1000 + found.content["config"]["size"]


def test_a_token_is_asked_for_once(server: Registry) -> None:
    server.image("registry.k8s.io/pause", "amd64", "3.6")
    where, own = registry.locate("registry.k8s.io/pause", server.address), Client()
    for _ in range(3):
        own.manifest(where, "3.6")
    tokens = [path for path, _ in server.asked if path.startswith("/token?")]
    assert tokens == ["/token?scope=repository%3Aregistry.k8s.io%2Fpause%3Apull&service=here"]


@pytest.mark.parametrize("mode", ["login-token", "basic"])
def test_a_registry_that_wants_a_login(server: Registry, mode: str) -> None:
    server.mode = mode
    where = registry.locate("registry.k8s.io/pause", server.address)
    with pytest.raises(NordmeshError, match="skopeo login 127"):
        Client().manifest(where, "3.6")


def test_a_login_goes_to_no_other_host(server: Registry) -> None:
    made = server.image("registry.k8s.io/pause", "amd64", "3.6")
    other = Registry(mode="none")
    other.answers["/elsewhere"] = OCI, made.body
    with ThreadingHTTPServer(("127.0.0.2", 0), _handler(other)) as http:
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        path = "/v2/registry.k8s.io/pause/manifests/3.6"
        server.redirects[path] = f"http://127.0.0.2:{http.server_port}/elsewhere"
        where = registry.locate("registry.k8s.io/pause", server.address)
        assert client(server).manifest(where, "3.6") == made
        http.shutdown()
    assert other.asked == [("/elsewhere", None)]


def test_another_host_cannot_ask_for_the_login(server: Registry) -> None:
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
    assert other.asked == [("/elsewhere", None)]


def test_logins_are_those_of_skopeo_and_docker(tmp_path: Path) -> None:
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
    named = environment | {"REGISTRY_AUTH_FILE": str(skopeo)}
    assert registry.read_logins(named) == {"r.example.com": LOGIN}
    assert registry.read_logins({"REGISTRY_AUTH_FILE": "/nonexistent"}) == {}
    assert LOGIN not in repr(Client(logins={"a": LOGIN}))


# --- places and answers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("repository", "source", "place"),
    [
        ("registry.k8s.io/pause", None, "https registry.k8s.io/pause"),
        ("docker.io/istio/pilot", None, "https registry-1.docker.io/istio/pilot"),
        ("docker.io/istio/pilot", "http://r:5000", "http r:5000/docker.io/istio/pilot"),
        ("quay.io/kiali/kiali", "https://r/a/b", "https r/a/b/quay.io/kiali/kiali"),
    ],
)
def test_places(repository: str, source: str | None, place: str) -> None:
    found = registry.locate(repository, source)
    assert f"{'https' if found.is_encrypted else 'http'} {found}" == place


def test_what_is_not_there_and_what_is_another(server: Registry) -> None:
    own, where = client(server), registry.locate("registry.k8s.io/pause", server.address)
    digest = f"sha256:{'0' * 64}"
    assert own.find(where, digest) is None
    with pytest.raises(NordmeshError, match=r"has no registry\.k8s\.io/pause"):
        own.manifest(where, "3.6")
    server.answers[f"/v2/registry.k8s.io/pause/manifests/{digest}"] = OCI, b"{}"
    with pytest.raises(NordmeshError, match=f"returned sha256:.* instead of {digest}"):
        own.find(where, digest)
    server.answers["/v2/registry.k8s.io/pause/manifests/3.6"] = "text/html", b"<html>"
    with pytest.raises(NordmeshError, match=r"returned text/html, not a manifest"):
        own.manifest(where, "3.6")


def test_a_manifest_of_nothing(server: Registry, tmp_path: Path) -> None:
    server.add("docker.io/odd/one", "1", media_type=OCI, content={"schemaVersion": 2})
    where = registry.locate("docker.io/odd/one", server.address)
    with pytest.raises(NordmeshError, match="no manifest"):
        _ = client(server).manifest(where, "1").size
    _, failed = lock.add_images(
        tmp_path / "lock.json", ["docker.io/odd/one:1"], server.address, client(server)
    )
    assert failed == {"docker.io/odd/one:1": "the registry returned no manifest"}


def test_a_registry_that_does_not_answer() -> None:
    where = registry.locate("registry.k8s.io/pause", "http://127.0.0.1:9")
    with pytest.raises(NordmeshError, match=r"127.0.0.1:9 does not answer"):
        Client().manifest(where, "3.6")


def test_a_tag_is_given_to_an_index(server: Registry) -> None:
    amd, arm = (server.image("registry.k8s.io/pause", name) for name in ("amd64", "arm64"))
    index = registry.index_of([registry.entry_of(amd, "amd64"), registry.entry_of(arm, "arm64")])
    client(server).put(registry.locate("registry.k8s.io/pause", server.address), "3.6", index)
    ((path, (media_type, body)),) = server.put.items()
    assert path == "/v2/registry.k8s.io/pause/manifests/3.6"
    found = Manifest(media_type=media_type, body=body).platforms()
    assert {name: entry["digest"] for name, entry in found.items()} == {
        "amd64": amd.digest,
        "arm64": arm.digest,
    }


# --- nordmesh lock ---


def test_lock_takes_the_digest_of_each_architecture(server: Registry, tmp_path: Path) -> None:
    names = ("amd64", "arm64", "s390x")
    images = {
        name: server.image("registry.k8s.io/pause", name, media_type=DOCKER) for name in names
    }
    entries = [
        {"digest": made.digest, "platform": {"os": "linux", "architecture": name}}
        for name, made in images.items()
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
    written = catalogue.read_lock(path)
    assert written.images == added
    assert written.binaries == {"a": "0" * 64}
    # What is there is never changed, also if upstream does.
    server.image("docker.io/flannel/flannel", "amd64", "v0.26.7")
    again, _ = lock.add_images(path, references[:2], server.address, client(server))
    assert not again
    assert catalogue.read_lock(path) == written


def test_the_command_locks_images_too(
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
def test_a_lock_with_images_that_are_none(tmp_path: Path, images: str) -> None:
    path = tmp_path / "lock.json"
    path.write_text('{"binaries": {}, "images": ' + images + "}")
    with pytest.raises(NordmeshError, match=r"a:1|images"):
        catalogue.read_lock(path)


def test_pinned_references() -> None:
    digests = {name: f"sha256:{number:064x}" for number, name in enumerate(("amd64", "arm64"))}
    one = catalogue.Lock(binaries={}, images={PAUSE: digests})
    assert one.pinned(PAUSE, {"arm64"}) == f"{PAUSE}@{digests['arm64']}"
    assert one.pinned(PAUSE, {"amd64", "arm64"}) == PAUSE, "no digest is right for both"
    assert one.pinned("docker.io/a/b:1", {"amd64"}) == "docker.io/a/b:1"
