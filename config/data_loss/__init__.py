"""The entries of `machines.allowDataLoss`: each names one thing that may be lost, and why."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias, get_args

from pydantic import BeforeValidator, Field, model_validator

from config.base import Section
from config.istio import TrustDomain
from config.scalars.names import Label, NodeName
from config.scalars.refused import Refused
from config.scalars.texts import reason

Kind: TypeAlias = Literal["volumes", "disk", "etcd", "namespace", "identities"]
KINDS: Sequence[Kind] = get_args(Kind)

Thing: TypeAlias = tuple[Kind, str]
"""What may be lost: its kind, and the name of the node, the namespace or the trust domain."""

OLD_REASON = "allowed by allowDataLoss: true"
"""The reason of every entry that stands for the old switch."""

DataLossReason = Annotated[
    str,
    reason(
        "data-loss-reason",
        "reviewers must learn why nobody needs the data any more; every preview shows the reason",
    ),
]


class DataLoss(Section):
    """One thing that may be lost with its data, and why."""

    volumes: NodeName | None = Field(
        default=None,
        description="the worker whose local volumes may be lost, with its pods that nothing "
        "recreates",
    )
    disk: NodeName | None = Field(
        default=None,
        description="the node whose disk may be lost: the guest or container is deleted",
    )
    etcd: NodeName | None = Field(
        default=None,
        description="the control plane whose etcd may be lost, and with it every object of the "
        "cluster",
    )
    namespace: Label | None = Field(
        default=None,
        description="the namespace that may be lost with everything in it; istio-system stands "
        "for the mesh itself",
    )
    identities: TrustDomain | None = Field(
        default=None,
        description="the trust domain whose identities may be lost, because istio.trustDomain "
        "changes",
    )
    reason: DataLossReason = Field(
        description="why nobody needs the data any more, in at least 10 characters",
        examples=["scratch data of the load test"],
    )

    @model_validator(mode="after")
    def _one_thing(self) -> "DataLoss":
        named = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(named) == 1 or self is EVERYTHING:
            return self
        raise Refused(
            "data-loss-thing-count",
            f"the entry names {len(named)} things: {', '.join(named)}"
            if named
            else "the entry names nothing that may be lost",
            "each entry allows the loss of one thing, so that each loss has its own reason",
            f"set one of {', '.join(KINDS)} to a name; add an entry for each other thing",
        )

    @property
    def thing(self) -> Thing:
        """What may be lost."""
        ((kind, name),) = [(kind, value) for kind in KINDS if (value := getattr(self, kind))]
        return kind, str(name)

    @classmethod
    def of(cls, thing: Thing, reason: str) -> "DataLoss":
        """The entry for a thing."""
        kind, name = thing
        return cls.model_validate({kind: name, "reason": reason})


EVERYTHING = DataLoss.model_construct(reason=OLD_REASON)
"""Stands for the old switch until the whole stack is known; see config.data_loss.things."""


def switch(value: Any) -> Any:
    """Accept the switch of earlier releases: true for everything, false for nothing."""
    if isinstance(value, bool):
        return [EVERYTHING] if value else []
    return value


AllowedLosses = Annotated[list[DataLoss], BeforeValidator(switch)]
