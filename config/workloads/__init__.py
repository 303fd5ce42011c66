"""The part `workloads` of the section `mesh`: sidecars whose size is not the mesh's default."""

from typing import Literal

from pydantic import Field

from config.base import Section
from config.istio import Proxy
from config.scalars.names import Label
from config.scalars.numbers import Concurrency, PodCount
from config.scalars.quantities import Cpu, Memory

Apply = Literal["patch", "snippet"]


class Size(Section):
    """An amount of CPU and one of memory, where they differ from the mesh's."""

    cpu: Cpu | None = Field(default=None, description="CPU in cores or thousandths of a core")
    memory: Memory | None = Field(default=None, description="memory in bytes, with a unit")


class Workload(Section):
    """The sidecar of one Deployment; what is not said is as in istio.proxy."""

    namespace: Label = Field(description="the Deployment's namespace", examples=["shop"])
    deployment: Label | None = Field(
        default=None, description="the Deployment's name, where it is not the entry's own"
    )
    requests: Size = Field(default=Size(), description="what each of its proxies is sure to get")
    limits: Size = Field(default=Size(), description="what each of its proxies may take at most")
    concurrency: Concurrency | None = Field(
        default=None, description="Envoy's worker threads; 0 means one for each core of the limit"
    )
    hold_application_until_proxy_starts: bool | None = Field(
        default=None, description="whether the application waits for its proxy"
    )
    pods: PodCount | None = Field(
        default=None, description="how many pods it has at most, to check that they fit"
    )
    apply: Apply = Field(
        default="patch",
        description="whether the program patches the Deployment, or `nordmesh report workloads` "
        "prints what its owner is to paste",
    )

    def proxy(self, mesh: Proxy) -> Proxy:
        """The workload's proxies: the mesh's, with what is said here on top."""
        said = self.model_dump(
            exclude_none=True, include={"concurrency", "hold_application_until_proxy_starts"}
        )
        requests, limits = (x.model_dump(exclude_none=True) for x in (self.requests, self.limits))
        return mesh.model_copy(
            update={
                "requests": mesh.requests.model_copy(update=requests),
                "limits": mesh.limits.model_copy(update=limits),
                **said,
            }
        )
