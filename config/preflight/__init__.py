"""The section `preflight`: what a machine must be before it is changed, and what is let through."""

from typing import Annotated

from pydantic import AfterValidator, Field

from config.base import Section, Unlimited
from config.errors import nearest
from config.scalars.durations import LatencyLimit, SkewLimit, StealWindow
from config.scalars.names import Label
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
    "ports",
    "product-uuid",
    "steal",
    "swap",
    "sync-latency",
    "time-sync",
    "virtualization",
)
"""What a check of the preflight is called, where it is let through and in the report."""


@shaped({"enum": list(CHECKS)})
def _check_name(value: str) -> str:
    if value in CHECKS:
        return value
    guess = nearest(value, CHECKS)
    raise Refused(
        f"{value!r} is no check of the preflight",
        "an override that fits no check would let nothing through, and nobody would notice",
        f"write {guess}" if guess else f"write one of {', '.join(CHECKS)}",
    )


CheckName = Annotated[str, AfterValidator(_check_name)]
OverrideReason = Annotated[
    str,
    reason("whoever reviews this must learn why the machine is good enough; each preview shows it"),
]


class Limits(Section):
    """What is measured on each machine, and how far it may go."""

    steal: StealLimit = Field(
        default=2.0,
        description="the CPU time in percent that the hypervisor gives to others, on average over "
        "the window; with more, the guides say, do not install Istio",
    )
    cores: CoreCount = Field(
        default=2, description="the least number of cores; kubeadm refuses less than 2"
    )
    memory: Memory = Field(
        default="1700Mi", description="the least memory; kubeadm refuses less than 1700 MB"
    )
    disk_space: Memory = Field(
        default="4Gi", description="the least free space for images, logs and pods"
    )
    sync_latency: LatencyLimit = Field(
        default="10ms",
        description="the 99th percentile of fdatasync where etcd writes; etcd's own guidance",
    )
    latency: LatencyLimit = Field(
        default="10ms",
        description="the round trip between two members of etcd; a tenth of its heartbeat interval "
        "of 100 ms",
    )
    latency_warning: LatencyLimit = Field(
        default="1ms",
        description="the round trip above which a pair of nodes is named (the guides)",
    )
    clock_skew: SkewLimit = Field(
        default="1s", description="how far two clocks may be apart; etcd warns above a second"
    )


class Override(Section):
    """A check that may fail."""

    reason: OverrideReason = Field(
        description="why its failure is let through", examples=["the hypervisor hides the flag"]
    )
    nodes: Annotated[list[Label], Unlimited("the check may fail on every node")] = Field(
        default=[], description="the nodes on which it may fail; none means all"
    )


class Preflight(Section):
    """What every machine must be before anything on it is changed; `nordmesh preflight` tells."""

    window: StealWindow = Field(
        default="10s", description="how long stolen CPU time is averaged over"
    )
    limits: Limits = Field(default=Limits(), description="what is still good enough")
    override: dict[CheckName, Override] = Field(
        default={}, description="the checks that may fail, by name, each with its reason"
    )
