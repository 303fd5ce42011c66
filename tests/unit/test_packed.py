"""Texts that travel packed."""

import base64
import gzip
import hashlib

from components.packed import packed, unpacked

TEXT = "\n".join(f"{n}: {n * n * 7919 % 10007}" for n in range(1000))


def test_a_text_is_packed_alike_wherever_it_is_packed() -> None:
    """Not by a system's zlib nor by a version of Python, so that nobody else's run differs."""
    digest = hashlib.sha256(packed(TEXT).encode()).hexdigest()
    assert digest == "eb6a4c32b442e95fea54de57b6f1f42274e8049e76fbddc9810ca970961a4eb8"


def test_gunzip_and_this_program_read_it() -> None:
    assert unpacked(packed(TEXT)) == TEXT
    assert gzip.decompress(base64.b64decode(packed(TEXT))).decode() == TEXT
