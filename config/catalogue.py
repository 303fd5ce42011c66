"""The catalogue of compatible Kubernetes and Istio releases, with their artifacts and images.

Imports no models, so that the lab and `nordmesh lock` can use it alone.
"""

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from config.errors import NordmeshError

LOCK = "stacks/artifacts.lock.json"
"""The default path of the lock file, relative to the project."""

DEFAULT_LOCK = Path(__file__).resolve().parents[1] / LOCK
ARCHITECTURES = ("amd64", "arm64")
PROGRAMS = "/usr/local/bin"
CNI_PLUGINS = (
    "bandwidth", "bridge", "dhcp", "dummy", "firewall", "host-device", "host-local", "ipvlan",
    "loopback", "macvlan", "portmap", "ptp", "sbr", "static", "tap", "tuning", "vlan", "vrf",
)  # fmt: skip
"""Every program in the CNI plugins' archive, without the ./ of the names in it."""

CONTAINERD_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
"""The programs in containerd's archive that a node needs."""

ALERTMANAGER_IMAGE = "docker.io/prom/alertmanager:v0.28.1"
ECHO_IMAGE = "docker.io/nordmesh/echo:1.1.0"
FLANNEL_IMAGE = "docker.io/flannel/flannel:v0.26.7"
FLANNEL_CNI_IMAGE = "docker.io/flannel/flannel-cni-plugin:v1.6.2-flannel1"
GRAFANA_IMAGE = "docker.io/grafana/grafana:9.5.2"
ISTIO_HUB = "docker.io/istio"
KUBE_ROUTER_IMAGE = "docker.io/cloudnativelabs/kube-router:v2.10.0"
KUBERNETES_REGISTRY = "registry.k8s.io"  # kubeadm's default
LOCAL_STORAGE_IMAGE = "docker.io/rancher/local-path-provisioner:v0.0.30"
METRICS_SERVER_IMAGE = f"{KUBERNETES_REGISTRY}/metrics-server/metrics-server:v0.6.3"
_GITHUB = "https://github.com"
_ISTIO_IMAGES = ("pilot", "proxyv2")
PROMETHEUS_IMAGE = "docker.io/prom/prometheus:v2.42.0"


@dataclass(frozen=True, kw_only=True)
class KubernetesRelease:
    """A patch release of Kubernetes, with the versions of its components."""

    version: str
    end_of_life: datetime.date
    etcd: str
    coredns: str
    pause: str
    containerd: str
    runc: str
    cni_plugins: str

    @property
    def images(self) -> tuple[str, ...]:
        """References of all images that kubeadm runs."""
        names = ("apiserver", "controller-manager", "scheduler", "proxy")
        return (
            *(f"{KUBERNETES_REGISTRY}/kube-{name}:v{self.version}" for name in names),
            f"{KUBERNETES_REGISTRY}/etcd:{self.etcd}",
            f"{KUBERNETES_REGISTRY}/coredns/coredns:{self.coredns}",
            self.pause_image,
        )

    @property
    def pause_image(self) -> str:
        """Reference of the pause image, which holds each pod's namespaces."""
        return f"{KUBERNETES_REGISTRY}/pause:{self.pause}"


@dataclass(frozen=True, kw_only=True)
class IstioRelease:
    """A patch release of Istio, with the first and last Kubernetes minor that it supports."""

    version: str
    end_of_life: datetime.date
    kubernetes: tuple[str, str]

    def supports(self, kubernetes_version: str) -> bool:
        """Whether the release supports the minor of a Kubernetes version."""
        first, last = self.kubernetes
        return _numbers(first) <= _numbers(kubernetes_version)[:2] <= _numbers(last)


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file at its official URL, without a checksum.

    directory: where nodes install it. members: the programs in an archive, empty if the file is the
    program itself. published: the URL of upstream's checksum.
    """

    name: str
    url: str
    published: str
    directory: str = PROGRAMS
    members: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The file's name in a lock: its URL without the scheme."""
        return self.url.partition("://")[2]


@dataclass(frozen=True, kw_only=True)
class Binary:
    """A Download with the sha256 (hex) that it must have."""

    name: str
    url: str
    sha256: str
    directory: str = PROGRAMS
    members: tuple[str, ...] = ()

    def source(self, mirror: str | None) -> str:
        """The URL to download from: the official one, or the same path below a mirror."""
        return self.url if mirror is None else f"{mirror}/{self.url.partition('://')[2]}"

    def sources(self, mirror: str | None, *, fallback: bool) -> list[str]:
        """The URLs to download from, in order. fallback: try the official URL last."""
        return [self.source(mirror), *([self.url] if mirror and fallback else [])]


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """The downloads of a node; istioctl only for control-plane nodes of a mesh."""

    kubeadm: Binary
    kubelet: Binary
    kubectl: Binary
    containerd: Binary
    runc: Binary
    cni_plugins: Binary
    istioctl: Binary | None = None

    @property
    def kubernetes(self) -> list[Binary]:
        """The programs of Kubernetes on every node."""
        return [self.kubeadm, self.kubelet, self.kubectl]

    @property
    def runtime(self) -> list[Binary]:
        """The container runtime of every node."""
        return [self.containerd, self.runc, self.cni_plugins]


@dataclass(frozen=True, kw_only=True)
class Lock:
    """The checksums of downloads.

    binaries: checksums (sha256, hex), by URL without scheme. images: digests of manifests
    (sha256:...), by reference and architecture.
    """

    binaries: Mapping[str, str]
    images: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def missing(self, downloads: tuple[Download, ...]) -> tuple[Download, ...]:
        """The downloads that the lock has no checksum for."""
        return tuple(download for download in downloads if download.key not in self.binaries)

    def digest(self, reference: str, architecture: str) -> str | None:
        """The digest that an image's manifest must have; None if the lock has none."""
        return self.images.get(reference, {}).get(architecture)

    def pinned(self, reference: str, architectures: Iterable[str]) -> str:
        """The reference with its digest; unchanged if the architectures have different digests.

        Kubernetes uses the digest; the tag is for people.
        """
        digests = {self.digest(reference, architecture) for architecture in architectures}
        (digest, *others) = digests or {None}
        return reference if digest is None or others else f"{reference}@{digest}"


# End of life: kubernetes/website, data/releases/eol.yaml. Versions: kubeadm's constants.go of
# 1.23.17;
# containerd 1.7 supports CRI v1alpha2 and v1 (containerd/containerd, RELEASES.md), and its
# script/setup/runc-version is the runc that it was tested with.
KUBERNETES: Mapping[str, KubernetesRelease] = {
    version: KubernetesRelease(
        version=version,
        end_of_life=datetime.date(2023, 2, 28),
        etcd="3.5.6-0",
        coredns="v1.8.6",
        pause="3.6",
        containerd="1.7.30",
        runc="1.3.4",
        cni_plugins="1.7.1",
    )
    for version in ("1.23.15", "1.23.16", "1.23.17")
}

# Source: istio/istio.io, docs/releases/supported-releases ("Support status of Istio releases"), and
# endoflife-date/endoflife.date, products/istio.md, for the days of 1.17 and 1.18.
ISTIO: Mapping[str, IstioRelease] = {
    version: IstioRelease(
        version=version,
        end_of_life=datetime.date.fromisoformat(end_of_life),
        kubernetes=(first, last),
    )
    for version, first, last, end_of_life in (
        ("1.11.8", "1.18", "1.22", "2022-03-25"),
        ("1.12.9", "1.19", "1.22", "2022-07-12"),
        ("1.13.9", "1.20", "1.23", "2022-10-12"),
        ("1.14.6", "1.21", "1.24", "2022-12-27"),
        ("1.15.7", "1.22", "1.25", "2023-04-04"),
        ("1.16.5", "1.22", "1.25", "2023-07-25"),
        ("1.16.7", "1.22", "1.25", "2023-07-25"),
        ("1.17.6", "1.23", "1.26", "2023-10-27"),
        ("1.17.8", "1.23", "1.26", "2023-10-27"),
        ("1.18.1", "1.24", "1.27", "2024-01-04"),
        ("1.18.7", "1.24", "1.27", "2024-01-04"),
    )
}


# The Kiali that was tested with each minor of Istio: kiali.io's archive of its documentation; 1.63
# since 1.63.1 with 1.17 as well (istio/istio#43052).
_KIALI = {
    "1.13": "v1.49.0",
    "1.14": "v1.54.0",
    "1.15": "v1.59.1",
    "1.16": "v1.63.2",
    "1.17": "v1.63.2",
    "1.18": "v1.73.0",
}


def kiali_image(istio_version: str) -> str | None:
    """Reference of the Kiali for an Istio release; None if none is known."""
    tag = _KIALI.get(istio_version.rpartition(".")[0])
    return f"quay.io/kiali/kiali:{tag}" if tag else None


def supported(kubernetes_version: str, istio_version: str) -> bool:
    """Whether the Istio release supports the Kubernetes release; both must be in the catalogue."""
    return ISTIO[istio_version].supports(kubernetes_version)


def nearest_pair(kubernetes_version: str, istio_version: str) -> tuple[str, str]:
    """The nearest supported pair, as (Kubernetes, Istio).

    Kubernetes stays, since a cluster is harder to upgrade than a mesh: the nearest minor of Istio
    wins, and its newest patch. A supported pair is returned unchanged.
    """
    if supported(kubernetes_version, istio_version):
        return kubernetes_version, istio_version
    fitting = [version for version in ISTIO if supported(kubernetes_version, version)]
    return kubernetes_version, _nearest_of(istio_version, fitting)


def nearest_version(version: str, catalogue: Mapping[str, object]) -> str:
    """The version in the catalogue that is nearest to an unknown one."""
    return _nearest_of(version, list(catalogue))


def downloads(
    kubernetes_version: str, istio_version: str | None, architecture: str = "amd64"
) -> tuple[Download, ...]:
    """The downloads of a pair of versions, from the official URLs.

    istio_version: None without a mesh. architecture: in Go's spelling, amd64 or arm64.
    """
    mesh = () if istio_version is None else (_istioctl_download(istio_version, architecture),)
    return (*_kubernetes_downloads(kubernetes_version, architecture), *mesh)


def all_downloads() -> tuple[Download, ...]:
    """The downloads of every release in the catalogue, without duplicates."""
    every = [
        download
        for architecture in ARCHITECTURES
        for version in KUBERNETES
        for download in _kubernetes_downloads(version, architecture)
    ]
    every += [
        _istioctl_download(version, architecture)
        for architecture in ARCHITECTURES
        for version in ISTIO
    ]
    return tuple(dict.fromkeys(every))


def binaries(
    kubernetes_version: str, istio_version: str | None, lock: Lock, architecture: str = "amd64"
) -> Binaries:
    """The downloads of a pair of versions; NordmeshError if a checksum is missing."""
    wanted = downloads(kubernetes_version, istio_version, architecture)
    if missing := lock.missing(wanted):
        names = ", ".join(download.key for download in missing)
        raise NordmeshError(f"there is no checksum of {names}", code="lock-checksum-absent")
    return Binaries(
        **{
            download.name.replace("-", "_"): Binary(
                name=download.name,
                url=download.url,
                sha256=lock.binaries[download.key],
                directory=download.directory,
                members=download.members,
            )
            for download in wanted
        }
    )


def images(
    kubernetes_version: str,
    istio_version: str | None,
    *,
    hub: str = ISTIO_HUB,
    network_policy: bool = False,
    demo: bool = False,
) -> list[str]:
    """Official references of all images that a cluster runs.

    network_policy: whether it enforces NetworkPolicies.
    """
    mesh = [] if istio_version is None else [f"{hub}/{x}:{istio_version}" for x in _ISTIO_IMAGES]
    return [
        *KUBERNETES[kubernetes_version].images,
        FLANNEL_IMAGE,
        FLANNEL_CNI_IMAGE,
        METRICS_SERVER_IMAGE,
        *([KUBE_ROUTER_IMAGE] if network_policy else []),
        *mesh,
        *([ECHO_IMAGE] if demo else []),
    ]


def all_images() -> list[str]:
    """References of the images of every release in the catalogue, without duplicates.

    The demo's image is not included: the lab builds it, and it is in no registry.
    """
    every = [image for release in KUBERNETES.values() for image in release.images]
    every += [FLANNEL_IMAGE, FLANNEL_CNI_IMAGE, METRICS_SERVER_IMAGE, KUBE_ROUTER_IMAGE]
    every += [f"{ISTIO_HUB}/{name}:{version}" for version in ISTIO for name in _ISTIO_IMAGES]
    every += [PROMETHEUS_IMAGE, ALERTMANAGER_IMAGE, GRAFANA_IMAGE, LOCAL_STORAGE_IMAGE]
    every += [image for version in ISTIO if (image := kiali_image(version))]
    return list(dict.fromkeys(every))


def monitoring_images(istio_version: str, parts: Iterable[str]) -> dict[str, str]:
    """References of the images of observability, by name."""
    known = {
        "prometheus": PROMETHEUS_IMAGE,
        "alertmanager": ALERTMANAGER_IMAGE,
        "grafana": GRAFANA_IMAGE,
    }
    if kiali := kiali_image(istio_version):
        known["kiali"] = kiali
    return {part: known[part] for part in parts}


def read_lock(path: Path) -> Lock:
    """Read the checksums of a lock file; NordmeshError if it is missing or has the wrong shape."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise NordmeshError("the lock file does not exist", code="lock-missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise NordmeshError(
            f"the lock file cannot be read: {error}", code="lock-unreadable"
        ) from None
    except json.JSONDecodeError as error:
        raise NordmeshError(f"the lock file is not JSON: {error}", code="lock-not-json") from None
    entries = content.get("binaries") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        shape = '{"binaries": {"<url without scheme>": "<sha256>"}}'
        raise NordmeshError(f"the lock file does not have the shape {shape}", code="lock-shape")
    for key, value in entries.items():
        if not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
            raise NordmeshError(
                f"the lock file has an entry of {key} that is not a sha256 of 64 lower-case "
                "hexadecimal digits",
                code="lock-checksum-format",
            )
    images = content.get("images", {})
    if not isinstance(images, dict):
        shape = '{"<reference>": {"<architecture>": "<digest>"}}'
        raise NordmeshError(
            f'the lock file has "images" without the shape {shape}', code="lock-images-shape"
        )
    for reference, digests in images.items():
        if not isinstance(digests, dict) or not all(map(_is_digest, digests.values())):
            raise NordmeshError(
                f"the lock file has an entry of {reference} without a digest (sha256: and 64 "
                "lower-case hexadecimal digits) for each architecture",
                code="lock-digest-format",
            )
    return Lock(binaries=entries, images=images)


def write_lock(path: Path, lock: Lock) -> None:
    """Write a sorted lock file atomically."""
    content: dict[str, object] = {"binaries": dict(lock.binaries)}
    if lock.images:
        content["images"] = {name: dict(digests) for name, digests in lock.images.items()}
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    partial.replace(path)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and bool(re.fullmatch(r"sha256:[0-9a-f]{64}", value))


def _kubernetes_downloads(version: str, architecture: str) -> tuple[Download, ...]:
    base = f"https://dl.k8s.io/release/v{version}/bin/linux/{architecture}"
    programs = tuple(
        Download(name=name, url=f"{base}/{name}", published=f"{base}/{name}.sha256")
        for name in ("kubeadm", "kubelet", "kubectl")
    )
    return (*programs, *_runtime_downloads(KUBERNETES[version], architecture))


def _runtime_downloads(release: KubernetesRelease, architecture: str) -> tuple[Download, ...]:
    containerd, runc = f"v{release.containerd}", f"v{release.runc}"
    archive = (
        f"{_GITHUB}/containerd/containerd/releases/download/{containerd}/"
        f"containerd-{release.containerd}-linux-{architecture}.tar.gz"
    )
    runcs = f"{_GITHUB}/opencontainers/runc/releases/download/{runc}"
    plugins = (
        f"{_GITHUB}/containernetworking/plugins/releases/download/v{release.cni_plugins}/"
        f"cni-plugins-linux-{architecture}-v{release.cni_plugins}.tgz"
    )
    return (
        Download(
            name="containerd",
            url=archive,
            published=f"{archive}.sha256sum",
            members=tuple(f"bin/{name}" for name in CONTAINERD_PROGRAMS),
        ),
        Download(
            name="runc",
            url=f"{runcs}/runc.{architecture}",
            published=f"{runcs}/runc.sha256sum",  # one file for all architectures
            directory="/usr/local/sbin",
        ),
        Download(
            name="cni-plugins",
            url=plugins,
            published=f"{plugins}.sha256",
            directory="/opt/cni/bin",
            members=tuple(f"./{name}" for name in CNI_PLUGINS),
        ),
    )


def _istioctl_download(version: str, architecture: str) -> Download:
    releases = f"{_GITHUB}/istio/istio/releases/download"
    url = f"{releases}/{version}/istioctl-{version}-linux-{architecture}.tar.gz"
    return Download(name="istioctl", url=url, published=f"{url}.sha256", members=("istioctl",))


def _nearest_of(version: str, candidates: list[str]) -> str:
    wanted = _numbers(version)

    def distance(candidate: str) -> tuple[int, ...]:
        numbers = _numbers(candidate)
        away = [abs(a - b) for a, b in zip(numbers, wanted, strict=False)]
        # Patches compare only within one minor; for other minors, the newest patch wins.
        patches = away[2:] if numbers[:2] == wanted[:2] else []
        return (*away[:2], *(patches or [0]), *(-number for number in numbers))

    return min(candidates, key=distance)


def _numbers(version: str) -> tuple[int, ...]:
    """1.23.17 as (1, 23, 17); one or three parts give three numbers, other text counts as 0."""
    parts = [int(part) if part.isdigit() else 0 for part in version.split(".")]
    return tuple(parts) if len(parts) == 2 else tuple([*parts, 0, 0, 0][:3])
