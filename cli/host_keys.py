"""SSH host keys as a machine shows them, and the fingerprints that people compare."""

import base64
import hashlib
import subprocess

# The order in which a key is preferred; what ssh-keyscan calls them, and how the key's line begins.
_TYPES = {"ed25519": "ssh-ed25519", "ecdsa": "ecdsa-sha2-", "rsa": "ssh-rsa"}
_SECONDS = 10


class NotShown(Exception):
    """No host key could be had; the text says why, and what to do."""


def scan(address: str, port: int) -> str:
    """The host key that a machine shows: type and base64, ed25519 if it has one.

    Whoever answers at the address chose it: it must be compared before it is trusted.
    Raises NotShown.
    """
    command = ["ssh-keyscan", "-T", str(_SECONDS), "-p", str(port), "-t", ",".join(_TYPES), address]
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, timeout=3 * _SECONDS, check=False
        )
    except FileNotFoundError:
        raise NotShown(
            "there is no ssh-keyscan on this machine; install OpenSSH's client "
            "(Debian's openssh-client), or give the host key with hostKey="
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
    raise NotShown(
        f"no SSH server shows a host key at {address} port {port}; is the machine on, is sshd "
        "running, is the port right, and does a firewall let this machine in?"
    )


def fingerprint(key: str) -> str:
    """The SHA256 fingerprint of a host key's line, as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"
