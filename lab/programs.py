"""The programs that the lab builds from Go modules, as a table.

A program's source is named by the go.mod and go.sum of its group, a folder of
lab/artifacts. Nothing here runs anything; lab/build.py does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

PULUMI = "3.259.0"
PULUMI_KUBERNETES = "4.25.0"
KUBERNETES = "1.23.17"
METRICS_SERVER = "0.6.3"
KUBE_ROUTER = "2.10.0"
PROMETHEUS = "2.42.0"
ALERTMANAGER = "0.28.1"
LOCAL_PATH_PROVISIONER = "0.0.30"
CONTAINERD = "1.7.30"
RUNC = "1.3.4"
CNI_PLUGINS = "1.7.1"

PROMETHEUS_MODULE = "github.com/prometheus/prometheus"

# Part of every stamp: raise it when a change of the recipe must rebuild everything.
RECIPE = 1


class Prepare(Enum):
    """Work on a group's copy before its program can be compiled."""

    NONE = "none"
    OPENAPI = "openapi"  # vendor the modules and generate the API server's OpenAPI definitions
    KUBERNETES_DISCOVERY = "discovery"  # Prometheus without the discovery of other clouds
    SCHEMA = "schema"  # copy the provider's embedded JSON files beside main.go


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program: `group` is a folder of lab/artifacts, `seconds` its measured build time.

    `gcflags` replaces the compiler flags for the packages that its pattern
    matches. `seconds` (two cores, empty build cache, in the order of the table) only
    decides which group is built first.
    """

    name: str
    group: str
    package: str
    seconds: int = field(repr=False)  # an estimate is no input of the build
    ldflags: str = ""
    gcflags: str = ""
    tags: str = ""
    cgo: bool = False
    prepare: Prepare = Prepare.NONE


@dataclass(frozen=True, kw_only=True)
class IstioRelease:
    """A release of Istio that the lab builds: `group` is its folder of lab/artifacts.

    `proxy_version` is the version that its proxies announce. From 1.17, istiod sends a
    proxy of that same version a network filter (istio_authn) that only
    Istio's build of Envoy has.
    """

    version: str
    group: str
    proxy_version: str


# The first is what the lab runs; the others are there to upgrade to.
ISTIO: tuple[IstioRelease, ...] = (
    IstioRelease(version="1.16.5", group="istio", proxy_version="1.16.5"),
    IstioRelease(version="1.18.1", group="istio-1.18", proxy_version="1.16.7"),
)


def _kubernetes_ldflags() -> str:
    # Both packages: the API server reads the one, clients and istioctl the other.
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    major, minor, _ = KUBERNETES.split(".")
    stamps = [
        f"-X {package}.gitVersion=v{KUBERNETES} "
        f"-X {package}.gitMajor={major} -X {package}.gitMinor={minor}"
        for package in packages
    ]
    # Old golang.org/x modules reach into the runtime, which new linkers refuse.
    return " ".join(["-checklinkname=0", *stamps])


def _istio_ldflags(version: str) -> str:
    values = {
        "buildVersion": version,
        "buildTag": version,
        "buildHub": "docker.io/istio",
        "buildStatus": "Clean",
    }
    stamps = [f"-X istio.io/pkg/version.{key}={value}" for key, value in values.items()]
    return " ".join(["-checklinkname=0", *stamps])


def _kubernetes(name: str, seconds: int, prepare: Prepare = Prepare.NONE) -> Program:
    return Program(
        name=name,
        group="kubernetes",
        package=f"k8s.io/kubernetes/cmd/{name}",
        ldflags=_kubernetes_ldflags(),
        seconds=seconds,
        prepare=prepare,
    )


def _prometheus(name: str, seconds: int) -> Program:
    # Debian's Prometheus cannot discover pods: its Kubernetes discovery is taken out.
    return Program(
        name=name,
        group="prometheus",
        package=f"{PROMETHEUS_MODULE}/cmd/{name}",
        ldflags=f"-X github.com/prometheus/common/version.Version={PROMETHEUS}",
        prepare=Prepare.KUBERNETES_DISCOVERY,
        seconds=seconds,
    )


def _istio(release: IstioRelease, name: str, package: str, seconds: int, tags: str = "") -> Program:
    return Program(
        name=name,
        group=release.group,
        package=f"istio.io/istio/{package}",
        ldflags=_istio_ldflags(release.version),
        seconds=seconds,
        tags=tags,
    )


def _istio_programs(release: IstioRelease) -> tuple[Program, ...]:
    return (
        _istio(release, "pilot-discovery", "pilot/cmd/pilot-discovery", 143),
        _istio(release, "istioctl", "istioctl/cmd/istioctl", 16),
        _istio(release, "pilot-agent", "pilot/cmd/pilot-agent", 14, tags="agent"),
    )


def _containerd(name: str, seconds: int) -> Program:
    module = "github.com/containerd/containerd"
    return Program(
        name=name,
        group="containerd",
        package=f"{module}/cmd/{name}",
        ldflags=f"-X {module}/version.Version=v{CONTAINERD}",
        # Snapshotters of other file systems; one of them is C.
        tags="no_aufs,no_btrfs,no_devmapper,no_zfs,urfave_cli_no_docs",
        seconds=seconds,
    )


_CNI_PLUGINS = (
    "ipam/dhcp", "ipam/host-local", "ipam/static", "main/bridge", "main/dummy", "main/host-device",
    "main/ipvlan", "main/loopback", "main/macvlan", "main/ptp", "main/tap", "main/vlan",
    "meta/bandwidth", "meta/firewall", "meta/portmap", "meta/sbr", "meta/tuning", "meta/vrf",
)  # fmt: skip


def _cni_plugin(package: str) -> Program:
    module = "github.com/containernetworking/plugins"
    return Program(
        name=package.rpartition("/")[2],
        group="cni-plugins",
        package=f"{module}/plugins/{package}",
        ldflags=f"-X {module}/pkg/utils/buildversion.BuildVersion=v{CNI_PLUGINS}",
        seconds=1,
    )


_KUBE_ROUTER_MODULE = "github.com/cloudnativelabs/kube-router/v2"
_PROVIDER = "github.com/pulumi/pulumi-kubernetes/provider/v4"

PROVIDER = Program(
    name="pulumi-resource-kubernetes",
    group="pulumi-kubernetes",
    package=".",
    ldflags=f"-checklinkname=0 -X {_PROVIDER}/pkg/version.Version={PULUMI_KUBERNETES}",
    # The generated SDK is half of the compile time; without inlining it is a sixth less.
    gcflags="github.com/pulumi/pulumi-kubernetes/sdk/v4/...=-dwarf=false -l",
    seconds=456,
    prepare=Prepare.SCHEMA,
)
PROVIDER_MODULE = _PROVIDER

CLI = Program(
    name="pulumi",
    group="pulumi",
    package="github.com/pulumi/pulumi/pkg/v3/cmd/pulumi",
    ldflags=f"-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v{PULUMI}",
    tags="osusergo,grpcnotrace",
    seconds=190,
)

# Only a tool of the build: its output is used and dropped.
OPENAPI_GEN = Program(
    name="openapi-gen",
    group="openapi-gen",
    package="k8s.io/kube-openapi/cmd/openapi-gen",
    seconds=15,
)

CLUSTER: tuple[Program, ...] = (
    _kubernetes("kubelet", 205),
    _kubernetes("kubeadm", 8),
    _kubernetes("kubectl", 8),
    _kubernetes("kube-controller-manager", 40),
    _kubernetes("kube-scheduler", 8),
    _kubernetes("kube-proxy", 3),
    _kubernetes("kube-apiserver", 75, Prepare.OPENAPI),
    *(program for release in ISTIO for program in _istio_programs(release)),
    Program(
        name="flanneld",
        group="flannel",
        package="github.com/flannel-io/flannel",
        # Its udp backend is C; static, so that any image can hold it.
        cgo=True,
        ldflags='-linkmode external -extldflags "-static"',
        seconds=100,
    ),
    Program(name="coredns", group="coredns", package="github.com/coredns/coredns", seconds=48),
    Program(name="etcd", group="etcd", package="go.etcd.io/etcd/server/v3", seconds=18),
    Program(
        name="flannel",
        group="flannel-cni",
        package="github.com/containernetworking/plugins/plugins/meta/flannel",
        seconds=5,
    ),
    _containerd("containerd", 56),
    _containerd("containerd-shim-runc-v2", 2),
    _containerd("ctr", 3),
    Program(
        name="runc",
        group="runc",
        package="github.com/opencontainers/runc",
        # Static with the seccomp library in it, as upstream's.
        cgo=True,
        ldflags=f'-X main.version={RUNC} -linkmode external -extldflags "-static"',
        tags="netgo,osusergo,seccomp",
        seconds=19,
    ),
    *(_cni_plugin(package) for package in _CNI_PLUGINS),
    Program(
        name="metrics-server",
        group="metrics-server",
        package="sigs.k8s.io/metrics-server/cmd/metrics-server",
        ldflags=f"-checklinkname=0 -X k8s.io/client-go/pkg/version.gitVersion=v{METRICS_SERVER}",
        seconds=30,
    ),
    Program(
        name="kube-router",
        group="kube-router",
        package=f"{_KUBE_ROUTER_MODULE}/cmd/kube-router",
        ldflags=f"-X {_KUBE_ROUTER_MODULE}/pkg/version.Version=v{KUBE_ROUTER}",
        seconds=90,
    ),
    _prometheus("prometheus", 120),
    Program(
        name="alertmanager",
        group="alertmanager",
        package="github.com/prometheus/alertmanager/cmd/alertmanager",
        ldflags=f"-X github.com/prometheus/common/version.Version={ALERTMANAGER}",
        seconds=60,
    ),
    Program(
        name="local-path-provisioner",
        group="local-path-provisioner",
        package="github.com/rancher/local-path-provisioner",
        ldflags=f"-X main.VERSION=v{LOCAL_PATH_PROVISIONER}",
        seconds=30,
    ),
    Program(name="echo", group="demo", package=".", seconds=20),
)

# An S3 server, for the tests of a state backend. `make up` does without it.
S3_SERVER = Program(
    name="versitygw",
    group="versitygw",
    package="github.com/versity/versitygw/cmd/versitygw",
    seconds=45,
)

# Starts an etcd from a snapshot, for the tests of backups.
ETCDUTL = Program(name="etcdutl", group="etcdutl", package="go.etcd.io/etcd/etcdutl/v3", seconds=25)

# What only tests need: built by `python -m lab build`. promtool tests the alerts.
TESTS: tuple[Program, ...] = (_prometheus("promtool", 15), S3_SERVER, ETCDUTL)
