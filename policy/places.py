"""Where a host is, by the table places.yaml."""

import ipaddress
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from config.eea import EEA

_TABLE = Path(__file__).with_name("places.yaml")
_INSIDE = "inside"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a host is. country: None where the table does not say. law: None inside the EEA."""

    country: str | None
    law: str | None = None

    @property
    def is_inside(self) -> bool:
        """Whether it is a network of one's own."""
        return self.country == _INSIDE

    @property
    def where(self) -> str:
        """The country, or that the name does not say one."""
        return self.country or "its name tells no region of the EEA"

    @property
    def is_in_eea(self) -> bool:
        return self.is_inside or self.country in EEA


def place(host: str) -> Place | None:
    """Where a host is; None for one that no entry of the table fits."""
    host = host.lower().removeprefix("*.").rstrip(".")
    if address := _address(host):
        return Place(country=_INSIDE) if not address.is_global else None
    if "." not in host:
        return Place(country=_INSIDE)  # resolved by the network that it is in
    labels = host.split(".")
    for start in range(len(labels)):
        if entry := _table().get(".".join(labels[start:])):
            return _of_entry(entry, host)
    return None


def _of_entry(entry: dict[str, Any], host: str) -> Place:
    law = entry.get("law")
    if "regions" not in entry:
        return Place(country=entry["country"], law=law)
    for region, country in entry["regions"].items():
        if re.search(rf"(^|[.-]){re.escape(region)}([.-]|$)", host):
            return Place(country=country, law=law)
    return Place(country=None, law=law)


@cache
def _table() -> dict[str, dict[str, Any]]:
    return {entry["host"]: entry for entry in yaml.safe_load(_TABLE.read_text())}


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
