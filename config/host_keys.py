"""A new SSH host key of a machine that holds what cannot be made anew."""

from typing import Annotated

from pydantic import Field

from config.base import Section
from config.scalars.ssh import EXAMPLE_HOST_KEY, HostKey
from config.scalars.texts import reason

RotationReason = Annotated[
    str,
    reason(
        "host-key-rotation-reason",
        "reviewers must learn how you verified that it is the same machine",
    ),
]


class HostKeyRotation(Section):
    """States that a machine is the same one under a new SSH host key."""

    previous: HostKey = Field(
        description="the host key that the machine had before; a change from any other is refused",
        examples=[EXAMPLE_HOST_KEY],
    )
    reason: RotationReason = Field(
        description="why it is the same machine, in at least 10 characters",
        examples=["sshd's keys were made anew; the new one was read on the console"],
    )
