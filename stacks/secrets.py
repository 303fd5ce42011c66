"""The secrets of the running program's stack file."""

import pulumi

from components.remote.script import PrivateKey
from config import (
    ALERT_SECRETS,
    BACKUP_SECRET_KEY,
    SSH_KEY,
    SSH_KEY_PASSWORD,
)


def private_key() -> PrivateKey | None:
    """The SSH key that logs in to the machines; None without one, as in the lab."""
    secrets = pulumi.Config()
    key = secrets.get_secret(SSH_KEY)
    if key is None:
        return None
    return PrivateKey(text=key, password=secrets.get_secret(SSH_KEY_PASSWORD))


def alert_secrets() -> dict[str, pulumi.Output[str]]:
    """The secrets of the receiver of alerts that are set, by their key."""
    secrets = pulumi.Config()
    values = {key: secrets.get_secret(key) for key in ALERT_SECRETS}
    return {key: value for key, value in values.items() if value is not None}


def backup_secret_key() -> pulumi.Output[str] | None:
    """The secret key of the login that stores snapshots; None without one."""
    return pulumi.Config().get_secret(BACKUP_SECRET_KEY)
