"""`nordmesh ci strip-secrets` and `nordmesh ci new-key`: previews without any secret."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from config import yaml_reader
from config.errors import KeyPath
from config.stack_file import without_secrets


def plain(document: dict[str, Any]) -> tuple[dict[str, Any], list[KeyPath]]:
    """Return a stack file without its secrets and their keys, and the paths of the secrets."""
    paths: set[KeyPath] = set()
    config = without_secrets(document.get("config", {}), (), paths)
    return {"config": config}, sorted(paths)


def strip_command(
    file: Annotated[Path, typer.Argument(help="The stack file, changed in place.", exists=True)],
) -> None:
    """Remove every encrypted value from a stack file, in place."""
    content, secrets = plain(yaml_reader.load(file.read_text()))
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    for path in secrets:
        print(f"removed the secret {'.'.join(path)}", file=sys.stderr)


def key_command() -> None:
    """Print a new, unused private key, for a preview without the stack's key."""
    import asyncssh  # 0.2 s, which no other command needs

    key = asyncssh.generate_private_key("ssh-ed25519")
    sys.stdout.write(key.export_private_key().decode())
