"""Golden files: what a function returned when someone last reviewed it."""

import os

from tests.support.paths import UNIT

GOLDEN = UNIT / "golden"


def check(file: str, text: str) -> None:
    """Compare a text with its golden file, which `make golden` rewrites first."""
    path = GOLDEN / file
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), f"{file} differs; run `make golden` to rewrite it"
