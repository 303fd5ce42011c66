"""Check counted shares, and wait for conditions, in live tests."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_Found = TypeVar("_Found")

# Two-sided 99.99% of the normal distribution, because many shares are counted.
_SIGMAS = 3.89


def assert_share(count: int, requests: int, percent: float) -> None:
    """Check that a counted share matches a percentage, within the limits of chance."""
    share = percent / 100
    band = _SIGMAS * math.sqrt(share * (1 - share) / requests)
    message = f"{count} of {requests} at {percent}%, give or take {band:.2%}"
    print(message)
    assert abs(count / requests - share) <= band, message


def wait_for(description: str, result: Callable[[], _Found], *, seconds: float) -> _Found:
    """Call a function until it returns a true value, and return that value."""
    deadline = time.monotonic() + seconds
    while not (value := result()):
        assert time.monotonic() < deadline, f"not in {seconds:.0f} s: {description}"
        time.sleep(1)
    return value


@contextmanager
def repeated(call: Callable[[], _Found]) -> Iterator[list[_Found]]:
    """Call a function again and again while the block runs; the list then has every result."""
    results: list[_Found] = []
    ended = threading.Event()

    def repeat() -> None:
        while not ended.is_set():
            results.append(call())

    with ThreadPoolExecutor() as threads:
        repeating = threads.submit(repeat)
        try:
            yield results
        finally:
            ended.set()
        repeating.result()
