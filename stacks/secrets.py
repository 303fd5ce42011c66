"""The secrets of the running program's stack file."""

import pulumi

from components.remote import PrivateKey
from config import SSH_KEY, SSH_KEY_PASSWORD


def private_key() -> PrivateKey | None:
    """The SSH key that logs in to the machines; None without one, as in the lab."""
    secrets = pulumi.Config()
    key = secrets.get_secret(SSH_KEY)
    if key is None:
        return None
    return PrivateKey(text=key, password=secrets.get_secret(SSH_KEY_PASSWORD))
