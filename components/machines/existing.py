"""A machine that there is already: a bought VPS."""

import pulumi

from components.machines.provider import through
from components.remote import Connection, PrivateKey
from config import ExistingNode, Machines


def existing(
    machines: Machines,
    name: str,
    private_key: PrivateKey | None,
    immutable: pulumi.ResourceHookBinding,
) -> Connection:
    """The login of a bought machine, through its bastion if it has one; makes nothing.

    Raises ValueError without a key, which the config's checks have asked for by then.
    """
    del immutable
    node = machines.nodes[name]
    if not isinstance(node, ExistingNode) or private_key is None:
        raise ValueError(f"{name} is no existing node, or nordmesh:sshPrivateKey is missing")
    login = machines.login(node)
    return Connection(
        host=node.address,
        user=login.user,
        port=login.port,
        private_key=private_key,
        host_key=node.host_key,
        bastion=through(login.bastion, private_key),
    )
