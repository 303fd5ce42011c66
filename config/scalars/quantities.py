"""Kubernetes quantities: CPU, memory and storage."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped

_QUANTITY = re.compile(r"(?P<number>\d+(\.\d+)?)(?P<unit>[mkMGTPE]|[KMGTPE]i|)")
_AMOUNT, _UNIT = r"\d+(\.\d+)?", r"([kMGTPE]|[KMGTPE]i)?"
_UNITS = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
}


def quantity(value: str) -> Decimal:
    """The value of a Kubernetes quantity, such as 100m (0.1 cores) or 128Mi (bytes)."""
    match = _QUANTITY.fullmatch(value)
    if match is None:
        raise ValueError(f"not a quantity: {value!r}")
    return Decimal(match["number"]) * _UNITS[match["unit"]]


def _number_as_text(value: Any) -> Any:
    # `cpu: 2` in YAML is a number.
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return value


@shaped({"type": ["string", "number"], "pattern": rf"^{_AMOUNT}m?$", "exclusiveMinimum": 0})
def _cpu(value: str) -> str:
    match = _QUANTITY.fullmatch(value)
    if match is None or match["unit"] not in ("", "m") or quantity(value) <= 0:
        raise Refused(
            f"{value!r} is not an amount of CPU",
            "CPU is counted in cores (2, 0.5) or in thousandths of a core (500m)",
            "write such as 100m or 2",
        )
    return value


@shaped({"type": ["string", "integer"], "pattern": rf"^{_AMOUNT}{_UNIT}$", "minimum": 2**20})
def _memory(value: str) -> str:
    if not _QUANTITY.fullmatch(value) or quantity(value) <= 0:
        raise Refused(
            f"{value!r} is not an amount of memory",
            "memory is counted in bytes, with a unit such as Mi (1024 x 1024 bytes) or Gi",
            "write such as 128Mi",
        )
    if quantity(value) < 1024 * 1024:
        raise Refused(
            f"{value} of memory is less than a mebibyte",
            "a proxy could not start with it; without a unit it is bytes, and m means thousandths",
            f"write {value.rstrip('mkK')}Mi",
        )
    return value


@shaped({"type": ["string", "integer"], "pattern": rf"^{_AMOUNT}{_UNIT}$", "minimum": 2**30})
def _storage_size(value: str) -> str:
    try:
        size = quantity(value)
    except ValueError:
        size = Decimal(0)
    if size <= 0:
        raise Refused(
            f"{value!r} is not an amount of storage",
            "storage is counted in bytes, with a unit such as Gi (1024 x 1024 x 1024 bytes)",
            "write such as 10Gi",
        )
    if size < quantity("1Gi"):
        raise Refused(
            f"{value} of storage is less than a gibibyte",
            "Prometheus' write-ahead log alone takes some hundred megabytes in a small mesh",
            "write at least 1Gi",
        )
    return value


Cpu = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_cpu)]
Memory = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_memory)]
StorageSize = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_storage_size)]
