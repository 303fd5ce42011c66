"""What only a whole stack file can tell: keys that nobody reads, and secrets in the clear."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from config import EXAMPLE, SSH_KEY, SSH_KEY_PASSWORD
from config.errors import NAMESPACE, Problem, nearest, unknown_key
from config.sections import SECTIONS

POLICY_NAMESPACE = "nordmesh-policy"
"""The prefix of what the policy pack reads."""
POLICY_KEYS = ("accept", "environment")
SECRETS = (SSH_KEY, SSH_KEY_PASSWORD)
"""The keys whose values must be encrypted."""
PACKAGES = ("command", "kubernetes", "pulumi")
"""The prefixes of the packages that the program uses."""

_KNOWN = (
    *(f"{NAMESPACE}:{name}" for name in (*SECTIONS, *SECRETS)),
    *(f"{POLICY_NAMESPACE}:{name}" for name in POLICY_KEYS),
    EXAMPLE,
)
# What Pulumi reads of a stack file.
_TOP = ("config", "encryptedkey", "encryptionsalt", "environment", "secretsprovider")
_NO_EFFECT = "nobody reads it, so that no edit of it has an effect, a revert neither"
_TOP_KEY = re.compile(
    r"""^(?:"([^"\n]+)"|'([^'\n]+)'|([^\s#"'\[\]{},-][^#\n]*?)):(?=\s|$)""", re.MULTILINE
)
_NEXT_DOCUMENT = re.compile(r"^(?:---|\.\.\.)(?=\s|$)", re.MULTILINE)


def full(key: str) -> str:
    """A key below `config:` as Pulumi takes it: with the project's name where it has no prefix."""
    return key.replace(":config:", ":", 1) if ":" in key else f"{NAMESPACE}:{key}"


def unread(config: Mapping[str, object]) -> Iterator[Problem]:
    """The settings that neither the program, its policy pack nor a package of theirs reads.

    config: all of the stack's settings by their full keys; mappings may be JSON text.
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
            prefix=prefix,
            path=(name, *_only_path(value)),
            what=f"there is no prefix {namespace} here; the prefixes are {prefixes}",
            why=_NO_EFFECT,
            fix=(f"write it below {guess}, and " if guess else "")
            + f"remove it with `pulumi config rm {key}`",
        )


def in_the_clear(keys: Iterable[str]) -> Iterator[Problem]:
    """The problems of secrets that are not encrypted. keys: theirs, without the prefix."""
    for key in keys:
        command = f"pulumi config set --secret {NAMESPACE}:{key}"
        if key == SSH_KEY:
            yield Problem(
                path=(key,),
                what="the private key is in the clear",
                why="whoever reads the stack file, or its history in version control, can log in "
                "to every node",
                fix="rotate this key, even if you delete it from the file: make another with "
                "`ssh-keygen -t ed25519 -f KEY`, put KEY.pub in place of the old one on every "
                f"machine, and run `{command} < KEY`",
            )
        else:
            yield Problem(
                path=(key,),
                what="the passphrase is in the clear",
                why="whoever reads the stack file, or its history in version control, can open "
                "the SSH key",
                fix="change the passphrase with `ssh-keygen -p -f KEY`, even if you delete it "
                f"from the file, then run `{command}` and type the new one",
            )


def misplaced(text: str, file: str) -> Iterator[Problem]:
    """What Pulumi drops of a stack file's text: keys beside `config:`, and a second document."""
    documents = [part for part in _NEXT_DOCUMENT.split(text) if _has_content(part)]
    for key in _top_keys(documents[0] if documents else ""):
        if key in _TOP:
            continue
        section = full(key).removeprefix(f"{NAMESPACE}:")
        is_section = section in (*SECTIONS, *SECRETS) or key in _KNOWN
        guess = None if is_section else nearest(key, _TOP)
        yield Problem(
            prefix=f"{NAMESPACE}:" if section in (*SECTIONS, *SECRETS) else "",
            path=(section if section in (*SECTIONS, *SECRETS) else key,),
            what=f"{key} stands beside config: in {file}, not below it",
            why=f"Pulumi reads settings below config: only; {_NO_EFFECT}",
            fix=f"write {guess}"
            if guess
            else "indent it, and what is below it, by two more spaces, or remove it",
        )
    if len(documents) > 1:
        yield Problem(
            prefix=file,
            path=(),
            what=f"there are {len(documents)} YAML documents in the file",
            why=f"Pulumi reads the first only; of the rest, {_NO_EFFECT}",
            fix="write one document: remove the lines with --- and what should have no effect",
        )


def _top_keys(text: str) -> Iterator[str]:
    for match in _TOP_KEY.finditer(text):
        yield next(group for group in match.groups() if group is not None)


def _has_content(text: str) -> bool:
    return any(
        line.strip() and not line.lstrip().startswith(("#", "%")) for line in text.split("\n")
    )


def _only_path(value: object) -> tuple[str, ...]:
    """The keys down to the one value that `pulumi config set --path` wrote, if there is one."""
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
