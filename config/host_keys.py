"""The rotation of the SSH host key of a machine whose data cannot be recreated."""

from typing import Annotated

from pydantic import Field

from config.base import Section
from config.scalars.ssh import EXAMPLE_HOST_KEY, FormerHostKey
from config.scalars.texts import reason

RotationReason = Annotated[
    str,
    reason(
        "host-key-rotation-reason",
        "reviewers must learn how you verified that it is the same machine",
    ),
]


class HostKeyRotation(Section):
    """Confirms that a machine with a new SSH host key is the same machine."""

    previous: FormerHostKey = Field(
        description="the machine's previous host key; a change from any other key is refused",
        examples=[EXAMPLE_HOST_KEY],
    )
    reason: RotationReason = Field(
        description="how you know that it is the same machine, in at least 10 characters",
        examples=["sshd's keys were rotated; the new one was read on the console"],
    )
