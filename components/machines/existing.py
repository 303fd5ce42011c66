"""A machine that already exists: a bought VPS."""

from components.machines.provider import Guards, through
from components.remote.script import Connection, PrivateKey
from config import ExistingNode, Machines


def existing(
    machines: Machines,
    name: str,
    private_key: PrivateKey | None,
    guards: Guards,
) -> Connection:
    """The login of a bought machine, through its bastion if it has one; creates nothing.

    Raises ValueError without a key; the checks of the config require one.
    """
    del guards
    node = machines.nodes[name]
    if not isinstance(node, ExistingNode) or private_key is None:
        raise ValueError(f"{name} is not an existing node, or nordmesh:sshPrivateKey is missing")
    login = machines.login(node)
    return Connection(
        host=node.address,
        user=login.user,
        port=login.port,
        private_key=private_key,
        host_key=node.host_key,
        bastion=through(login.bastion, private_key),
    )
