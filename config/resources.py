"""CPU and memory: requests, limits, and whether they fit together."""

from collections.abc import Iterator

from pydantic import Field

from config.base import Section
from config.errors import KeyPath, Problem
from config.scalars.quantities import Cpu, Memory, quantity

KINDS = ("cpu", "memory")

# With less than half a core, the kernel stops a proxy for most of each 100 ms as soon as its two
# worker threads are busy, which adds latency to the whole mesh.
_PROXY_NEEDS = {
    "cpu": (
        "500m",
        "2000m",
        "every request of the application waits while the kernel throttles the proxy",
    ),
    "memory": (
        "128Mi",
        "1024Mi",
        "Envoy needs about 50 MB before it knows any service; above the limit it is killed, and "
        "its application loses all connections",
    ),
}


class Resources(Section):
    """CPU and memory."""

    cpu: Cpu = Field(description="CPU in cores or thousandths of a core", examples=["500m"])
    memory: Memory = Field(description="memory in bytes, with a unit", examples=["2Gi"])


class ProxyRequests(Resources):
    """The resources that a proxy requests."""

    cpu: Cpu = Field(default="100m", description="CPU in cores or thousandths of a core")
    memory: Memory = Field(default="128Mi", description="memory in bytes, with a unit")


class ProxyLimits(Resources):
    """The most that a proxy may use."""

    cpu: Cpu = Field(default="2000m", description="CPU in cores or thousandths of a core")
    memory: Memory = Field(default="1024Mi", description="memory in bytes, with a unit")


def check_request(
    path: KeyPath,
    request: str,
    limit: str,
    *,
    limit_path: KeyPath,
    fix: str | None = None,
    note: str = "",
    about: tuple[KeyPath, ...] = (),
) -> Iterator[Problem]:
    """Yield the problem of a request above its limit. about: other keys that either comes from."""
    if quantity(request) > quantity(limit):
        yield Problem(
            code="request-above-limit",
            path=path,
            what=f"the request of {request} is above the limit of {limit}",
            why=f"the API server refuses such pods, so none could start{note}",
            fix=fix or f"use at most {limit}, or raise {'.'.join(limit_path)}",
            about=(limit_path, *about),
        )


def check_proxy_limit(path: KeyPath, kind: str, limit: str) -> Iterator[Problem]:
    """Yield the problem of a limit that is too low for a sidecar. kind: one of KINDS."""
    least, default, why = _PROXY_NEEDS[kind]
    if quantity(limit) < quantity(least):
        yield Problem(
            code="proxy-limit-too-low",
            path=path,
            what=f"a {'CPU' if kind == 'cpu' else kind} limit of {limit} is too low for a proxy",
            why=why,
            fix=f"use at least {least}; Istio's default is {default}, and an unused limit "
            "costs nothing",
        )
