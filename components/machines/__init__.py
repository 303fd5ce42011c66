"""The machine providers. No code outside this package knows the provider of a machine."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi

from components.machines.container import container
from components.machines.existing import existing
from components.machines.kvm import kvm
from components.machines.provider import Guards, Provider
from components.remote.script import Connection, PrivateKey
from components.rollout import Rollout
from config import Machines, Role

_PROVIDERS: Mapping[str, Provider] = {
    "container": container,
    "existing": existing,
    "kvm": kvm,
}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A machine that answers SSH, without its provider.

    address: for SSH and for people. cluster_address: for the other nodes; the same, unless the
    machine has an address in a private network.
    """

    name: str
    role: Role
    address: str
    cluster_address: str
    connection: Connection

    @property
    def private_address(self) -> str | None:
        """The address in the private network; None if the machine has one address."""
        return self.cluster_address if self.cluster_address != self.address else None


def make_machines(
    machines: Machines,
    *,
    private_key: PrivateKey | None,
    immutable: pulumi.ResourceHookBinding,
    rollout: Rollout,
) -> list[Machine]:
    """The machines of the stack, sorted by name; creates those that do not exist yet.

    private_key: logs in to nodes of the providers `existing` and `kvm`. immutable: refuses changes
    of machines with data. rollout: the order in which machines of a running cluster change.
    """
    connections: dict[str, Connection] = {}
    guards = Guards(
        immutable=immutable,
        rollout=rollout,
        control_planes=lambda: {name: connections[name] for name, _ in machines.control_planes},
    )
    for name, node in sorted(machines.nodes.items()):
        connections[name] = _PROVIDERS[node.provider](machines, name, private_key, guards)
    return [
        Machine(
            name=name,
            role=machines.nodes[name].role,
            address=machines.nodes[name].address,
            cluster_address=machines.nodes[name].cluster_address,
            connection=connection,
        )
        for name, connection in connections.items()
    ]
