"""Read and write image manifests at registries, over the OCI distribution API.

Logs in with a bearer token or a password, as the registry requires, and uses the credentials of
`skopeo login` and `docker login`. Copies no layers: skopeo does.
"""

import base64
import hashlib
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

from config.errors import NordmeshError

_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
_INDEXES = (_OCI_INDEX, _DOCKER_LIST)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LARGEST = 4 * 2**20  # bytes of a manifest: what registries take
_SECONDS = 30
_RENAMED = {"docker.io": "registry-1.docker.io"}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a tag or a digest: its bytes and their media type."""

    media_type: str
    body: bytes

    @property
    def digest(self) -> str:
        """The digest of the bytes."""
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"

    @property
    def content(self) -> dict[str, Any]:
        """The document; raises NordmeshError if it is not JSON."""
        try:
            content = json.loads(self.body)
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise _not_a_manifest()
        return content

    @property
    def is_index(self) -> bool:
        """Whether it lists a manifest for each platform."""
        return self.media_type in _INDEXES

    @property
    def size(self) -> int:
        """The size of the layers and the configuration, in bytes."""
        content = self.content
        try:
            return sum(int(part["size"]) for part in (content["config"], *content["layers"]))
        except (KeyError, TypeError, ValueError):
            raise _not_a_manifest() from None

    def platforms(self) -> dict[str, dict[str, Any]]:
        """An index's entries for Linux, by architecture."""
        platforms: dict[str, dict[str, Any]] = {}
        for entry in self.content.get("manifests", []):
            platform = entry.get("platform", {})
            if platform.get("os") == "linux":
                # Of several variants, the first runs on all processors.
                platforms.setdefault(str(platform.get("architecture")), entry)
        return platforms


def index_of(entries: Iterable[Mapping[str, Any]]) -> Manifest:
    """Render an index of entries, the inverse of platforms()."""
    content = {"schemaVersion": 2, "mediaType": _OCI_INDEX, "manifests": [dict(e) for e in entries]}
    return Manifest(media_type=_OCI_INDEX, body=json.dumps(content, sort_keys=True).encode())


def entry_of(manifest: Manifest, architecture: str) -> dict[str, Any]:
    """A manifest's entry in an index."""
    return {
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": len(manifest.body),
        "platform": {"architecture": architecture, "os": "linux"},
    }


@dataclass(frozen=True, kw_only=True)
class Repository:
    """The repository of an image.

    address: scheme, host and port. name: the path, without tag.
    """

    address: str
    name: str

    @property
    def host(self) -> str:
        """Host and port, the key of the logins."""
        return self.address.partition("://")[2]

    @property
    def is_encrypted(self) -> bool:
        """Whether it is reached over TLS."""
        return self.address.startswith("https:")

    def __str__(self) -> str:
        return f"{self.host}/{self.name}"


def address(text: str) -> str:
    """Check an http or https address and remove its final slash; raises NordmeshError."""
    if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", text):
        raise NordmeshError(
            f"{text} is not an http or https address without user and password",
            code="bad-address",
            fix="use an address such as https://mirror.example.internal",
        )
    return text.rstrip("/")


def split(reference: str) -> tuple[str, str]:
    """Split a reference into its repository, with the host, and its tag."""
    repository, _, tag = reference.rpartition(":")
    return repository, tag


def locate(repository: str, registry: str | None) -> Repository:
    """Locate a repository: at its own host, or below the host's name in another registry."""
    if registry is None:
        host, _, name = repository.partition("/")
        return Repository(address=f"https://{_RENAMED.get(host, host)}", name=name)
    parts = urllib.parse.urlsplit(registry)
    name = f"{parts.path.strip('/')}/{repository}".lstrip("/")
    return Repository(address=f"{parts.scheme}://{parts.netloc}", name=name)


@dataclass(frozen=True, kw_only=True)
class Client:
    """Talks to registries. logins: `user:password` in base64, by host."""

    logins: Mapping[str, str] = field(default_factory=dict, repr=False)
    _tokens: dict[tuple[str, str], str] = field(default_factory=dict, repr=False, init=False)

    @classmethod
    def with_logins(cls) -> "Client":
        """A client with the user's logins."""
        return cls(logins=read_logins(os.environ))

    def manifest(self, where: Repository, name: str) -> Manifest:
        """Return the manifest of a tag or digest; raises NordmeshError if it is missing."""
        manifest = self._get(where, f"manifests/{name}", (*_INDEXES, *_MANIFESTS))
        if name.startswith("sha256:") and manifest.digest != name:
            raise _other_digest(where, manifest.digest, name)
        if manifest.media_type not in (*_INDEXES, *_MANIFESTS):
            raise NordmeshError(
                f"{where} returned {manifest.media_type or 'no type'}, not a manifest",
                code="not-a-manifest",
            )
        return manifest

    def find(self, where: Repository, name: str) -> Manifest | None:
        """Return the manifest of a tag or digest, None if it is missing."""
        try:
            return self.manifest(where, name)
        except _MissingError:
            return None

    def architecture(self, where: Repository, manifest: Manifest) -> str:
        """The platform of an image without an index, read from its configuration."""
        try:
            digest = str(manifest.content["config"]["digest"])
        except (KeyError, TypeError):
            raise _not_a_manifest() from None
        config = self._get(where, f"blobs/{digest}", ())
        if config.digest != digest:
            raise _other_digest(where, config.digest, digest)
        return str(config.content.get("architecture"))

    def put(self, where: Repository, tag: str, manifest: Manifest) -> None:
        """Point a tag at a manifest whose layers the registry has."""
        request = urllib.request.Request(  # noqa: S310  http or https, as configured
            self._url(where, f"manifests/{tag}"),
            data=manifest.body,
            headers={"Content-Type": manifest.media_type},
            method="PUT",
        )
        self._answer(request, where, "pull,push")

    def _get(self, where: Repository, path: str, types: tuple[str, ...]) -> Manifest:
        headers = {"Accept": ", ".join(types)} if types else {}
        request = urllib.request.Request(self._url(where, path), headers=headers)  # noqa: S310
        body, answer = self._answer(request, where, "pull")
        return Manifest(media_type=answer.get_content_type(), body=body)

    @staticmethod
    def _url(where: Repository, path: str) -> str:
        return f"{where.address}/v2/{where.name}/{path}"

    def _answer(
        self, request: urllib.request.Request, where: Repository, actions: str
    ) -> tuple[bytes, Message]:
        """Return the body and the headers; log in if the registry requires it."""
        key = where.address, f"repository:{where.name}:{actions}"
        for is_last in (False, True):
            if key in self._tokens:
                # Not to another host, where the registry sends us for the contents.
                request.add_unredirected_header("Authorization", self._tokens[key])
            try:
                return _read(request)
            except urllib.error.HTTPError as error:
                is_registry = urllib.parse.urlsplit(error.url).netloc == where.host
                # A host that the registry sent us to is not given the registry's login.
                if error.code != 401 or is_last or not is_registry:
                    raise _refusal(error, where) from None
                challenge = error.headers.get("WWW-Authenticate", "")
            except (OSError, ValueError) as error:
                raise NordmeshError(
                    f"{where.host} does not answer: {error}", code="registry-unreachable"
                ) from None
            self._tokens[key] = self._log_in(where, challenge, key[1])
        raise AssertionError("the second try returns or raises")

    def _log_in(self, where: Repository, challenge: str, scope: str) -> str:
        """Return the header that answers a registry's challenge."""
        host = "docker.io" if where.host in _RENAMED.values() else where.host
        login = self.logins.get(host)
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic" and login:
            return f"Basic {login}"
        parameters = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        realm = parameters.get("realm", "")
        if kind.lower() != "bearer" or not re.match(r"https?://", realm):
            raise NordmeshError(
                f"{where.host} requires a login",
                code="registry-login",
                fix=f"run `skopeo login {host}`, and retry",
            )
        if realm.startswith("http:") and where.is_encrypted:
            raise NordmeshError(
                f"{where.host} wants the login to be sent without TLS", code="registry-login"
            )
        query = {"scope": scope} | (
            {"service": parameters["service"]} if "service" in parameters else {}
        )
        request = urllib.request.Request(  # noqa: S310  checked above
            f"{realm}{'&' if '?' in realm else '?'}{urllib.parse.urlencode(query)}"
        )
        if login:
            request.add_unredirected_header("Authorization", f"Basic {login}")
        try:
            content = json.loads(_read(request)[0])
            return f"Bearer {content.get('token') or content['access_token']}"
        except urllib.error.HTTPError as error:
            raise NordmeshError(
                f"{where.host} refuses the login ({error.code})",
                code="registry-login",
                fix=f"run `skopeo login {host}`, and retry",
            ) from None
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise NordmeshError(
                f"{where.host} returned no token: {error!r}", code="registry-login"
            ) from None


class _MissingError(NordmeshError):
    """The registry does not have the requested manifest."""


def _read(request: urllib.request.Request) -> tuple[bytes, Message]:
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
        return response.read(_LARGEST), response.headers


def _refusal(error: urllib.error.HTTPError, where: Repository) -> NordmeshError:
    if error.code == 404:
        return _MissingError(
            f"{where.host} has no {where.name} with that tag or digest", code="no-image"
        )
    if error.code in (401, 403):
        return NordmeshError(
            f"this login must not read or write {where} ({error.code})", code="registry-login"
        )
    return NordmeshError(
        f"{where.host} answers with status {error.code} {error.reason}", code="registry-failed"
    )


def _not_a_manifest() -> NordmeshError:
    return NordmeshError("the registry returned no manifest", code="not-a-manifest")


def _other_digest(where: Repository, digest: str, expected: str) -> NordmeshError:
    return NordmeshError(f"{where} returned {digest} instead of {expected}", code="wrong-digest")


def read_logins(environment: Mapping[str, str]) -> dict[str, str]:
    """Read the logins that skopeo would use; {} if it has no credentials file."""
    home = Path(environment.get("HOME", "/nonexistent"))
    runtime = environment.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
    files = [
        home / ".docker/config.json",
        Path(runtime) / "containers/auth.json",
        # skopeo's, where XDG_RUNTIME_DIR is not set.
        Path(f"/run/containers/{os.getuid()}/auth.json"),
    ]
    if "REGISTRY_AUTH_FILE" in environment:
        files = [Path(environment["REGISTRY_AUTH_FILE"])]
    logins: dict[str, str] = {}
    for file in files:
        try:
            entries = json.loads(file.read_text()).get("auths", {})
        except (OSError, ValueError, AttributeError):
            continue
        logins |= {host: entry["auth"] for host, entry in entries.items() if _is_login(entry)}
    # The login of Docker's own registry is stored under its oldest address.
    if (old := logins.pop("https://index.docker.io/v1/", None)) is not None:
        logins.setdefault("docker.io", old)
    return logins


def _is_login(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("auth"), str):
        return False
    try:
        return b":" in base64.b64decode(entry["auth"], validate=True)
    except ValueError:
        return False
