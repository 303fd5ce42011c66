"""The interface of machine providers."""

from collections.abc import Callable
from typing import TypeAlias

import pulumi

from components.remote import Connection, PrivateKey
from config import Bastion, Hypervisor, Machines

Provider: TypeAlias = Callable[
    [Machines, str, PrivateKey | None, pulumi.ResourceHookBinding], Connection
]
"""(section, name of the node, SSH private key except for containers, hook that refuses changes of a
machine with data) -> the login of that machine."""


def login(machine: Bastion | Hypervisor, private_key: PrivateKey) -> Connection:
    """The login of a machine that is not a node."""
    return Connection(
        host=machine.address,
        user=machine.user,
        port=machine.port,
        private_key=private_key,
        host_key=machine.host_key,
    )


def through(bastion: Bastion | None, private_key: PrivateKey) -> Connection | None:
    """The login of a bastion, None without one."""
    return login(bastion, private_key) if bastion else None
