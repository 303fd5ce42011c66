"""The interface of machine providers."""

from collections.abc import Callable
from typing import TypeAlias

from components.remote import Connection, PrivateKey
from stacks.config import Bastion, Machines

Provider: TypeAlias = Callable[[Machines, str, PrivateKey | None], Connection]
"""(section, node's name, SSH private key of all but containers) -> how to reach that machine."""


def through(bastion: Bastion | None, private_key: PrivateKey) -> Connection | None:
    """The login of a bastion; None where there is none."""
    if bastion is None:
        return None
    return Connection(
        host=bastion.address,
        user=bastion.user,
        port=bastion.port,
        private_key=private_key,
        host_key=bastion.host_key,
    )
