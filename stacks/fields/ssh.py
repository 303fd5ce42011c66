"""The SSH host key of a node."""

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from stacks.fields.refused import Refused

# OpenSSH's host key types; DSA is left out, OpenSSH 9.8 dropped it.
_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
_KEY_WHY = "the connection is pinned to this key, so that no other machine can pose as the node"
HOST_KEY_REMEDY = (
    "on the node, over your provider's console, run `cat /etc/ssh/ssh_host_ed25519_key.pub` and "
    "write its first two words"
)


def _host_key(value: str) -> str:
    words = value.split()
    if value.startswith("-----BEGIN"):
        raise Refused("this is a private key", _KEY_WHY, HOST_KEY_REMEDY)
    if len(words) >= 3 and words[0] not in _KEY_TYPES and words[1] in _KEY_TYPES:
        raise Refused(
            "this is a whole line of known_hosts",
            "the key alone is wanted: the address is the node's own field",
            f'write "{words[1]} {words[2]}"',
        )
    if not words or words[0] not in _KEY_TYPES:
        raise Refused(
            f"{_short(value)!r} does not begin with a type of host key ({', '.join(_KEY_TYPES)})",
            _KEY_WHY,
            HOST_KEY_REMEDY,
        )
    if len(words) < 2 or not _is_key_blob(words[1], words[0]):
        raise Refused(
            f"what follows {words[0]} is not the base64 text of such a key",
            _KEY_WHY,
            HOST_KEY_REMEDY,
        )
    return f"{words[0]} {words[1]}"  # the comment is no part of the key


def _is_key_blob(text: str, key_type: str) -> bool:
    """Whether text is base64 of an SSH public key (RFC 4253, 6.6): it begins with its type."""
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    head = len(key_type).to_bytes(4, "big") + key_type.encode()
    if key_type == "ssh-ed25519":
        return blob.startswith(head + (32).to_bytes(4, "big")) and len(blob) == len(head) + 36
    return blob.startswith(head) and len(blob) > len(head) + 64


def _short(value: str) -> str:
    return value if len(value) <= 24 else f"{value[:21]}..."


HostKey = Annotated[
    str,
    AfterValidator(_host_key),
    WithJsonSchema(
        {"type": "string", "pattern": f"^\\s*({'|'.join(_KEY_TYPES)})\\s+[A-Za-z0-9+/]+={{0,2}}"}
    ),
]
