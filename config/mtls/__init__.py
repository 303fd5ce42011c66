"""Who may talk in plaintext: modes, and the gate before STRICT."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from config.base import Section
from config.scalars.durations import Window
from config.scalars.names import LABEL_KEY, LABEL_VALUE
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.texts import reason

MtlsMode = Literal["DISABLE", "PERMISSIVE", "STRICT"]


def _selector(labels: dict[str, str]) -> dict[str, str]:
    if not labels:
        raise Refused(
            "the selector is empty",
            "it would select every pod of the namespace",
            "write the labels of the service's pods, such as {app: checkout}, or remove it",
        )
    for key, value in labels.items():
        if not re.fullmatch(LABEL_KEY, key) or not re.fullmatch(LABEL_VALUE, value):
            raise Refused(
                f"{key}: {value!r} is not a label",
                "the API server refuses a selector that no pod's labels can match",
                "write the labels of the service's pods, such as {app: checkout}",
            )
    return labels


Selector = Annotated[dict[str, str], AfterValidator(_selector)]
OverrideReason = Annotated[
    str, reason("whoever reviews the change must learn why clients may be cut off unmeasured")
]


class MtlsGate(Section):
    """The measurement before a mode becomes STRICT: who still talks in plaintext."""

    window: Window = Field(default="30s", description="how long plaintext is looked for")
    override: OverrideReason | None = Field(
        default=None, description="why STRICT is wanted without a measurement"
    )


class ServiceMtls(Section):
    """The mTLS mode of one service's pods, and of single ports."""

    mode: MtlsMode | None = Field(
        default=None, description="the mTLS mode, where the namespace's does not fit"
    )
    ports: dict[Port, MtlsMode] = Field(
        default={}, description="the modes of single ports of the pods, by number"
    )
    selector: Selector | None = Field(
        default=None, description="the labels of the pods with these modes; default: the service's"
    )
