"""Fetch SSH host keys, and compute the fingerprints that people compare.

asyncssh is imported where it is used: it takes 0.1 s to 0.3 s, which no other command needs.
"""

import asyncio

from config.errors import NordmeshError

# Of these signature algorithms, the first that the machine has a key for is used (RFC 4253, 7.1).
_ALGORITHMS = (
    "ssh-ed25519",
    *("ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"),
    *("rsa-sha2-256", "rsa-sha2-512"),
)
_SECONDS = 10


def scan(address: str, port: int) -> str:
    """Fetch the host key of a machine as type and base64, ed25519 if it has one.

    Anyone could answer at that address: compare the key before you trust it.
    Raises NordmeshError.
    """
    key = asyncio.run(_host_key(address, port))
    if key is None:
        raise NordmeshError(
            f"no SSH server answers at {address} port {port}",
            code="no-host-key",
            fix="check that the machine is on, that sshd runs, that the port is right, and that no "
            "firewall blocks this machine",
        )
    return key


def fingerprint(key: str) -> str:
    """The SHA256 fingerprint of a host key's line, as `ssh-keygen -l` prints it."""
    import asyncssh

    return asyncssh.import_public_key(key).get_fingerprint()


async def _host_key(address: str, port: int) -> str | None:
    import asyncssh

    try:
        async with asyncio.timeout(_SECONDS):
            key = await asyncssh.get_server_host_key(
                address, port, server_host_key_algs=_ALGORITHMS, config=None
            )
    except (OSError, TimeoutError, asyncssh.Error):
        return None
    return None if key is None else key.export_public_key().decode().strip()
