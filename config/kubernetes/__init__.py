"""The sections `artifacts` and `kubernetes`: what nodes download, and the cluster."""

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue

from config.base import Section
from config.catalogue import LOCK
from config.scalars.names import DnsName, HostName, Label, OtherHost
from config.scalars.networks import PodNetwork, ServiceNetwork
from config.scalars.numbers import KeyNumber
from config.scalars.releases import HttpUrl, ProxyUrl, Version

CgroupDriver = Literal["systemd", "cgroupfs"]


class DownloadProxy(Section):
    """The HTTP proxy between nodes and the sources of their downloads."""

    url: ProxyUrl = Field(
        description="the URL of the proxy", examples=["http://proxy.example.internal:3128"]
    )
    direct: list[HostName] = Field(
        default=[],
        description="hosts and domains that nodes reach without the proxy, besides the mirror and "
        "the registry",
    )


class Artifacts(Section):
    """Where nodes download from, and the lock file that verifies downloads."""

    mirror: HttpUrl | None = Field(
        default=None,
        description="the URL of a mirror that replaces the official sources of binaries",
    )
    registry: HttpUrl | None = Field(
        default=None,
        description="the URL of a registry that replaces the official registries of images",
    )
    fallback: bool = Field(
        default=False,
        description="whether nodes use the official sources for anything that the mirror and the "
        "registry do not have",
    )
    proxy: DownloadProxy | None = Field(
        default=None,
        description="the proxy of downloads: binaries, packages and images; by default that of the "
        "machine's own environment, if any",
    )
    lock: str = Field(
        default=LOCK,
        min_length=1,
        description="the lock file with checksums, relative to the project",
    )

    @property
    def direct(self) -> str:
        """The hosts that nodes reach without the proxy, as no_proxy has them."""
        own = [urlsplit(url).hostname or "" for url in (self.mirror, self.registry) if url]
        more = self.proxy.direct if self.proxy else []
        return ",".join(dict.fromkeys(["localhost", "127.0.0.1", *own, *more]))


class Kubernetes(Section):
    """The cluster that kubeadm creates."""

    cluster_name: Label = Field(description="the cluster's name", examples=["prod"])
    version: Version = Field(description="the Kubernetes release", examples=["1.23.17"])
    endpoint: DnsName = Field(
        description="the stable name of the API server", examples=["api.prod.example.internal"]
    )
    public_endpoint: OtherHost | None = Field(
        default=None,
        description="a DNS name or an IPv4 address that leads to all control planes on port 6443, "
        "for people and this program; by default the address of a control plane that answers",
        examples=["api.example.org"],
    )
    pod_cidr: PodNetwork = Field(default="10.244.0.0/16", description="the network of all pods")
    service_cidr: ServiceNetwork = Field(
        default="10.96.0.0/12", description="the network of service addresses"
    )
    cgroup_driver: CgroupDriver = Field(
        default="systemd", description="how the kubelet and containerd manage control groups"
    )
    encryption_key: KeyNumber = Field(
        default=1,
        description="the number of the key that encrypts Secrets in etcd; another number replaces "
        "the key with a new one",
        examples=[2],
    )
    kubelet: dict[str, JsonValue] = Field(
        default={},
        description="additional settings of KubeletConfiguration; merged last, and null removes a "
        "default of nordmesh",
        examples=[{"maxPods": 110}],
    )
    kube_proxy: dict[str, JsonValue] = Field(
        default={},
        description="additional settings of KubeProxyConfiguration; merged last",
        examples=[{"mode": "ipvs"}],
    )
    restrict_oom_score_adj: bool = Field(
        default=False,
        description="whether nodes are containers that are not allowed to lower OOM scores",
    )
