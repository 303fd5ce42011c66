"""Amounts of CPU and memory: whether requests fit their limits, and limits the proxies."""

from collections.abc import Iterator

from pydantic import Field

from config.base import Section
from config.errors import KeyPath, Problem
from config.scalars.quantities import Cpu, Memory, quantity

KINDS = ("cpu", "memory")

# A proxy with less than half a core is stopped by the kernel for most of each 100 ms as soon as its
# two worker threads are busy: latency of the whole mesh. The guides: never too low.
_PROXY_NEEDS = {
    "cpu": (
        "500m",
        "2000m",
        "every request of the application waits while the kernel holds the proxy back",
    ),
    "memory": (
        "128Mi",
        "1024Mi",
        "Envoy takes about 50 MB before it knows any service; above the limit it is killed, and "
        "its application is cut off",
    ),
}


class Resources(Section):
    """An amount of CPU and one of memory."""

    cpu: Cpu = Field(description="CPU in cores or thousandths of a core", examples=["500m"])
    memory: Memory = Field(description="memory in bytes, with a unit", examples=["512Mi"])


class ProxyRequests(Resources):
    """What a proxy is sure to get."""

    cpu: Cpu = Field(default="100m", description="CPU in cores or thousandths of a core")
    memory: Memory = Field(default="128Mi", description="memory in bytes, with a unit")


class ProxyLimits(Resources):
    """What a proxy may take at most."""

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
    """The problem of a request above its limit. about: where either comes from besides."""
    if quantity(request) > quantity(limit):
        yield Problem(
            path=path,
            what=f"the request of {request} is above the limit of {limit}",
            why=f"the API server refuses such pods, so none could start{note}",
            fix=fix or f"write at most {limit}, or raise {'.'.join(limit_path)}",
            about=(limit_path, *about),
        )


def check_proxy_limit(path: KeyPath, kind: str, limit: str) -> Iterator[Problem]:
    """The problem of a limit under which no sidecar works. kind: one of KINDS."""
    least, default, why = _PROXY_NEEDS[kind]
    if quantity(limit) < quantity(least):
        yield Problem(
            path=path,
            what=f"a {'CPU' if kind == 'cpu' else kind} limit of {limit} is too low for a proxy",
            why=why,
            fix=f"write at least {least}; Istio's default is {default}, and a limit that is "
            "not used costs nothing",
        )
