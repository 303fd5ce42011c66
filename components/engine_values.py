"""Values in the encoding of Pulumi's engine, which marks secret and unknown ones."""

from collections.abc import Mapping
from typing import Any

SECRET = "[secret]"  # noqa: S105 (what is shown in the place of one; Pulumi's own word)
UNKNOWN = "[unknown]"

# pulumi/pulumi, sdk/go/common/resource/properties.go and sdk/go/common/resource/plugin/rpc.go.
SIGNATURE = "4dabf18193072939515e22adb298388d"
UNKNOWNS = frozenset(
    (
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    )
)


def cleaned(value: Any) -> Any:
    """Replace each secret in a value by SECRET, and each unknown value by UNKNOWN."""
    if isinstance(value, Mapping):
        if SIGNATURE in value:
            return SECRET
        return {key: cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [cleaned(item) for item in value]
    return UNKNOWN if isinstance(value, str) and value in UNKNOWNS else value


def count_unknown(value: Any) -> int:
    """Count the unknown values in a cleaned value."""
    if isinstance(value, Mapping):
        return sum(count_unknown(item) for item in value.values())
    if isinstance(value, list):
        return sum(count_unknown(item) for item in value)
    return 1 if value == UNKNOWN else 0
