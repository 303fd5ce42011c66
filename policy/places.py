"""The country of a host, by the table places.yaml."""

import ipaddress
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from config.countries import EEA

_TABLE = Path(__file__).with_name("places.yaml")
_INSIDE = "inside"


@dataclass(frozen=True, kw_only=True)
class Location:
    """A host's country, None if the table has none. law: None if it is that of the EEA."""

    country: str | None
    law: str | None = None

    @property
    def is_inside(self) -> bool:
        """Whether the host is in the owner's own network."""
        return self.country == _INSIDE

    @property
    def country_in_words(self) -> str:
        """The country, or that it is unknown."""
        return self.country or "its name has no region of the EEA"

    @property
    def is_in_eea(self) -> bool:
        return self.is_inside or self.country in EEA


def locate(host: str) -> Location | None:
    """Look a host up; None if no entry matches."""
    host = host.lower().removeprefix("*.").rstrip(".")
    if address := _address(host):
        return Location(country=_INSIDE) if not address.is_global else None
    if "." not in host:
        return Location(country=_INSIDE)  # resolved by its own network
    labels = host.split(".")
    for start in range(len(labels)):
        if entry := _table().get(".".join(labels[start:])):
            return _of_entry(entry, host)
    return None


def _of_entry(entry: dict[str, Any], host: str) -> Location:
    law = entry.get("law")
    if "regions" not in entry:
        return Location(country=entry["country"], law=law)
    for region, country in entry["regions"].items():
        if re.search(rf"(^|[.-]){re.escape(region)}([.-]|$)", host):
            return Location(country=country, law=law)
    return Location(country=None, law=law)


@cache
def _table() -> dict[str, dict[str, Any]]:
    return {entry["host"]: entry for entry in yaml.safe_load(_TABLE.read_text())}


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
