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
ISTIO = "1.16.5"
PROMETHEUS = "2.42.0"

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
    decides which group is begun first.
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


def _istio_ldflags() -> str:
    values = {
        "buildVersion": ISTIO,
        "buildTag": ISTIO,
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


def _istio(name: str, package: str, seconds: int, tags: str = "") -> Program:
    return Program(
        name=name,
        group="istio",
        package=f"istio.io/istio/{package}",
        ldflags=_istio_ldflags(),
        seconds=seconds,
        tags=tags,
    )


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
    _istio("pilot-discovery", "pilot/cmd/pilot-discovery", 143),
    _istio("istioctl", "istioctl/cmd/istioctl", 16),
    _istio("pilot-agent", "pilot/cmd/pilot-agent", 14, tags="agent"),
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
    # Debian's Prometheus cannot discover pods: its Kubernetes discovery is taken out.
    Program(
        name="prometheus",
        group="prometheus",
        package=f"{PROMETHEUS_MODULE}/cmd/prometheus",
        ldflags=f"-X github.com/prometheus/common/version.Version={PROMETHEUS}",
        prepare=Prepare.KUBERNETES_DISCOVERY,
        seconds=120,
    ),
    Program(name="echo", group="demo", package=".", seconds=5),
)
