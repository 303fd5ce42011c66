"""Checks of a whole stack file: keys that have no effect, and secrets that are not encrypted."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from config import EXAMPLE, SECRETS, SSH_KEY, SSH_KEY_PASSWORD
from config.errors import NAMESPACE, Problem, nearest, unknown_key
from config.sections import SECTIONS

POLICY_NAMESPACE = "nordmesh-policy"
"""The prefix of the policy pack's settings."""
POLICY_KEYS = ("accept", "environment")
PACKAGES = ("command", "kubernetes", "pulumi")
"""The prefixes of the packages that nordmesh uses."""

_KNOWN = (
    *(f"{NAMESPACE}:{name}" for name in (*SECTIONS, *SECRETS)),
    *(f"{POLICY_NAMESPACE}:{name}" for name in POLICY_KEYS),
    EXAMPLE,
)
# The keys of a stack file that Pulumi reads.
_TOP = ("config", "encryptedkey", "encryptionsalt", "environment", "secretsprovider")
_NO_EFFECT = "nothing reads it, so no change to it has an effect, including a rollback"
_TOP_KEY = re.compile(
    r"""^(?:"([^"\n]+)"|'([^'\n]+)'|([^\s#"'\[\]{},-][^#\n]*?)):(?=\s|$)""", re.MULTILINE
)
_NEXT_DOCUMENT = re.compile(r"^(?:---|\.\.\.)(?=\s|$)", re.MULTILINE)


def full(key: str) -> str:
    """A key below `config:` as Pulumi reads it: with the project's name if it has no prefix."""
    return key.replace(":config:", ":", 1) if ":" in key else f"{NAMESPACE}:{key}"


def unread(config: Mapping[str, object]) -> Iterator[Problem]:
    """The problems of settings that neither nordmesh, its policy pack nor their packages read.

    config: all settings of the stack by their full keys; mappings may be JSON text.
    """
    for key, value in config.items():
        namespace, _, name = key.partition(":")
        if namespace in (NAMESPACE, *PACKAGES) or key in _KNOWN:
            continue
        prefix = f"{namespace}:"
        if namespace == POLICY_NAMESPACE:
            yield unknown_key((name,), nearest(name, POLICY_KEYS), POLICY_KEYS, prefix=prefix)
            continue
        alike = [known for known in _KNOWN if known.endswith(f":{name}")]
        guess = nearest(key, alike or _KNOWN)
        prefixes = ", ".join((NAMESPACE, POLICY_NAMESPACE, *PACKAGES))
        yield Problem(
            code="prefix-unknown",
            prefix=prefix,
            path=(name, *_only_path(value)),
            what=f"{namespace} is not a known prefix; use one of {prefixes}",
            why=_NO_EFFECT,
            fix=(f"move it below {guess}, and " if guess else "")
            + f"remove it with `pulumi config rm {key}`",
        )


def repeated(written: Iterable[str]) -> Iterator[Problem]:
    """The problems of settings that are there twice: with and without the prefix.

    written: the keys below `config:`, as in the file.
    """
    first: dict[str, str] = {}
    for key in written:
        other = first.setdefault(full(key), key)
        if other != key:
            yield Problem(
                code="key-twice",
                prefix=f"{full(key).partition(':')[0]}:",
                path=(full(key).partition(":")[2],),
                what=f"{other} and {key} are the same setting",
                why="Pulumi adds the project's name to a key without a prefix, and reads only one",
                fix=f"move everything below {full(key)}, and remove the other",
            )


def in_the_clear(keys: Iterable[str]) -> Iterator[Problem]:
    """The problems of secrets that are not encrypted. keys: their keys, without the prefix."""
    for key in keys:
        command = f"pulumi config set --secret {NAMESPACE}:{key}"
        if key == SSH_KEY:
            yield Problem(
                code="ssh-key-unencrypted",
                path=(key,),
                what="the private key is not encrypted",
                why="anyone who can read the stack file or its git history can log in to every "
                "node",
                fix="rotate this key, even if you delete it from the file: make a new one with "
                "`ssh-keygen -t ed25519 -f KEY`, replace the old one with KEY.pub on every "
                f"machine, and run `{command} < KEY`",
            )
        elif key == SSH_KEY_PASSWORD:
            yield Problem(
                code="ssh-passphrase-unencrypted",
                path=(key,),
                what="the passphrase is not encrypted",
                why="anyone who can read the stack file or its git history can decrypt the SSH key",
                fix="change the passphrase with `ssh-keygen -p -f KEY`, even if you delete it "
                f"from the file, then run `{command}` and type the new one",
            )
        else:
            yield Problem(
                code="secret-unencrypted",
                path=(key,),
                what=f"{SECRETS[key]} is not encrypted",
                why="anyone who can read the stack file or its git history can use it",
                fix="replace it where it was issued, even if you delete it from the file, then "
                f"run `{command}` and type the new one",
            )


def misplaced(text: str, file: str) -> Iterator[Problem]:
    """The problems of text that Pulumi ignores: keys beside `config:`, and further documents."""
    documents = [part for part in _NEXT_DOCUMENT.split(text) if _has_content(part)]
    for key in _top_keys(documents[0] if documents else ""):
        if key in _TOP:
            continue
        section = full(key).removeprefix(f"{NAMESPACE}:")
        is_section = section in (*SECTIONS, *SECRETS) or key in _KNOWN
        guess = None if is_section else nearest(key, _TOP)
        yield Problem(
            code="key-outside-config",
            prefix=f"{NAMESPACE}:" if section in (*SECTIONS, *SECRETS) else "",
            path=(section if section in (*SECTIONS, *SECRETS) else key,),
            what=f"{key} is beside config: in {file}, not below it",
            why=f"Pulumi reads only settings below config:; {_NO_EFFECT}",
            fix=f"use {guess}"
            if guess
            else "indent it and everything below it by two more spaces, or remove it",
        )
    if len(documents) > 1:
        yield Problem(
            code="several-documents",
            prefix=file,
            path=(),
            what=f"the file contains {len(documents)} YAML documents",
            why="Pulumi reads only the first; no change to the others has an effect",
            fix="keep one document: remove the lines with --- and everything that should have no "
            "effect",
        )


def _top_keys(text: str) -> Iterator[str]:
    for match in _TOP_KEY.finditer(text):
        yield next(group for group in match.groups() if group is not None)


def _has_content(text: str) -> bool:
    return any(
        line.strip() and not line.lstrip().startswith(("#", "%")) for line in text.split("\n")
    )


def _only_path(value: object) -> tuple[str, ...]:
    """The keys down to the only value, as `pulumi config set --path` writes it, if there is one."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            return ()
    keys: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        keys.append(str(key))
    return tuple(keys)
