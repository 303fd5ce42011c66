"""Fetch SSH host keys, and compute the fingerprints that people compare."""

import base64
import hashlib
import subprocess

from config.errors import NordmeshError

# The order in which a key is preferred; what ssh-keyscan calls them, and how the key's line begins.
_TYPES = {"ed25519": "ssh-ed25519", "ecdsa": "ecdsa-sha2-", "rsa": "ssh-rsa"}
_SECONDS = 10


def scan(address: str, port: int) -> str:
    """Fetch the host key of a machine as type and base64, ed25519 if it has one.

    Anyone could answer at that address: compare the key before you trust it.
    Raises NordmeshError.
    """
    command = ["ssh-keyscan", "-T", str(_SECONDS), "-p", str(port), "-t", ",".join(_TYPES), address]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=3 * _SECONDS, check=False
        )
    except FileNotFoundError:
        raise NordmeshError(
            "there is no ssh-keyscan on PATH",
            code="no-ssh-keyscan",
            fix="install OpenSSH's client (on Debian, openssh-client), or pass hostKey=",
        ) from None
    except subprocess.TimeoutExpired:
        result = subprocess.CompletedProcess(command, 1, stdout="", stderr="")
    # A line is the address, the type and the key; those that begin with # are comments.
    keys = [
        " ".join(line.split()[1:3])
        for line in result.stdout.splitlines()
        if line and not line.startswith("#")
    ]
    for start in _TYPES.values():
        for key in keys:
            if key.startswith(start):
                return key
    raise NordmeshError(
        f"no SSH server answers at {address} port {port}",
        code="no-host-key",
        fix="check that the machine is on, that sshd runs, that the port is right, and that no "
        "firewall blocks this machine",
    )


def fingerprint(key: str) -> str:
    """The SHA256 fingerprint of a host key's line, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
