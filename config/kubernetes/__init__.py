"""The sections `artifacts` and `kubernetes`: what nodes download, and the cluster made of it."""

from typing import Literal

from pydantic import Field, JsonValue

from config.base import Section
from config.catalogue import LOCK
from config.scalars.names import DnsName, Label
from config.scalars.networks import PodNetwork, ServiceNetwork
from config.scalars.releases import HttpUrl, Version

CgroupDriver = Literal["systemd", "cgroupfs"]


class Artifacts(Section):
    """Where nodes download from, and the file of checksums that they hold downloads against."""

    mirror: HttpUrl | None = Field(
        default=None, description="where binaries come from instead of the official places"
    )
    registry: HttpUrl | None = Field(
        default=None,
        description="the registry that images come through instead of the official ones",
    )
    fallback: bool = Field(
        default=False,
        description="whether nodes go to the official places for what the mirror and the registry "
        "cannot give",
    )
    lock: str = Field(
        default=LOCK,
        min_length=1,
        description="the file of checksums, relative to the project",
    )


class Kubernetes(Section):
    """The cluster that kubeadm makes."""

    cluster_name: Label = Field(description="the cluster's name", examples=["prod"])
    version: Version = Field(description="the Kubernetes release", examples=["1.23.17"])
    endpoint: DnsName = Field(
        description="the stable name of the API server", examples=["api.prod.example.internal"]
    )
    pod_cidr: PodNetwork = Field(default="10.244.0.0/16", description="the network of all pods")
    service_cidr: ServiceNetwork = Field(
        default="10.96.0.0/12", description="the network of service addresses"
    )
    cgroup_driver: CgroupDriver = Field(
        default="systemd", description="how kubelet and containerd make control groups"
    )
    kubelet: dict[str, JsonValue] = Field(
        default={},
        description="what KubeletConfiguration has besides; merged last, and null takes a default "
        "of this program away",
    )
    kube_proxy: dict[str, JsonValue] = Field(
        default={}, description="what KubeProxyConfiguration has besides; merged last"
    )
    restrict_oom_score_adj: bool = Field(
        default=False, description="whether nodes are containers that may not lower OOM scores"
    )
