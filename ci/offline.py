"""`python -m ci.offline FILE`: takes every encrypted value out of a stack file, in place.

With --new-key it prints a private key that belongs to nobody instead, for a preview in place of the
stack's own. Both are for previews where no secret may be.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import asyncssh
import yaml

from config.errors import KeyPath
from config.stack_file import without_secrets


def plain(document: dict[str, Any]) -> tuple[dict[str, Any], list[KeyPath]]:
    """A stack file's content without secrets and the keys to them, and where secrets were."""
    found: set[KeyPath] = set()
    config = without_secrets(document.get("config", {}), (), found)
    return {"config": config}, sorted(found)


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ci.offline", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", type=Path, help="the stack file, changed in place")
    what.add_argument("--new-key", action="store_true", help="print a new private key")
    options = parser.parse_args(arguments)
    if options.new_key:
        key = asyncssh.generate_private_key("ssh-ed25519")
        sys.stdout.write(key.export_private_key().decode())
        return 0
    content, secrets = plain(yaml.safe_load(options.file.read_text()))
    options.file.write_text(yaml.safe_dump(content, sort_keys=False))
    for path in secrets:
        print(f"without a secret: {'.'.join(path)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
