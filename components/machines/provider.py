"""The interface of machine providers."""

from collections.abc import Callable
from typing import TypeAlias

import pulumi

from components.remote import Connection, PrivateKey
from config import Bastion, Hypervisor, Machines

Provider: TypeAlias = Callable[
    [Machines, str, PrivateKey | None, pulumi.ResourceHookBinding], Connection
]
"""(section, node's name, SSH private key of all but containers, what refuses changes of a machine
with data) -> how to reach that machine."""


def login(machine: Bastion | Hypervisor, private_key: PrivateKey) -> Connection:
    """The login of a machine that is no node."""
    return Connection(
        host=machine.address,
        user=machine.user,
        port=machine.port,
        private_key=private_key,
        host_key=machine.host_key,
    )


def through(bastion: Bastion | None, private_key: PrivateKey) -> Connection | None:
    """The login of a bastion; None where there is none."""
    return login(bastion, private_key) if bastion else None
