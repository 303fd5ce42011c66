"""Snapshots that a fault or an attacker has altered, in every way that a storage can alter them."""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence

Files = Mapping[str, bytes]
"""The files of a snapshot by their suffix."""

_BLOCK = 64  # bytes


def alterations(
    original: Files, others: Sequence[Files], count: int
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield what was done to a snapshot, and its files afterwards; each differs from the original.

    others: older snapshots of the cluster and those of other clusters, which get its name.
    """
    chance = random.Random(11)  # noqa: S311
    ways = {
        "bit flipped": _flip,
        "cut short": _cut,
        "grown": _grow,
        "block of zeros": _zero,
        "two blocks exchanged": _exchange,
    }
    # Many of them are the smallest fault, which is the hardest to see.
    names = ["bit flipped"] * 4 + list(ways) + ["file of another", "renamed"]
    number, renamed = 0, itertools.cycle(others)
    while number < count:
        name = names[number % len(names)]
        if name == "renamed":
            altered = dict(next(renamed))
        else:
            part = chance.choice(list(original))
            if name == "file of another":
                data = chance.choice(others)[part]
            else:
                data = ways[name](bytearray(original[part]), chance)
            altered = {**original, part: data}
        if altered != original:
            number += 1
            yield name, altered


def _flip(data: bytearray, chance: random.Random) -> bytes:
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def _cut(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data[: chance.randrange(len(data))])


def _grow(data: bytearray, chance: random.Random) -> bytes:
    return bytes(data + chance.randbytes(chance.randrange(1, 9)))


def _zero(data: bytearray, chance: random.Random) -> bytes:
    start = chance.randrange(len(data))
    length = len(data[start : start + _BLOCK])
    data[start : start + length] = bytes(length)
    return bytes(data)


def _exchange(data: bytearray, chance: random.Random) -> bytes:
    first, second = sorted(chance.sample(range(0, len(data) - _BLOCK, _BLOCK), 2))
    one, other = data[first : first + _BLOCK], data[second : second + _BLOCK]
    data[first : first + _BLOCK], data[second : second + _BLOCK] = other, one
    return bytes(data)
