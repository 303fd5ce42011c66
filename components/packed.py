"""Texts that travel packed in a script or in one of its settings."""

import base64

import deflate

_LEVEL = 9


def packed(text: str) -> str:
    """A text, gzip in base64; the same on every machine that has the locked packages.

    Python's own gzip is not: it writes its platform into the head, and compresses with whichever
    zlib the system has. A colleague's run would then change every script.
    """
    return base64.b64encode(deflate.gzip_compress(text.encode(), _LEVEL)).decode()


def unpacked(text: str) -> str:
    """What was packed."""
    return deflate.gzip_decompress(base64.b64decode(text)).decode()
