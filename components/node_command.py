"""The command line that runs a checked-in script on a node: rendered here, and parsed here."""

import functools
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from components.packed import packed

_SCRIPTS = Path(__file__).parent / "scripts"
_LIBRARY = "lib.sh"
_USES = re.compile(r"^# Uses: (.+)$", re.MULTILINE)

# A value as shlex.quote writes it: bare, or in single quotes with '"'"' for one inside.
_QUOTE = "'\"'\"'"
_SETTING = re.compile(r"^export (\w+)=(?:'((?:[^']|'\"'\"')*)'|([^\s']*))$", re.MULTILINE)
_FILE = re.compile(r"# ([a-z0-9-]+\.sh)'?$")
_TIME_LIMIT = re.compile(r"timeout --kill-after=\d+ (\d+) bash -c ")


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script of components/scripts with its settings, ready to run on one node.

    settings: exported at the command's head, so they are on the node's command line and in state:
    never a secret. timeout: seconds until the script is ended, with ten more to clean up.
    """

    file: str
    node: str
    settings: Mapping[str, str]
    timeout: int = 300

    def command(self, user: str, *, patience: int = 1) -> str:
        """The command line that runs the script as root: settings in the clear, then the script."""
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n"
            for name, value in sorted({"NODE_NAME": self.node, **self.settings}.items())
        )
        as_root = "" if user == "root" else "sudo -n "
        text = shlex.quote(exports + _packed(self.file))
        return f"{as_root}timeout --kill-after=10 {self.timeout * patience} bash -c {text}"


@functools.cache
def settings(command: str) -> dict[str, str]:
    """The settings that a command exports to its script, NODE_NAME among them."""
    inner = command.partition("bash -c ")[2].strip().removeprefix("'").removesuffix("'")
    text = inner.replace(_QUOTE, "'")
    return {
        match[1]: match[2].replace(_QUOTE, "'") if match[3] is None else match[3]
        for match in _SETTING.finditer(text)
    }


def file(command: str) -> str | None:
    """The name of the script that a command runs; None if it runs none of ours."""
    match = _FILE.search(command)
    return match[1] if match else None


def time_limit(command: str) -> int | None:
    """After how many seconds a command's script is ended; None if it runs none of ours."""
    match = _TIME_LIMIT.search(command)
    return int(match[1]) if match else None


def text_of(file: str) -> str:
    """A script with the libraries before it: the one of all, and those that its head names."""
    text = text_alone(file)
    uses = _USES.search(text)
    libraries = [_LIBRARY, *(uses[1].split() if uses else ())]
    return "".join(map(text_alone, libraries)) + text


def text_alone(file: str) -> str:
    """A script without libraries: one that runs elsewhere, or is installed on nodes as it is."""
    return (_SCRIPTS / file).read_text()


@functools.cache
def _packed(file: str) -> str:
    """The shell line that runs the library and a script, which it holds compressed.

    Pulumi writes the whole state at each step, every command twice: with the scripts as text, they
    would be most of it, and a weight edit would take a quarter longer.
    """
    return f'eval "$(base64 -d <<<{packed(text_of(file))} | gunzip)" # {file}'
