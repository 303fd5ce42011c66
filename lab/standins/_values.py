"""Decode the engine's property values (secrets, unknowns, assets), and compare them."""

from collections.abc import Iterator
from typing import Any

from google.protobuf import struct_pb2  # type: ignore[import-untyped]

from components.engine_values import SIGNATURE, UNKNOWNS

_SECRET = "1b47061264138c4ac30d75fd1eb44270"  # noqa: S105
ASSET = "c44067f5952c0a294b673a41bacd8c17"
ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"
# The unknown value of the type string.
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

Properties = dict[str, Any]


def plain(properties: struct_pb2.Struct) -> Properties:
    """Decode properties to plain Python values, with secrets in the clear: never log the result."""
    return {key: _plain(value) for key, value in properties.fields.items()}


def _plain(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        fields = value.struct_value.fields
        if SIGNATURE in fields and fields[SIGNATURE].string_value == _SECRET:
            return _plain(fields["value"])
        return plain(value.struct_value)
    if kind == "list_value":
        return [_plain(item) for item in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def is_unknown(value: Any) -> bool:
    """Whether a value is unknown until other resources exist, as in a preview."""
    return isinstance(value, str) and value in UNKNOWNS


def signature(value: Any) -> str | None:
    """The special kind of a value (ASSET, ARCHIVE), or None for an ordinary one."""
    return value.get(SIGNATURE) if isinstance(value, dict) else None


def _same_file(old: Any, new: Any) -> bool | None:
    """Whether two assets or archives have the same content; None if their hashes are unknown."""
    if signature(old) is None or signature(old) != signature(new):
        return None
    hashes = old.get("hash"), new.get("hash")
    return hashes[0] == hashes[1] if all(hashes) else None


def _key(path: str, key: str) -> str:
    if key.replace("_", "a").isalnum():
        return f"{path}.{key}" if path else key
    return f'{path}["{key}"]'


_ABSENT = object()


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The paths that differ, each with "add", "delete" or "update", in the order of the keys."""
    if _same_file(old, new) is True:
        return
    if isinstance(old, dict) and isinstance(new, dict) and signature(new) is None:
        for key in sorted(old.keys() | new.keys()):
            if path or not key.startswith("__"):
                yield from differences(
                    old.get(key, _ABSENT), new.get(key, _ABSENT), _key(path, key)
                )
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            before, after = (side[index] if index < len(side) else _ABSENT for side in (old, new))
            yield from differences(before, after, f"{path}[{index}]")
    elif old is _ABSENT or new is _ABSENT:
        if not (old in (_ABSENT, None) and new in (_ABSENT, None)):
            yield path, "add" if old is _ABSENT else "delete"
    elif old != new:
        yield path, "update"
