"""SSH host keys, and the formats of public and private keys."""

import base64
import binascii
import re
from typing import Annotated

from pydantic import AfterValidator

from config.scalars.refused import Refused
from config.scalars.shapes import shaped

# OpenSSH's key types, without DSA, which OpenSSH 9.8 dropped.
_KEY_TYPES = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)
EXAMPLE_HOST_KEY = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMzNsUV9RQZwmrc4raNm0Y4aFxMRzNjLZVZzGXBzMKhw"
)
_HOST_KEY_TYPES = tuple(name for name in _KEY_TYPES if name != "ssh-rsa")
_OPENSSH_MAGIC = b"openssh-key-v1\0"
_KEY_WHY = "connections are pinned to this key, so that no other machine can impersonate the node"
HOST_KEY_REMEDY = (
    "on the node, in your provider's console, run `cat /etc/ssh/ssh_host_ed25519_key.pub` and "
    "use its first two words"
)


def _shape(types: tuple[str, ...]) -> dict[str, str]:
    return {"type": "string", "pattern": rf"^\s*({'|'.join(types)})\s+[A-Za-z0-9+/]+={{0,2}}"}


@shaped(_shape(_HOST_KEY_TYPES))
def _host_key(value: str) -> str:
    key = _any_host_key(value)
    if key.startswith("ssh-rsa "):
        raise Refused(
            "host-key-rsa",
            "this is an RSA host key",
            "the command plugin asks for it with SHA-1 signatures only, which OpenSSH has not "
            "given since release 8.8: no node could be reached",
            f"{HOST_KEY_REMEDY}; if there is no such file, `ssh-keygen -A` creates it, and "
            "`systemctl reload ssh` makes sshd use it",
        )
    return key


@shaped(_shape(_KEY_TYPES))
def _any_host_key(value: str) -> str:
    words = value.split()
    if "-----BEGIN" in value:
        raise Refused(
            "host-key-private",
            "this is a private key",
            "anyone who can read the stack file or its git history has it",
            f"rotate this key, even if you delete it from the file; {HOST_KEY_REMEDY}",
        )
    if len(words) >= 3 and words[0] not in _KEY_TYPES and words[1] in _KEY_TYPES:
        raise Refused(
            "host-key-known-hosts",
            "this is a whole line of known_hosts",
            "only the key belongs here: the address has its own field",
            f'use "{words[1]} {words[2]}"',
        )
    if not words or words[0] not in _KEY_TYPES:
        raise Refused(
            "host-key-type",
            f"{_short(value)!r} does not begin with a host key type ({', '.join(_HOST_KEY_TYPES)})",
            _KEY_WHY,
            HOST_KEY_REMEDY,
        )
    if len(words) < 2 or not _is_key_blob(words[1], words[0]):
        raise Refused(
            "host-key-format",
            f"the text after {words[0]} is not a base64-encoded key of that type",
            _KEY_WHY,
            HOST_KEY_REMEDY,
        )
    return f"{words[0]} {words[1]}"  # the comment is not part of the key


def is_public_key(line: str) -> bool:
    """Whether a line has the format of a .pub file: type, base64 text and maybe a comment."""
    words = line.split()
    return len(words) >= 2 and words[0] in _KEY_TYPES and _is_key_blob(words[1], words[0])


def public_half(private_key: str) -> str | None:
    """The public key in a private key of OpenSSH format, where it is never encrypted.

    None for other formats.
    """
    halves = _halves(private_key)
    if halves is None:
        return None
    key_type = _key_type(halves[0])
    line = f"{key_type} {base64.b64encode(halves[0]).decode()}"
    return line if is_public_key(line) else None


def flaw(private_key: str) -> str | None:
    """What is wrong with the text of a private key, without showing any of it."""
    key = private_key.strip()
    if "\\n" in key:
        return "its line breaks are the two characters \\n"
    if re.match(r"-----BEGIN [^\n]*-----[^\n]*\S", key) and "\n" not in key:
        return "it is one line; its line breaks are missing"
    label = re.match(r"-----BEGIN ([A-Z ]+)-----", key)
    halves = _halves(key)
    if (label and label[1] == "DSA PRIVATE KEY") or (halves and _key_type(halves[0]) == "ssh-dss"):
        return "it is a DSA key, which OpenSSH has not accepted since release 7.0"
    if label and not key.endswith(f"-----END {label[1]}-----"):
        return "it is cut short: its END line is missing"
    if halves and halves[1]:  # a placeholder has nothing after the public half
        length = int.from_bytes(halves[1][:4], "big")
        if len(halves[1]) < 4 + length:
            return "it is cut short: lines are missing before its END line"
    return None


def _halves(private_key: str) -> tuple[bytes, bytes] | None:
    """The public key in a key of OpenSSH format, and the rest; None for other formats.

    PROTOCOL.key: magic, cipher, KDF and its options, the number of keys, the public key, then the
    private key; each is a length and its bytes.
    """
    lines = [line.strip() for line in private_key.split("\n") if not line.startswith("-")]
    body = "".join(lines)
    try:
        blob = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    if not blob.startswith(_OPENSSH_MAGIC):
        return None
    rest, fields = blob[len(_OPENSSH_MAGIC) :], []
    for number in range(5):
        if number == 3:
            rest = rest[4:]  # the number of keys: always one
            continue
        length = int.from_bytes(rest[:4], "big")
        fields.append(rest[4 : 4 + length])
        rest = rest[4 + length :]
    return fields[-1], rest


def _key_type(public: bytes) -> str:
    """The type at the beginning of a public key's blob."""
    return public[4 : 4 + int.from_bytes(public[:4], "big")].decode(errors="replace")


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


HostKey = Annotated[str, AfterValidator(_host_key)]
FormerHostKey = Annotated[str, AfterValidator(_any_host_key)]
"""A host key that is no longer used, which may be an RSA key."""
