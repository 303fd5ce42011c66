"""Why a test failed, on one line for pytest's summary, which is all that the end of a log has."""

# How the engine and nordmesh's scripts begin an error; the engine's last one says nothing.
_ERRORS = ("error:", "ERROR on node")
_FAILED = "error: update failed"
# What pytest adds to the message of an assertion.
_COMPARISON = "\nassert "


def reason(message: str) -> str:
    """Return the errors in a failure's message, or else its first and its last line."""
    lines = [line.strip() for line in message.partition(_COMPARISON)[0].splitlines()]
    lines = [line for line in lines if line]
    if len(lines) < 2 or "assert " in lines[0]:
        return message
    errors = [line for line in lines if any(word in line for word in _ERRORS) and line != _FAILED]
    return " | ".join(errors or [lines[0], lines[-1]])
