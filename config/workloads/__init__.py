"""The key `mesh.workloads`: sidecars whose size differs from the mesh's default."""

from typing import ClassVar, Literal

from pydantic import Field

from config.base import Section
from config.istio import Proxy
from config.scalars.durations import Drain
from config.scalars.names import Label
from config.scalars.numbers import Concurrency, PodCount
from config.scalars.quantities import Cpu, Memory

Apply = Literal["patch", "snippet"]


class Size(Section):
    """CPU and memory, where they differ from the mesh's defaults."""

    cpu: Cpu | None = Field(default=None, description="CPU in cores or thousandths of a core")
    memory: Memory | None = Field(default=None, description="memory in bytes, with a unit")


class Workload(Section):
    """The sidecars of one Deployment; keys that are not set have the values of istio.proxy."""

    example: ClassVar = {"namespace": "shop", "limits": {"cpu": "1", "memory": "512Mi"}}

    namespace: Label = Field(description="the Deployment's namespace", examples=["shop"])
    deployment: Label | None = Field(
        default=None, description="the Deployment's name, if it differs from the entry's name"
    )
    requests: Size = Field(
        default=Size(), description="the resources that each of its proxies requests"
    )
    limits: Size = Field(default=Size(), description="the most that each of its proxies may use")
    concurrency: Concurrency | None = Field(
        default=None,
        description="the number of Envoy's worker threads; 0 means one for each core of the limit",
    )
    hold_application_until_proxy_starts: bool | None = Field(
        default=None, description="whether the application waits for its proxy"
    )
    drain_duration: Drain | None = Field(
        default=None,
        description="how long a proxy still serves requests in progress when its pod ends",
    )
    pods: PodCount | None = Field(
        default=None, description="the highest number of its pods, to check that their proxies fit"
    )
    apply: Apply = Field(
        default="patch",
        description="whether nordmesh patches the Deployment, or `nordmesh report workloads` "
        "prints a patch for its owner",
    )

    def proxy(self, mesh: Proxy) -> Proxy:
        """The workload's proxies: the mesh's, with the settings of this entry on top."""
        own = self.model_dump(
            exclude_none=True,
            include={"concurrency", "hold_application_until_proxy_starts", "drain_duration"},
        )
        requests, limits = (x.model_dump(exclude_none=True) for x in (self.requests, self.limits))
        return mesh.model_copy(
            update={
                "requests": mesh.requests.model_copy(update=requests),
                "limits": mesh.limits.model_copy(update=limits),
                **own,
            }
        )
