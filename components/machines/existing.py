"""A machine that there is already: a bought VPS."""

import pulumi

from components.remote import Connection
from stacks.config import ExistingNode, Machines


def existing(
    machines: Machines, name: str, ssh_private_key: pulumi.Output[str] | None
) -> Connection:
    """The login of a bought machine; makes nothing.

    Raises ValueError without a key, which the config's checks have asked for by then.
    """
    node = machines.nodes[name]
    if not isinstance(node, ExistingNode) or ssh_private_key is None:
        raise ValueError(f"{name} is no existing node, or nordmesh:sshPrivateKey is missing")
    login = machines.login(node)
    return Connection(
        host=node.address,
        user=login.user,
        port=login.port,
        private_key=ssh_private_key,
        host_key=node.host_key,
    )
