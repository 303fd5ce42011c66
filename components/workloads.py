"""Workloads whose sidecars have their own resource requests and limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.istio import Istio
from components.manifests.workloads import deployment
from components.objects import Cluster
from config import Workload
from config.istio import Proxy


@dataclass(frozen=True, kw_only=True)
class WorkloadsArgs:
    """proxy: the mesh's default size. after: the components that deploy workloads, if any."""

    cluster: Cluster
    istio: Istio
    workloads: Mapping[str, Workload]
    proxy: Proxy
    after: Sequence[pulumi.Resource]


class Workloads(pulumi.ComponentResource):
    """A patch of each of these Deployments, which then replaces its pods one by one.

    Deliberately does not create Deployments: the update fails if one does not exist.
    """

    def __init__(
        self, name: str, args: WorkloadsArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:mesh:Workloads", name, None, opts)
        for workload_name, workload in args.workloads.items():
            if workload.apply == "patch":
                args.cluster.patch(
                    deployment(workload_name, workload, args.proxy),
                    parent=self,
                    after=[args.istio, *args.after],
                )
        self.register_outputs({})
