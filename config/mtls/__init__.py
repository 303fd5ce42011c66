"""mTLS modes, and the gate before STRICT."""

import re
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field

from config.base import Section
from config.scalars.durations import Window
from config.scalars.names import LABEL_KEY, LABEL_VALUE
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text
from config.scalars.texts import reason

_SELECTOR_SHAPE = {
    "type": "object",
    "minProperties": 1,
    "propertyNames": {"pattern": f"^{LABEL_KEY}$"},
    "additionalProperties": text(LABEL_VALUE),
}
MtlsMode = Literal["DISABLE", "PERMISSIVE", "STRICT"]


@shaped(_SELECTOR_SHAPE)
def _selector(labels: dict[str, str]) -> dict[str, str]:
    if not labels:
        raise Refused(
            "selector-empty",
            "the selector is empty",
            "it would select every pod of the namespace",
            "use the labels of the service's pods, for example {app: checkout}, or remove it",
        )
    for key, value in labels.items():
        if not re.fullmatch(LABEL_KEY, key) or not re.fullmatch(LABEL_VALUE, value):
            raise Refused(
                "selector-label-format",
                f"{key}: {value!r} is not a label",
                "the API server refuses a selector that cannot match any pod",
                "use the labels of the service's pods, for example {app: checkout}",
            )
    return labels


Selector = Annotated[dict[str, str], AfterValidator(_selector)]
OverrideReason = Annotated[
    str,
    reason(
        "mtls-gate-override-reason",
        "reviewers must learn why clients may be cut off without a measurement",
    ),
]


class MtlsGate(Section):
    """The measurement before a mode becomes STRICT: which clients still use plaintext."""

    example: ClassVar = {"window": "30s"}

    window: Window = Field(default="30s", description="how long nordmesh looks for plaintext")
    override: OverrideReason | None = Field(
        default=None, description="why to set STRICT without a measurement"
    )


class ServiceMtls(Section):
    """The mTLS modes of one service's pods and of their ports."""

    example: ClassVar = {"mode": "STRICT"}

    mode: MtlsMode | None = Field(
        default=None, description="the mTLS mode, if it differs from the namespace's"
    )
    ports: dict[Port, MtlsMode] = Field(
        default={},
        description="the modes of single ports of the pods, by port number",
        examples=[{"9090": "PERMISSIVE"}],
    )
    selector: Selector | None = Field(
        default=None,
        description="the labels of the pods with these modes; by default the service's selector",
    )
