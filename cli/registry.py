"""Read image manifests at registries, and copy images between them, with skopeo.

skopeo logs in as `skopeo login` and `docker login` did, and follows redirects.
"""

import hashlib
import json
import re
import subprocess
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from config.errors import NordmeshError

_OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
# What registries say of a tag, a digest or a repository that they do not have.
_MISSING = re.compile(r"manifest unknown|name unknown|artifact \S+ not found", re.IGNORECASE)
_REFUSED = re.compile(r"unauthorized|authentication required|denied|forbidden|\b40[13]\b", re.I)
_RETRIES = 3


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The manifest of a tag or a digest, as bytes."""

    body: bytes

    @property
    def digest(self) -> str:
        """The digest of the bytes."""
        return f"sha256:{hashlib.sha256(self.body).hexdigest()}"

    @property
    def content(self) -> dict[str, Any]:
        """The document; raises NordmeshError if it is not JSON."""
        return _document(self.body)

    @property
    def is_index(self) -> bool:
        """Whether it lists a manifest for each platform."""
        return "manifests" in self.content

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
    return Manifest(body=json.dumps(content, sort_keys=True).encode())


def entry_of(manifest: Manifest, architecture: str) -> dict[str, Any]:
    """A manifest's entry in an index."""
    return {
        "mediaType": manifest.content.get("mediaType", _OCI_MANIFEST),
        "digest": manifest.digest,
        "size": len(manifest.body),
        "platform": {"architecture": architecture, "os": "linux"},
    }


@dataclass(frozen=True, kw_only=True)
class Repository:
    """The repository of an image. name: host and path, without tag."""

    name: str
    is_encrypted: bool

    @property
    def host(self) -> str:
        """Host and port, the key of the logins."""
        return self.name.partition("/")[0]

    def __str__(self) -> str:
        return self.name

    def at(self, tag_or_digest: str) -> str:
        """An image of the repository, as skopeo names it."""
        mark = "@" if tag_or_digest.startswith("sha256:") else ":"
        return f"docker://{self.name}{mark}{tag_or_digest}"


def address(text: str) -> str:
    """Check an http or https address and remove its final slash; raises NordmeshError."""
    if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s?#]*)?", text):
        raise NordmeshError(
            f"{text} is not an http or https address without user and password",
            code="bad-address",
            fix="use an address such as https://mirror.example.internal",
        )
    return text.rstrip("/")


def locate(repository: str, registry: str | None) -> Repository:
    """Locate a repository: at its own host, or below the host's name in another registry."""
    if registry is None:
        return Repository(name=repository, is_encrypted=True)
    parts = urllib.parse.urlsplit(registry)
    name = f"{parts.netloc}{parts.path.rstrip('/')}/{repository}"
    return Repository(name=name, is_encrypted=parts.scheme == "https")


def manifest(where: Repository, name: str) -> Manifest:
    """Return the manifest of a tag or digest; raises NordmeshError if it is missing."""
    document = Manifest(body=_inspect(where, name, "--raw"))
    if name.startswith("sha256:") and document.digest != name:
        raise NordmeshError(
            f"{where} returned {document.digest} instead of {name}", code="wrong-digest"
        )
    if not {"manifests", "config"} & document.content.keys():
        raise _not_a_manifest()
    return document


def find(where: Repository, name: str) -> Manifest | None:
    """Return the manifest of a tag or digest, None if it is missing."""
    try:
        return manifest(where, name)
    except _MissingError:
        return None


def architecture(where: Repository, name: str) -> str:
    """The platform of an image without an index, read from its configuration."""
    return str(_document(_inspect(where, name, "--config")).get("architecture"))


def copy(source: Repository, target: Repository, digest: str) -> None:
    """Copy an image; skopeo checks each digest. Raises NordmeshError."""
    _copy(
        source.at(digest),
        target,
        digest,
        f"--src-tls-verify={str(source.is_encrypted).lower()}",
        what=f"{source}@{digest}",
    )


def put(target: Repository, tag: str, index: Manifest) -> None:
    """Point a tag at an index of images that the registry has; raises NordmeshError."""
    with TemporaryDirectory(prefix="nordmesh-") as folder:
        (Path(folder) / "version").write_text("Directory Transport Version: 1.1\n")
        (Path(folder) / "manifest.json").write_bytes(index.body)
        what = f"the index of {target}:{tag}"
        _copy(f"dir:{folder}", target, tag, "--multi-arch=index-only", what=what)


class _MissingError(NordmeshError):
    """The registry does not have the requested manifest."""


def _inspect(where: Repository, name: str, *options: str) -> bytes:
    tls = f"--tls-verify={str(where.is_encrypted).lower()}"
    result = _skopeo("inspect", tls, f"--retry-times={_RETRIES}", *options, where.at(name))
    if result.returncode:
        raise _refusal(where, result.stderr)
    return result.stdout


def _copy(source: str, target: Repository, name: str, *options: str, what: str) -> None:
    result = _skopeo(
        "copy", "--quiet", "--insecure-policy", "--preserve-digests", *options,
        f"--retry-times={_RETRIES}", f"--dest-tls-verify={str(target.is_encrypted).lower()}",
        source, target.at(name),
    )  # fmt: skip
    if result.returncode:
        raise NordmeshError(
            f"skopeo cannot copy {what}: {_last_line(result.stderr)}", code="copy-failed"
        )


def _skopeo(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["skopeo", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise no_skopeo() from None


def no_skopeo() -> NordmeshError:
    """The error without skopeo."""
    return NordmeshError(
        "there is no skopeo on PATH, which reads and copies images",
        code="no-skopeo",
        fix="install it, for example with apt-get install skopeo",
    )


def _refusal(where: Repository, error: bytes) -> NordmeshError:
    reason = _last_line(error)
    if _MISSING.search(reason):
        return _MissingError(f"{where} has no such tag or digest", code="no-image")
    if _REFUSED.search(reason):
        return NordmeshError(
            f"{where.host} refuses to let this login read {where.name}: {reason}",
            code="registry-login",
            fix=f"run `skopeo login {where.host}`, and retry",
        )
    return NordmeshError(f"skopeo cannot read {where}: {reason}", code="registry-failed")


def _last_line(error: bytes) -> str:
    lines = error.decode(errors="replace").strip().splitlines() or ["no reason given"]
    # skopeo logs as time="..." level=fatal msg="...".
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', lines[-1])
    text = message[1].replace('\\"', '"') if message else lines[-1]
    return re.sub(r'^Error parsing image name "[^"]*": ', "", text)


def _document(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise _not_a_manifest()
    return content


def _not_a_manifest() -> NordmeshError:
    return NordmeshError("the registry returned no manifest", code="not-a-manifest")
