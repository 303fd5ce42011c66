"""The section `preflight`: the requirements of machines before they are changed, and waivers."""

from typing import Annotated

from pydantic import AfterValidator, Field

from config.base import Section, Unlimited
from config.errors import nearest, one_of
from config.scalars.durations import LatencyLimit, SkewLimit, StealWindow
from config.scalars.names import NodeName
from config.scalars.numbers import CoreCount, StealLimit
from config.scalars.quantities import Memory
from config.scalars.refused import Refused
from config.scalars.shapes import shaped
from config.scalars.texts import reason

CHECKS = (
    "address",
    "aes",
    "clock",
    "conflicts",
    "cores",
    "dedicated-cores",
    "disk-kind",
    "disk-space",
    "dns",
    "downloads",
    "etcd-mount",
    "hostname",
    "in-use",
    "kernel-modules",
    "latency",
    "mac",
    "machine-id",
    "memory",
    "mesh-capacity",
    "mesh-ports",
    "mtu",
    "os",
    "packages",
    "ports",
    "product-uuid",
    "route",
    "steal",
    "swap",
    "sync-latency",
    "time-sync",
    "virtualization",
    "volumes-disk",
)
"""The names of the preflight checks, in overrides and in the report."""


@shaped({"enum": list(CHECKS)})
def _check_name(value: str) -> str:
    if value in CHECKS:
        return value
    guess = nearest(value, CHECKS)
    raise Refused(
        "preflight-check-unknown",
        f"{value!r} is not a preflight check",
        "an override that matches no check would waive nothing, and nobody would notice",
        f"use {guess}" if guess else one_of(CHECKS),
    )


CheckName = Annotated[str, AfterValidator(_check_name)]
OverrideReason = Annotated[
    str,
    reason(
        "preflight-override-reason",
        "reviewers must learn why the machine is good enough; every preview shows the reason",
    ),
]


class Limits(Section):
    """The limits of what is measured on each machine."""

    steal: StealLimit = Field(
        default=2.0,
        description="the highest steal in percent, the CPU time that the hypervisor gives to other "
        "guests, on average over the window",
    )
    cores: CoreCount = Field(
        default=2, description="the lowest number of cores; kubeadm refuses fewer than 2"
    )
    memory: Memory = Field(
        default="1700Mi",
        description="the lowest amount of memory; kubeadm refuses less than 1700 MB",
    )
    disk_space: Memory = Field(
        default="4Gi", description="the lowest amount of free space for images, logs and pods"
    )
    sync_latency: LatencyLimit = Field(
        default="10ms",
        description="the highest 99th percentile of fdatasync on etcd's disk, as etcd recommends",
    )
    latency: LatencyLimit = Field(
        default="10ms",
        description="the highest round trip time between two members of etcd; a tenth of its "
        "heartbeat interval of 100 ms",
    )
    latency_warning: LatencyLimit = Field(
        default="1ms",
        description="the round trip time above which preflight warns about a pair of nodes",
    )
    clock_skew: SkewLimit = Field(
        default="1s",
        description="the largest difference between two clocks; etcd warns above one second",
    )


class Override(Section):
    """A waiver of a check."""

    reason: OverrideReason = Field(
        description="why a failure is acceptable", examples=["the hypervisor hides the flag"]
    )
    nodes: Annotated[
        list[NodeName],
        Unlimited("the check may fail on every node", "remove the override to allow none"),
    ] = Field(default=[], description="the nodes on which the check may fail; none means all")


class Preflight(Section):
    """The requirements of a machine before it is changed; `nordmesh preflight` checks them."""

    window: StealWindow = Field(default="10s", description="the time over which steal is averaged")
    limits: Limits = Field(default=Limits(), description="the limits of the measurements")
    override: dict[CheckName, Override] = Field(
        default={}, description="the checks that may fail, by name, each with its reason"
    )
