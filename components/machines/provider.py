"""The interface of machine providers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import pulumi

from components.remote.script import Connection, PrivateKey
from components.rollout import Rollout
from config import Bastion, Hypervisor, Machines


@dataclass(frozen=True, kw_only=True)
class Guards:
    """What guards the machines of a running cluster.

    immutable: refuses changes of machines with data. rollout: the order in which they change.
    control_planes: the logins of those that can drain nodes; known once all machines are made.
    """

    immutable: pulumi.ResourceHookBinding
    rollout: Rollout
    control_planes: Callable[[], Mapping[str, Connection]]


Provider: TypeAlias = Callable[[Machines, str, PrivateKey | None, Guards], Connection]
"""(section, name of the node, SSH private key except for containers, guards) -> the login of that
machine."""


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
