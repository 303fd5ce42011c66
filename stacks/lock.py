"""`python -m stacks.lock`: record upstream's published checksums of what the catalogue lists.

Adds what the lock lacks and prints it for review; never changes an entry that is there, so that a
checksum which upstream changed afterwards is found, not followed.
"""

import argparse
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from stacks import catalogue

Fetch = Callable[[str], str]


def checksum_of(download: catalogue.Download, published: str) -> str:
    """The sha256 in the text of a published `.sha256` file: hex, or hex and the file's name.

    LockError if it is neither, or is of another file.
    """
    sha256, _, name = published.strip().partition(" ")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise catalogue.LockError("what is published there is not a sha256")
    file = download.url.rpartition("/")[2]
    if name and name.strip().lstrip("*").rpartition("/")[2] != file:
        raise catalogue.LockError(f"the sha256 published there is of {name.strip()}, not of {file}")
    return sha256.lower()


def fetch_from(base: str | None) -> Fetch:
    """A function that gets text from an https address, or from the same layout below `base`."""
    if base is not None and not re.match(r"https?://", base):
        raise catalogue.LockError(f"--base {base} is not an http or https address")

    def fetch(url: str) -> str:
        address = url if base is None else f"{base.rstrip('/')}/{url.partition('://')[2]}"
        # The scheme is http or https: ours, or checked above.
        with urllib.request.urlopen(address, timeout=30) as response:  # noqa: S310
            return str(response.read(4096), "ascii")

    return fetch


def add_missing(path: Path, fetch: Fetch) -> tuple[dict[str, str], dict[str, str]]:
    """Write the checksums that the lock at path lacks; return what was added and what failed, why.

    An absent lock is made; one that cannot be read is a LockError.
    """
    lock = catalogue.read_lock(path) if path.exists() else catalogue.Lock(binaries={})
    added: dict[str, str] = {}
    failed: dict[str, str] = {}
    for download in lock.missing(catalogue.all_downloads()):
        try:
            added[download.key] = checksum_of(download, fetch(f"{download.url}.sha256"))
        except (OSError, UnicodeDecodeError, catalogue.LockError) as error:
            failed[download.key] = str(error)
    if added:
        content = {"binaries": {**lock.binaries, **added}}
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    return added, failed


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code: 1 if a checksum could not be had."""
    parser = argparse.ArgumentParser(prog="python -m stacks.lock", description=__doc__)
    parser.add_argument("--lock", type=Path, default=catalogue.DEFAULT_LOCK, help="the lock file")
    parser.add_argument(
        "--base", help="a mirror, laid out as <base>/<host>/<path of the official place>"
    )
    options = parser.parse_args(arguments)
    try:
        added, failed = add_missing(options.lock, fetch_from(options.base))
    except catalogue.LockError as error:
        print(f"{options.lock}: {error}", file=sys.stderr)
        return 1
    for key, sha256 in sorted(added.items()):
        print(f"added {key}\n      {sha256}")
    for key, reason in sorted(failed.items()):
        print(f"FAILED {key}.sha256: {reason}", file=sys.stderr)
    print(f"{len(added)} added, {len(failed)} failed; review the change of {options.lock.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
