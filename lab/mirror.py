"""`python -m lab.mirror CONFIG`: serve a directory tree over HTTP, read-only.

CONFIG is a JSON file: `directory`, `address`, `port`. Each request is one line on
standard error. It has no users and no TLS: it listens on the lab's bridge only,
and nodes check what they download. An interrupted download can be resumed.
"""

from __future__ import annotations

import json
import re
import sys
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO


class Handler(SimpleHTTPRequestHandler):
    """Serves files, whole or from an offset (`Range: bytes=N-`)."""

    def send_head(self) -> BytesIO | BinaryIO | None:
        path = Path(self.translate_path(self.path))
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None or not path.is_file():
            return super().send_head()
        file = path.open("rb")
        first, size = int(wanted[1]), path.stat().st_size
        if first >= size:
            file.close()
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        file.seek(first)
        self.send_response(HTTPStatus.PARTIAL_CONTENT)
        self.send_header("Content-Type", self.guess_type(path))
        self.send_header("Content-Length", str(size - first))
        self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.end_headers()
        return file


def main(config_file: str) -> None:
    """Serve until the process is ended."""
    config = json.loads(Path(config_file).read_text())
    handler = partial(Handler, directory=config["directory"])
    with ThreadingHTTPServer((config["address"], config["port"]), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
