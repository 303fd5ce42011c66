"""Shares that live tests count, and conditions that they wait for."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")

# Two-sided 99.99% of the normal distribution: many shares are counted, and each is right by chance.
_SIGMAS = 3.89


def assert_share(count: int, requests: int, percent: float) -> None:
    """Check that a counted share fits a percentage, within the limits of chance."""
    share = percent / 100
    band = _SIGMAS * math.sqrt(share * (1 - share) / requests)
    said = f"{count} of {requests} at {percent}%, give or take {band:.2%}"
    print(said)
    assert abs(count / requests - share) <= band, said


def wait_for(what: str, found: Callable[[], _Found], *, seconds: float) -> _Found:
    """Call a function until it returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {what}"
        time.sleep(1)
    return value
