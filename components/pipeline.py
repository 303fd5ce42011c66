"""What `pulumi up` may do at the API server: its own role."""

from dataclasses import dataclass

import pulumi

from components.manifests import kubeadm, pipeline
from components.objects import Cluster


@dataclass(frozen=True, kw_only=True)
class PipelineArgs:
    """administrator: the cluster with the administrator's rights. kubeconfig (secret): its own."""

    administrator: Cluster
    kubeconfig: pulumi.Output[str]


class Pipeline(pulumi.ComponentResource):
    """A role that can do what the program does with objects, and nothing else.

    kubeconfig (secret): the administrator's, acting in this role; known once the role is as this
    run wants it. It guards against mistakes of the program and shows in the audit log what it did.
    It does not hold off anyone who has the state: with the same credential they can act otherwise.
    """

    kubeconfig: pulumi.Output[str]

    def __init__(
        self, name: str, args: PipelineArgs, opts: pulumi.ResourceOptions | None = None
    ) -> None:
        super().__init__("nordmesh:access:Pipeline", name, None, opts)
        role, binding = pipeline.objects()
        given = args.administrator.apply(role, parent=self)
        bound = args.administrator.apply(binding, parent=self, after=[given])
        self.kubeconfig = pulumi.Output.all(args.kubeconfig, given.id, bound.id).apply(
            lambda known: kubeadm.acting_as(known[0], pipeline.USER)
        )
        self.register_outputs({})
