"""A machine that there is already: a bought VPS."""

from components.remote import Connection, PrivateKey
from stacks.config import Bastion, ExistingNode, Machines


def existing(machines: Machines, name: str, private_key: PrivateKey | None) -> Connection:
    """The login of a bought machine, through its bastion if it has one; makes nothing.

    Raises ValueError without a key, which the config's checks have asked for by then.
    """
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
        bastion=_bastion(login.bastion, private_key) if login.bastion else None,
    )


def _bastion(bastion: Bastion, private_key: PrivateKey) -> Connection:
    return Connection(
        host=bastion.address,
        user=bastion.user,
        port=bastion.port,
        private_key=private_key,
        host_key=bastion.host_key,
    )
