"""Hand a bootstrap token to the join script of a fake machine, as components.join_token does."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TOKEN = "abcdef.0123456789abcdef"  # noqa: S105 (of nobody)
HANDED = f"{TOKEN} 192.0.2.11"


@contextmanager
def handing_over(pipe: Path, line: str = HANDED) -> Iterator[None]:
    """Write a line into the pipe of each script that reads one meanwhile."""
    is_over = threading.Event()

    def write() -> None:
        while not is_over.wait(0.02):
            # ENXIO: nobody reads.
            with suppress(OSError):
                file = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                os.write(file, f"{line}\n".encode())
                os.close(file)
                is_over.wait(0.2)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        is_over.set()
        writer.join()
