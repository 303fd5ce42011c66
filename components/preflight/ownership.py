"""Whose cluster a machine is in, when a stack changes it for the first time.

The names of the node and of the endpoint do not tell two stacks apart whose files are copies. The
state does: a node joins only after its own resource is recorded there.
"""

from components.preflight import judge
from components.preflight.facts import Measured
from components.preflight.findings import Finding
from config import StackConfig
from config.errors import step


def owned_elsewhere(config: StackConfig, name: str, measured: Measured) -> Finding | None:
    """The finding about a machine that is in a cluster before this stack has changed it."""
    if not measured.facts.is_member:
        return None
    finding = Finding(
        check="in-use",
        nodes=(name,),
        measured="it is a node of a cluster already, and the state of this stack does not have it",
        limit="a machine that no other stack uses",
        fix="use another machine, or remove the node from the other stack file and run `pulumi "
        "up` there. If the state of this stack was lost and the machine is its own, write that at "
        f"nordmesh:machines.nodes{step(name)}.adopt",
    )
    return judge.waived(config, finding)
