"""Public keys of age, with their checksum."""

from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped, text

# Bech32 (BIP 173).
_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATORS = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_PREFIX = "age"
_LENGTH = 62
_REMEDY = (
    "run `age-keygen -o key.txt` on a machine of the team, and use the public key that it prints"
)


@shaped(text(rf"{_PREFIX}1[{_ALPHABET}]{{58}}"))
def _age_key(value: str) -> str:
    key = value.strip()
    if "AGE-SECRET-KEY-" in key.upper():
        raise Refused(
            "age-key-private",
            "this is the private half of an age key",
            "anyone who can read the stack file or its git history can decrypt every snapshot",
            f"this key is no longer secret, so make another one: {_REMEDY}",
        )
    data = key.removeprefix(f"{_PREFIX}1")
    if data == key or len(key) != _LENGTH or set(data) - set(_ALPHABET):
        raise Refused(
            "age-key-format",
            f"{key!r} is not a public key of age",
            "snapshots are encrypted to it, and nothing else can decrypt them",
            _REMEDY,
        )
    if _checksum(data) != 1:
        raise Refused(
            "age-key-checksum",
            f"{key!r} has a typing error: its checksum is wrong",
            "no snapshot could be encrypted to it",
            "copy the whole key from the first lines of its key file",
        )
    return key


def _checksum(data: str) -> int:
    expanded = [*(ord(letter) >> 5 for letter in _PREFIX), 0]
    expanded += [ord(letter) & 31 for letter in _PREFIX]
    checksum = 1
    for value in (*expanded, *map(_ALPHABET.index, data)):
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATORS):
            checksum ^= generator if top >> bit & 1 else 0
    return checksum


AgeKey = Annotated[str, AfterValidator(_age_key)]
