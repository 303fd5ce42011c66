"""The interface of machine providers."""

from collections.abc import Callable
from typing import TypeAlias

from components.remote import Connection, PrivateKey
from stacks.config import Machines

Provider: TypeAlias = Callable[[Machines, str, PrivateKey | None], Connection]
"""(section, node's name, SSH private key of bought machines) -> how to reach that machine."""
