"""`python -m lab.mirror CONFIG`: serve a directory tree over HTTP, read-only.

CONFIG is a JSON file: `directory`, `address`, `port`. Each request is one line on
standard error. It knows no users and no TLS: it listens on the lab's bridge only,
and nodes check what they download.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


def main(config_file: str) -> None:
    """Serve until the process is ended."""
    config = json.loads(Path(config_file).read_text())
    handler = partial(SimpleHTTPRequestHandler, directory=config["directory"])
    with ThreadingHTTPServer((config["address"], config["port"]), handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
