"""A mirror that interrupts downloads and records requests."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lab.mirror import Handler


@dataclass
class Mirror:
    """Address, faults and recorded requests (path, first byte of the range) of a mirror.

    cuts: how many more responses end after `after` bytes. is_silent: they stay open then, and no
    more arrives, until the client goes. has_ranges: whether it supports range
    requests. statuses: status codes of the first responses, instead of a file.
    """

    address: str
    cuts: int = 0
    after: int = 0
    is_silent: bool = False
    has_ranges: bool = True
    statuses: list[int] = field(default_factory=list)
    requests: list[tuple[str, int]] = field(default_factory=list)


class _Cutting(Handler):
    def __init__(self, mirror: Mirror, *args: Any, **kwargs: Any) -> None:
        self._mirror = mirror
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        first = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
        self._mirror.requests.append((self.path, int(first)))
        if self._mirror.statuses:
            self.send_error(self._mirror.statuses.pop(0))
            return
        if not self._mirror.has_ranges:
            del self.headers["Range"]
        super().do_GET()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        if self._mirror.cuts:
            self._mirror.cuts -= 1
            outputfile.write(source.read(self._mirror.after))
            if self._mirror.is_silent:
                outputfile.flush()
                self.rfile.read(1)
            self.close_connection = True
            return
        super().copyfile(source, outputfile)

    def log_message(self, *_args: object) -> None:
        """Keep the output of the tests clean."""


class _Server(ThreadingHTTPServer):
    def handle_error(self, *_args: object) -> None:
        """Ignore clients that close the connection early."""


@contextmanager
def serving(directory: Path, host: str = "127.0.0.1") -> Iterator[Mirror]:
    """Serve a directory as a mirror on a free port."""
    mirror = Mirror(address="")
    handler = partial(_Cutting, mirror, directory=str(directory))
    with _Server((host, 0), handler) as server:
        mirror.address = f"http://{host}:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield mirror
        finally:
            server.shutdown()
