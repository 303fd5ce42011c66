"""Who may talk in plaintext: modes, and the gate before STRICT."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from stacks.config.base import Section
from stacks.durations import Window
from stacks.fields import Port, Refused

MtlsMode = Literal["DISABLE", "PERMISSIVE", "STRICT"]

_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_LABEL_KEY = re.compile(
    r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
)


def _selector(labels: dict[str, str]) -> dict[str, str]:
    if not labels:
        raise Refused(
            "the selector is empty",
            "it would select every pod of the namespace, which has a mode of its own",
            "write the labels of the service's pods, such as {app: checkout}, or remove it",
        )
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise Refused(
                f"{key}: {value!r} is not a label",
                "the API server refuses a selector that no pod's labels can match",
                "write the labels of the service's pods, such as {app: checkout}",
            )
    return labels


def _override(value: str) -> str:
    if len(value.strip()) >= 10:
        return value.strip()
    raise Refused(
        f"{value!r} is not a reason that a reader could judge",
        "whoever reviews the change must learn why clients may be cut off unmeasured",
        "write a sentence of at least 10 characters, or remove the key",
    )


Selector = Annotated[dict[str, str], AfterValidator(_selector)]
OverrideReason = Annotated[str, AfterValidator(_override)]


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
        default=None, description="the labels of the service's pods; without it, app: its name"
    )
