"""Render the files of a node as one setting of node-prepare.sh, and parse that setting."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Reader = Literal[
    "backup",
    "certificates",
    "containerd",
    "database",
    "endpoint",
    "firewall",
    "journald",
    "kernel",
    "kubelet",
    "logrotate",
    "members",
    "registries",
    "sshd",
    "sysctls",
    "timesyncd",
]
"""What a file configures. The scripts choose files by it, and reload it after a change.

registries: containerd reads these at each pull, so that a change needs no restart.
"""

_HEADER = re.compile(r"^=== ([0-7]{3}) ([a-z]+) (/\S+)$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class NodeFile:
    """A file on a node. mode: octal; the owner is root. text: without a newline at the end."""

    path: str
    reader: str
    mode: str
    text: str


def to_setting(files: Iterable[NodeFile]) -> str:
    """Render files in the format of the scripts: a line `=== MODE READER PATH`, then the text.

    Raises ValueError if a text contains such a line.
    """
    return "\n".join(map(_rendered, files))


def from_setting(setting: str) -> list[NodeFile]:
    """Parse what to_setting rendered."""
    headers = list(_HEADER.finditer(setting))
    ends = [header.start() - 1 for header in headers[1:]] + [len(setting)]
    return [
        NodeFile(mode=mode, reader=reader, path=path, text=setting[header.end() + 1 : end])
        for header, end in zip(headers, ends, strict=False)
        for mode, reader, path in [header.groups()]
    ]


def changed_paths(old: str, new: str) -> list[str]:
    """The paths of files that differ between two settings, or are in only one of them."""
    before, after = ({file.path: file for file in from_setting(text)} for text in (old, new))
    return [path for path in sorted({**before, **after}) if before.get(path) != after.get(path)]


def _rendered(file: NodeFile) -> str:
    if _HEADER.search(file.text):
        raise ValueError(f"{file.path} contains a line that would begin another file")
    return f"=== {file.mode} {file.reader} {file.path}\n{file.text}"
