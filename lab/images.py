"""Build container images from programs, and push them into the storage of the lab's registry.

An image is an OCI layout that this module writes: one layer with our files, and
for some a shared Debian layer below it. Layers are reproducible: sorted, no
times, no owners but those that matter. The registry is started only to be
pushed to; `lab/services.py` serves the same storage to the nodes.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

from config import catalogue
from lab import paths, programs
from lab.errors import LabError
from lab.ports import reserved_port
from lab.progress import Progress
from lab.run import Runner

_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_SEARCH_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Raise it to rebuild images whose files did not change.
_RECIPE = 1

# The images never leave this machine, so fast packing matters more than their size.
_GZIP_LEVEL = 1
_START_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Image:
    """An image: `files` maps a path inside it to the name of a built file or directory.

    See `Sources.path`.
    """

    reference: str
    files: dict[str, str]
    entrypoint: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    user: str = ""
    debian: bool = False

    @property
    def repository(self) -> str:
        """The reference without its tag."""
        return self.reference.rpartition(":")[0]

    @property
    def tag(self) -> str:
        """The reference's tag."""
        return self.reference.rpartition(":")[2]


def _kubernetes(name: str, *, debian: bool = False) -> Image:
    return Image(
        reference=f"registry.k8s.io/{name}:v{programs.KUBERNETES}",
        files={f"usr/local/bin/{name}": f"kubernetes/{name}"},
        debian=debian,
    )


def _istio(release: programs.IstioRelease) -> tuple[Image, ...]:
    template = f"{release.group}/envoy_bootstrap.json"
    files = {"var/lib/istio/envoy/envoy_bootstrap_tmpl.json": template}
    discovery = {"usr/local/bin/pilot-discovery": f"{release.group}/pilot-discovery"}
    agent = {"usr/local/bin/pilot-agent": f"{release.group}/pilot-agent"}
    return (
        Image(
            reference=f"docker.io/istio/pilot:{release.version}",
            files={**discovery, **files},
            entrypoint=("/usr/local/bin/pilot-discovery",),
            user="1337:1337",
        ),
        Image(
            reference=f"docker.io/istio/proxyv2:{release.version}",
            files={**agent, "usr/local/bin/envoy": "envoy", **files},
            entrypoint=("/usr/local/bin/pilot-agent",),
            environment=(f"ISTIO_META_ISTIO_VERSION={release.proxy_version}",),
            debian=True,
        ),
    )


ALL: tuple[Image, ...] = (
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kube-proxy", debian=True),
    Image(reference="registry.k8s.io/etcd:3.5.6-0", files={"usr/local/bin/etcd": "etcd/etcd"}),
    Image(
        reference="registry.k8s.io/coredns/coredns:v1.8.6",
        files={"coredns": "coredns/coredns"},
        entrypoint=("/coredns",),
    ),
    Image(
        reference=f"docker.io/prom/prometheus:v{programs.PROMETHEUS}",
        files={"bin/prometheus": "prometheus/prometheus"},
        entrypoint=("/bin/prometheus",),
        user="65534:65534",
    ),
    Image(
        reference=f"docker.io/prom/alertmanager:v{programs.ALERTMANAGER}",
        files={"bin/alertmanager": "alertmanager/alertmanager"},
        entrypoint=("/bin/alertmanager",),
        user="65534:65534",
    ),
    Image(
        reference="registry.k8s.io/pause:3.6",
        files={"pause": "pause/pause"},
        entrypoint=("/pause",),
    ),
    Image(
        reference="docker.io/flannel/flannel:v0.26.7",
        files={"opt/bin/flanneld": "flannel/flanneld"},
        entrypoint=("/opt/bin/flanneld",),
        debian=True,
    ),
    Image(
        reference="docker.io/flannel/flannel-cni-plugin:v1.6.2-flannel1",
        files={"flannel": "flannel-cni/flannel"},
        debian=True,  # its manifest copies the plugin onto the node with `cp`
    ),
    Image(
        reference=f"docker.io/cloudnativelabs/kube-router:v{programs.KUBE_ROUTER}",
        files={"usr/local/bin/kube-router": "kube-router/kube-router"},
        entrypoint=("/usr/local/bin/kube-router",),
        debian=True,
    ),
    *(image for release in programs.ISTIO for image in _istio(release)),
    Image(
        reference=f"registry.k8s.io/metrics-server/metrics-server:v{programs.METRICS_SERVER}",
        files={"metrics-server": "metrics-server/metrics-server"},
        entrypoint=("/metrics-server",),
        user="65534:65534",
    ),
    Image(
        reference=f"docker.io/rancher/local-path-provisioner:v{programs.LOCAL_PATH_PROVISIONER}",
        files={"usr/bin/local-path-provisioner": "local-path-provisioner/local-path-provisioner"},
        debian=True,  # its pods make and delete directories with a shell
    ),
    Image(
        reference="docker.io/nordmesh/echo:1.1.0",
        files={"echo": "demo/echo"},
        entrypoint=("/echo",),
        user="65532:65532",
    ),
)


def envoy_binary() -> Path:
    """Envoy as the Python environment holds it; raises LabError when it is missing."""
    spec = importlib.util.find_spec("envoy")
    if spec is None or not spec.submodule_search_locations:
        raise LabError(
            "the Python environment has no Envoy",
            code="lab-no-envoy",
            fix="delete .venv and run `make env`",
        )
    return Path(spec.submodule_search_locations[0]) / "_bin" / "envoy"


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The built files that images contain."""

    cache: paths.Cache

    def path(self, name: str) -> Path:
        """The file of a name: `envoy`, or a path below the cache's `bin`."""
        return envoy_binary() if name == "envoy" else self.cache.bin / name


def identity(image: Image, sources: Sources) -> str:
    """What an image is made of, without reading large files: names, sizes, times."""
    facts: list[object] = [_RECIPE, _GZIP_LEVEL, repr(image)]
    for name in sorted(set(image.files.values())):
        status = sources.path(name).stat()
        facts.append((name, status.st_size, status.st_mtime_ns))
    root_stamp = sources.cache.stamps / "root.image"
    facts.append(root_stamp.read_text() if root_stamp.exists() else "")
    return hashlib.sha256(repr(facts).encode()).hexdigest()


class _Writer(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _Hashing:
    """A file object that hashes everything written to it."""

    def __init__(self, target: _Writer) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size += len(data)
        self._target.write(data)
        return len(data)

    def flush(self) -> None:
        """Do nothing; gzip calls this."""

    @property
    def digest(self) -> str:
        return f"sha256:{self._digest.hexdigest()}"


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type = kind
    entry.mode = mode
    return entry


def _parents(names: list[str]) -> list[str]:
    folders = {str(parent) for name in names for parent in Path(name).parents}
    return sorted(folders - {"."})


# The files that programs expect in any root: user names, and a directory for temporary files.
_SKELETON = {
    "etc/passwd": b"root:x:0:0:root:/root:/sbin/nologin\n",
    "etc/group": b"root:x:0:\n",
    "etc/nsswitch.conf": b"hosts: files dns\n",
}


def write_files(archive: tarfile.TarFile, files: dict[str, Path], *, skeleton: bool) -> None:
    """Write files (mode 0755) with their parent directories, and the skeleton when asked.

    A directory is written with all that is in it, its files as they are.
    """
    texts = _SKELETON if skeleton else {}
    for parent in _parents([*files, *texts]):
        archive.addfile(_entry(parent, tarfile.DIRTYPE, 0o755))
    if skeleton:
        archive.addfile(_entry("tmp", tarfile.DIRTYPE, 0o1777))
    for name, text in sorted(texts.items()):
        entry = _entry(name, tarfile.REGTYPE, 0o644)
        entry.size = len(text)
        archive.addfile(entry, io.BytesIO(text))
    for name, source in sorted(files.items()):
        if source.is_dir():
            archive.add(source, arcname=name, filter=_clean)
            continue
        entry = _entry(name, tarfile.REGTYPE, 0o755)
        entry.size = source.stat().st_size
        with source.open("rb") as handle:
            archive.addfile(entry, handle)


def write_tree(archive: tarfile.TarFile, root: Path) -> None:
    """Write a whole root: sorted, without times, devices or mount points' contents."""

    def without_mounts(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        top = entry.name.split("/", 1)
        if (len(top) == 2 and top[0] in {"dev", "proc", "sys", "run"}) or entry.isdev():
            return None
        return _clean(entry)

    # TarFile.add goes through a directory in sorted order.
    for path in sorted(root.iterdir()):
        archive.add(path, arcname=path.name, filter=without_mounts)


def _clean(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Remove the fields that differ between machines or days."""
    entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


class Layout:
    """An OCI layout that is being written: blobs are stored once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._manifests: list[dict[str, object]] = []

    def layer(self, fill: Callable[[tarfile.TarFile], None]) -> dict[str, object]:
        """Write one layer; returns its descriptor with the uncompressed digest as `diff`."""
        partial = self._blobs / ".partial"
        with partial.open("wb") as handle:
            packed = _Hashing(handle)
            with gzip.GzipFile(
                filename="",
                mode="wb",
                compresslevel=_GZIP_LEVEL,
                fileobj=cast(IO[bytes], packed),
                mtime=0,
            ) as stream:
                plain = _Hashing(stream)
                with tarfile.open(
                    mode="w|",
                    fileobj=cast(IO[bytes], plain),
                    format=tarfile.PAX_FORMAT,
                    bufsize=2**20,
                ) as archive:
                    fill(archive)
        partial.replace(self._blobs / packed.digest.removeprefix("sha256:"))
        return {"digest": packed.digest, "size": packed.size, "diff": plain.digest}

    def _document(self, content: object) -> dict[str, object]:
        data = json.dumps(content, sort_keys=True).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    def image(self, image: Image, layers: list[dict[str, object]]) -> None:
        """Write an image's config and manifest over layers that are written already."""
        settings: dict[str, object] = {"Env": [_SEARCH_PATH, *image.environment]}
        if image.entrypoint:
            settings["Entrypoint"] = list(image.entrypoint)
        if image.user:
            settings["User"] = image.user
        config = self._document(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "1970-01-01T00:00:00Z",
                "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [layer["diff"] for layer in layers]},
                "history": [{"created_by": "nordmesh lab"} for _ in layers],
            }
        )
        manifest = self._document(
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _CONFIG, **config},
                "layers": [
                    {"mediaType": _LAYER, "digest": layer["digest"], "size": layer["size"]}
                    for layer in layers
                ],
            }
        )
        name = {"org.opencontainers.image.ref.name": image.reference}
        self._manifests.append({"mediaType": _MANIFEST, **manifest, "annotations": name})
        index = {"schemaVersion": 2, "manifests": self._manifests}
        (self.folder / "index.json").write_text(json.dumps(index))


def _make_pause(cache: paths.Cache, runner: Runner) -> None:
    source = paths.checkout().artifacts / "pause" / "pause.c"
    output = cache.bin / "pause" / "pause"
    stamp, digest = cache.stamps / "pause", hashlib.sha256(source.read_bytes()).hexdigest()
    if output.exists() and stamp.is_file() and stamp.read_text() == digest:
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(".pause.partial")
    runner.run("pause", ["gcc", "-Os", "-Wall", "-static", "-s", "-o", str(partial), str(source)])
    partial.replace(output)
    stamp.write_text(digest)


def _is_pushed(image: Image, sources: Sources) -> bool:
    stamp = _stamp(image, sources.cache)
    return (
        _link(image, sources.cache).exists()
        and stamp.is_file()
        and stamp.read_text() == identity(image, sources)
    )


def _link(image: Image, cache: paths.Cache) -> Path:
    """The registry's file with the digest that the image's tag points to."""
    repositories = cache.registry / "docker/registry/v2/repositories"
    return repositories / image.repository / "_manifests/tags" / image.tag / "current/link"


def _stamp(image: Image, cache: paths.Cache) -> Path:
    return cache.stamps / ("image." + image.reference.replace("/", "_").replace(":", "_"))


@contextmanager
def running_registry(storage: Path, log: Path, host: str = "127.0.0.1") -> Iterator[str]:
    """Run docker-registry on a free port, by default of the loopback; yields its `host:port`."""
    with reserved_port(host) as port, _running_registry(storage, log, f"{host}:{port}") as address:
        yield address


@contextmanager
def _running_registry(storage: Path, log: Path, address: str) -> Iterator[str]:
    storage.mkdir(parents=True, exist_ok=True)
    config = log.with_suffix(".json")
    config.write_text(
        json.dumps(  # JSON is YAML
            {
                "version": 0.1,
                "log": {"level": "warn", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(storage)}},
                "http": {"addr": address},
            }
        )
    )
    with log.open("w") as handle:
        command = ["setpriv", "--pdeathsig", "TERM", "--", "docker-registry", "serve", str(config)]
        process = subprocess.Popen(command, stdout=handle, stderr=handle)
    try:
        _wait_for(f"http://{address}/v2/", process, log)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with (
            suppress(urllib.error.URLError, ConnectionError),
            urllib.request.urlopen(url, timeout=2),  # noqa: S310 (a loopback address)
        ):
            return
        time.sleep(0.05)
    raise LabError(
        f"docker-registry does not answer on {url}",
        code="lab-registry",
        details=log.read_text()[-2000:],
    )


def make_all(
    chosen: Iterable[Image], sources: Sources, runner: Runner, say: Callable[[str], None]
) -> int:
    """Build and push the images whose inputs changed since the last push; return their number."""
    cache = sources.cache
    _make_pause(cache, runner)
    wanted = [image for image in chosen if not _is_pushed(image, sources)]
    if not wanted:
        return 0
    progress = Progress(say, total=len(wanted))
    shutil.rmtree(cache.images, ignore_errors=True)
    layout = Layout(cache.images)
    debian: list[dict[str, object]] = []
    if any(image.debian for image in wanted):
        debian = [layout.layer(lambda archive: write_tree(archive, cache.image_root))]
    cache.logs.mkdir(parents=True, exist_ok=True)
    with (
        progress.watch(),
        running_registry(cache.registry, cache.logs / "registry.log") as address,
    ):
        for image in wanted:
            with progress.step(f"image {image.reference}"):
                _push(image, debian if image.debian else [], layout, sources, runner, address)
    # The registry holds them now.
    shutil.rmtree(cache.images)
    return len(wanted)


def _push(
    image: Image,
    below: list[dict[str, object]],
    layout: Layout,
    sources: Sources,
    runner: Runner,
    address: str,
) -> None:
    files = {inside: sources.path(name) for inside, name in image.files.items()}
    certificates = "etc/ssl/certs/ca-certificates.crt"
    if not image.debian:
        files[certificates] = sources.cache.image_root / certificates
    ours = layout.layer(lambda archive: write_files(archive, files, skeleton=not image.debian))
    layout.image(image, [*below, ours])
    command = [
        "skopeo", "copy", "--quiet", "--insecure-policy", "--preserve-digests",
        "--dest-tls-verify=false",
        f"oci:{layout.folder}:{image.reference}", f"docker://{address}/{image.reference}",
    ]  # fmt: skip
    runner.run("image." + image.repository.replace("/", "_"), command)
    _stamp(image, sources.cache).write_text(identity(image, sources))


_KUBERNETES_URL = f"dl.k8s.io/release/v{programs.KUBERNETES}/bin/linux/amd64"


def _istioctl_url(version: str) -> str:
    releases = "github.com/istio/istio/releases/download"
    return f"{releases}/{version}/istioctl-{version}-linux-amd64.tar.gz"


def _runtime() -> dict[str, str | dict[str, str]]:
    """The downloads of the container runtime; each names the group of its programs."""
    return {
        download.key: {
            member: f"{download.name}/{member.rpartition('/')[2]}" for member in download.members
        }
        or f"{download.name}/{download.name}"
        for download in catalogue.downloads(programs.KUBERNETES, None)
        if download.name in ("containerd", "runc", "cni-plugins")
    }


# Official URL without its scheme, and the built program that is served under it, or of an archive
# those inside it.
MIRRORED: dict[str, str | dict[str, str]] = {
    **{f"{_KUBERNETES_URL}/{name}": f"kubernetes/{name}" for name in ("kubeadm", "kubelet")},
    f"{_KUBERNETES_URL}/kubectl": "kubernetes/kubectl",
    **{
        _istioctl_url(release.version): {"istioctl": f"{release.group}/istioctl"}
        for release in programs.ISTIO
    },
    **_runtime(),
}


def built_files(url: str) -> list[str]:
    """The built files that are served at an official URL."""
    parts = MIRRORED[url]
    return list(parts.values()) if isinstance(parts, dict) else [parts]


def make_mirror(cache: paths.Cache) -> None:
    """Lay out the built files under their official URLs; write only the changed ones."""
    for url, parts in MIRRORED.items():
        if not all((cache.bin / name).exists() for name in built_files(url)):
            continue
        target = cache.mirror / url
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(parts, dict):
            _pack({member: cache.bin / name for member, name in parts.items()}, target)
            continue
        source = cache.bin / parts
        if not (target.exists() and target.samefile(source)):
            partial = target.with_name(f".{target.name}.partial")
            partial.unlink(missing_ok=True)
            os.link(source, partial)
            partial.replace(target)


def _pack(members: dict[str, Path], target: Path) -> None:
    """Write a .tar.gz of programs, as upstream publishes them; the same bytes each time."""
    newest = max(source.stat().st_mtime_ns for source in members.values())
    if target.exists() and target.stat().st_mtime_ns == newest:
        return
    partial = target.with_name(f".{target.name}.partial")
    with (
        partial.open("wb") as handle,
        gzip.GzipFile("", "wb", _GZIP_LEVEL, handle, mtime=0) as stream,
        tarfile.open(mode="w|", fileobj=stream) as archive,
    ):
        write_files(archive, members, skeleton=False)
    os.utime(partial, ns=(newest, newest))
    partial.replace(target)


def sha256(path: Path, stamps: Path) -> str:
    """sha256 of a file's content, cached until its size or time changes."""
    status = path.stat()
    key = f"{status.st_size} {status.st_mtime_ns}"
    memo = stamps / f"sha256.{path.name}"
    if memo.is_file() and memo.read_text().startswith(key + " "):
        return memo.read_text().rpartition(" ")[2]
    with path.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    memo.write_text(f"{key} {digest}")
    return digest


def write_lock(target: Path, cache: paths.Cache) -> None:
    """Write the artifact lock of the lab's builds, unless nothing changed."""
    content = {
        "binaries": {
            url: sha256(cache.mirror / url, cache.stamps)
            for url in MIRRORED
            if (cache.mirror / url).exists()
        },
        "images": {
            image.reference: {"amd64": link.read_text().strip()}
            for image in ALL
            if (link := _link(image, cache)).exists()
        },
    }
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    if target.is_file() and target.read_text() == text:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(text)
    partial.replace(target)
