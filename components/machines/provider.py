"""The interface of machine providers."""

from collections.abc import Callable
from typing import TypeAlias

import pulumi

from components.remote import Connection
from stacks.config import Machines

Provider: TypeAlias = Callable[[Machines, str, pulumi.Output[str] | None], Connection]
"""(section, node's name, SSH private key of bought machines) -> how to reach that machine."""
