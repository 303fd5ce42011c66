"""YAML as Pulumi's engine reads it: by Go's yaml.v3, whose rules are those of YAML 1.2.

PyYAML follows YAML 1.1, in which 22:22 is a number, `no` is false, and of two equal keys the last
one counts. The rules here are those of yaml.v3's resolve.go, and of the JSON that Pulumi makes.
"""

import json
import math
import re
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE", "false", "False", "FALSE"), "bool"),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), "null"),
    **{f"{sign}.{word}": "float" for sign in ("", "+", "-") for word in ("inf", "Inf", "INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), "float"),
    "<<": "merge",
}
_INT = re.compile(r"[-+]?(0[xX][0-9a-fA-F]+|0[bB][01]+|0[oO]?[0-7]+|0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TIME = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:([Tt ])([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(\.[0-9]{1,9})?(Z|[-+][0-9]{2}:[0-9]{2})?)?"
)
_MOST_EXACT = 2**53  # JSON in Go has floats, which round larger integers


def load(text: str) -> Any:
    """The first document of a text; raises yaml.YAMLError.

    Every key is text. Raises RecursionError if an alias contains itself.
    """
    return next(iter(yaml.load_all(text, Loader=_Loader)), None)


def compose(text: str) -> yaml.Node | None:
    """The nodes of the first document of a text, with their positions; raises yaml.YAMLError."""
    return next(iter(yaml.compose_all(text, Loader=_Loader)), None)


def value_of(node: yaml.Node) -> Any:
    """The value of a node."""
    return _Loader("").construct_document(node)


def as_text(value: object) -> object:
    """A value directly below `config:`, where every scalar is text."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool | int | float) else value


class _Loader(yaml.SafeLoader):
    """A safe loader with the rules of yaml.v3."""

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode:
            # yaml.v3 also merges below a key in quotes.
            is_plain = implicit[0] or value == "<<"
            return _TAG + (_tag(value) if is_plain else "str")
        return _TAG + ("map" if kind is yaml.MappingNode else "seq")

    def scan_to_next_token(self) -> None:
        """Skip spaces and comments, and tabs where a line has begun, as yaml.v3 does."""
        super().scan_to_next_token()
        while (self.flow_level or not self.allow_simple_key) and self.peek() == "\t":
            self.forward()
            super().scan_to_next_token()

    def process_directives(self) -> Any:
        version, tags = super().process_directives()  # type: ignore[no-untyped-call]
        if self.yaml_version not in (None, (1, 1)):
            raise yaml.scanner.ScannerError(problem="the engine reads no YAML but %YAML 1.1")
        return version, tags

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.NodeEvent) and not isinstance(event, yaml.AliasEvent):
            self.anchors.pop(event.anchor, None)  # an anchor may be used again
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key.value} is there twice, in line {lines[key.value]} and "
                    f"in line {line}"
                )
            lines[str(key.value)] = line
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        mapping = super().construct_mapping(node, deep=deep)
        return {_key(key): value for key, value in mapping.items()}


def _tag(value: str) -> str:
    """The short tag of a plain scalar."""
    if value in _WORDS:
        return _WORDS[value]
    plain = value.replace("_", "")
    if not value or value[0] not in "+-.0123456789":
        return "str"
    if _time(value) is not None:
        return "timestamp"
    if value[0] != "." and _INT.fullmatch(plain):
        return "int"
    return "float" if _FLOAT.fullmatch(value if value[0] == "." else plain) else "str"


def _time(value: str) -> datetime | None:
    match = _TIME.fullmatch(value)
    if match is None:
        return None
    year, month, day, separator, hour, minute, second, fraction, zone = match.groups()
    if (separator in ("T", "t")) != (zone is not None):
        return None
    offset = UTC if zone in (None, "Z") else None
    if offset is None:
        sign = -1 if zone[0] == "-" else 1
        offset = timezone(sign * timedelta(hours=int(zone[1:3]), minutes=int(zone[4:])))
    try:
        whole = datetime(
            int(year), int(month), int(day), int(hour or 0), int(minute or 0), int(second or 0),
            tzinfo=offset,
        )  # fmt: skip
    except ValueError:
        return None
    return whole.replace(microsecond=int((fraction or ".0")[1:7].ljust(6, "0")))


def _go_time(value: datetime) -> str:
    """A time as Go prints it."""
    zone = "+0000 UTC" if value.tzinfo is UTC else f"{value:%z} {value:%z}"
    fraction = f".{value:%f}".rstrip("0").rstrip(".")
    return f"{value:%Y-%m-%d %H:%M:%S}{fraction} {zone}"


def _key(value: Any) -> str:
    """The key of a mapping as Go prints it."""
    if value is None:
        return "<nil>"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "").lower()
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    if re.fullmatch(r"0o?[0-7]+", digits):
        number = int(digits.replace("o", ""), 8)
    else:
        number = int(digits, 0)
    return sign * number if number <= _MOST_EXACT else _json_number(float(sign * number))


def _float(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    text = str(loader.construct_scalar(node)).replace("_", "")
    number = math.nan if text[-1].isalpha() else float(text)
    if not math.isfinite(number):
        raise yaml.constructor.ConstructorError(
            problem=f"{text} in line {node.start_mark.line + 1} is not a number that JSON has"
        )
    return _json_number(number)


def _json_number(number: float) -> int | float:
    """A number as it is after Go wrote it in JSON: a whole number without a fraction."""
    return int(Decimal(repr(number))) if number.is_integer() and abs(number) < 1e21 else number


def _timestamp(loader: _Loader, node: yaml.ScalarNode) -> str:
    value = _time(str(loader.construct_scalar(node)))
    return _go_time(value) if value is not None else str(node.value)


def _other(loader: _Loader, node: yaml.Node) -> Any:
    """The value of a node with an unknown tag, which yaml.v3 ignores."""
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


def _boolean(loader: _Loader, node: yaml.ScalarNode) -> bool:
    text = str(loader.construct_scalar(node))
    if _WORDS.get(text) != "bool":
        raise yaml.constructor.ConstructorError(
            problem=f"{text} in line {node.start_mark.line + 1} is neither true nor false"
        )
    return text.lower() == "true"


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise yaml.constructor.ConstructorError(
            problem=f"line {node.start_mark.line + 1} has half of a character (\\ud800 to \\udfff)"
        )
    return text


def _binary(loader: _Loader, node: yaml.ScalarNode) -> str:
    return loader.construct_yaml_binary(node).decode(errors="replace")


for _name, _construct in (
    ("bool", _boolean),
    ("str", _text),
    ("int", _integer),
    ("float", _float),
    ("timestamp", _timestamp),
    ("binary", _binary),
    ("set", _other),
    ("omap", _other),
    ("pairs", _other),
):
    _Loader.add_constructor(f"{_TAG}{_name}", _construct)
_Loader.add_constructor(None, _other)
