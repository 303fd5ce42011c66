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
    """The value of a Kubernetes quantity such as 100m (0.1 cores) or 128Mi (in bytes)."""
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
            "cpu-format",
            f"{value!r} is not a CPU quantity",
            "CPU is in cores (2, 0.5) or in thousandths of a core (500m)",
            "use a value such as 500m or 2",
        )
    return value


@shaped({"type": ["string", "integer"], "pattern": rf"^{_AMOUNT}{_UNIT}$", "minimum": 2**20})
def _memory(value: str) -> str:
    if not _QUANTITY.fullmatch(value) or quantity(value) <= 0:
        raise Refused(
            "memory-format",
            f"{value!r} is not a memory quantity",
            "memory is in bytes, with a unit such as Mi (1024 x 1024 bytes) or Gi",
            "use a value such as 128Mi",
        )
    if quantity(value) < 1024 * 1024:
        raise Refused(
            "memory-minimum",
            f"{value} of memory is less than a mebibyte",
            "a proxy could not start with it; without a unit, memory is in bytes, and m "
            "means thousandths",
            f"use {value.rstrip('mkK')}Mi",
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
            "storage-format",
            f"{value!r} is not a storage quantity",
            "storage is in bytes, with a unit such as Gi (1024 x 1024 x 1024 bytes)",
            "use a value such as 10Gi",
        )
    if size < quantity("1Gi"):
        raise Refused(
            "storage-minimum",
            f"{value} of storage is less than a gibibyte",
            "in a small mesh, Prometheus' write-ahead log alone takes several hundred megabytes",
            "use at least 1Gi",
        )
    return value


Cpu = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_cpu)]
Memory = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_memory)]
StorageSize = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_storage_size)]
