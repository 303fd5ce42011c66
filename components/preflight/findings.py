"""What the checks of the preflight take and give: a measured node, and a finding about it."""

from dataclasses import dataclass

from components.preflight import needs
from components.preflight.facts import Facts, Measured
from config import StackConfig


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A check that failed: the measured value, its limit, and the fix.

    nodes: one, or the two ends of a path. refuses: False for a warning. waived: the reason of an
    override.
    """

    check: str
    nodes: tuple[str, ...]
    measured: str
    limit: str
    fix: str
    refuses: bool = True
    waived: str | None = None

    @property
    def stops(self) -> bool:
        """Whether an update must not change a new node."""
        return self.refuses and self.waived is None

    @property
    def code(self) -> str:
        """The name in reports, which never changes."""
        return f"preflight-{self.check}"


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that could be measured, as the checks need it."""

    name: str
    config: StackConfig
    facts: Facts
    measured: Measured

    @property
    def is_etcd(self) -> bool:
        return bool(needs.etcd_ports(self.config, self.name))

    def finding(
        self, check: str, measured: str, limit: str, fix: str, *, refuses: bool = True
    ) -> Finding:
        return Finding(
            check=check,
            nodes=(self.name,),
            measured=measured,
            limit=limit,
            fix=fix,
            refuses=refuses,
        )
