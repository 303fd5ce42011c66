"""`nordmesh ci strip-secrets` and `nordmesh ci new-key`: previews without any secret."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from config import ALERT_SMTP_PASSWORD, keys, yaml_reader
from config.errors import NAMESPACE, KeyPath
from config.observability.alert_checks import URLS
from config.stack_file import without_secrets


def plain(document: dict[str, Any]) -> tuple[dict[str, Any], list[KeyPath]]:
    """Return a stack file without its secrets and their keys, and the paths of the secrets."""
    paths: set[KeyPath] = set()
    config = without_secrets(document.get("config", {}), (), paths)
    return {"config": config}, sorted(paths)


def stand_ins(config: dict[str, Any], secrets: Iterable[KeyPath]) -> Iterator[tuple[str, str]]:
    """Replacements of the removed secrets of the receiver of alerts, by their full keys."""
    settings = {keys.full(key): value for key, value in config.items()}
    alerts = (settings.get(f"{NAMESPACE}:observability") or {}).get("alertmanager") or {}
    hosts = {key: name for name, key in URLS.items()}
    for path in secrets:
        key = keys.full(path[0]).removeprefix(f"{NAMESPACE}:")
        if key in hosts:
            host = alerts.get(hosts[key]) or {}
            yield f"{NAMESPACE}:{key}", f"https://{host.get('host')}:{host.get('port', 443)}/"
        elif key == ALERT_SMTP_PASSWORD:
            yield f"{NAMESPACE}:{key}", "unused"


def strip_command(
    file: Annotated[Path, typer.Argument(help="The stack file, changed in place.", exists=True)],
) -> None:
    """Remove every encrypted value from a stack file, in place.

    Print a line for each secret that its checks need besides the SSH key: the key and a value
    without a use, for `pulumi config set --secret`.
    """
    content, secrets = plain(yaml_reader.load(file.read_text()))
    for key, value in stand_ins(content["config"], secrets):
        print(f"{key} {value}")
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    for path in secrets:
        print(f"removed the secret {'.'.join(path)}", file=sys.stderr)


def key_command() -> None:
    """Print a new, unused private key, for a preview without the stack's key."""
    import asyncssh  # 0.2 s, which no other command needs

    key = asyncssh.generate_private_key("ssh-ed25519")
    sys.stdout.write(key.export_private_key().decode())
