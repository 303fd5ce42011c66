"""The command line that runs a checked-in script on a node: rendered here, and parsed here.

A command names its script by the hash of its content. components.copies puts the script on the
machine; the command runs it only if the content has that hash.
"""

import functools
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "/var/lib/nordmesh/scripts"
"""Where a machine keeps the scripts that it runs; earlier versions stay beside the current one."""

MISSING = 66
"""The exit status of a command whose script is missing on the machine, or was changed there."""

MISSING_CODE = "script-not-verified"
"""The code of that error."""

_COPY_AGAIN = "run \\`pulumi up\\` or \\`pulumi destroy --run-program\\`; both copy it again"
_SCRIPTS = Path(__file__).parent / "scripts"
_LIBRARY = "lib.sh"
_USES = re.compile(r"^# Uses: (.+)$", re.MULTILINE)

# A value as shlex.quote writes it: bare, or in single quotes with '"'"' for one inside.
_QUOTE = "'\"'\"'"
_SETTING = re.compile(r"^export (\w+)=(?:'((?:[^']|'\"'\"')*)'|([^\s']*))$", re.MULTILINE)
_FILE = re.compile(r"# ([a-z0-9-]+\.sh)'?$")
_TIME_LIMIT = re.compile(r"timeout --kill-after=\d+ (\d+) bash -c ")
_DIGEST = re.compile(r'sha256sum\)" = "([0-9a-f]{64})  -"')


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
        """The command line that runs the script as root: the settings, then the script's name."""
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n"
            for name, value in sorted({"NODE_NAME": self.node, **self.settings}.items())
        )
        as_root = "" if user == "root" else "sudo -n "
        text = shlex.quote(exports + _runner(self.file))
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


def digest(command: str) -> str | None:
    """The hash (SHA-256, hex) of the script that a command runs; None if it runs none of ours."""
    digests = _DIGEST.findall(command)
    return digests[-1] if digests and file(command) else None


def time_limit(command: str) -> int | None:
    """After how many seconds a command's script is ended; None if it runs none of ours."""
    match = _TIME_LIMIT.search(command)
    return int(match[1]) if match else None


def path_of(file: str, sha256: str) -> str:
    """Where a machine keeps a script whose content has this hash."""
    return f"{FOLDER}/{file.removesuffix('.sh')}-{sha256[:12]}.sh"


@functools.cache
def text_of(file: str) -> str:
    """A script with the libraries before it: the one of all, and those that its head names."""
    text = text_alone(file)
    uses = _USES.search(text)
    libraries = [_LIBRARY, *(uses[1].split() if uses else ())]
    return "".join(map(text_alone, libraries)) + text


def texts() -> dict[str, str]:
    """The scripts and libraries by file name."""
    return {path.name: path.read_text() for path in sorted(_SCRIPTS.glob("*.sh"))}


def text_alone(file: str) -> str:
    """A script without libraries: one that runs elsewhere, or is installed on nodes as it is."""
    return (_SCRIPTS / file).read_text()


@functools.cache
def _runner(file: str) -> str:
    """The shell lines that check a script's content and run it.

    The checked text itself runs, so that a later change of the file makes no difference.
    """
    sha256 = hashlib.sha256(text_of(file).encode()).hexdigest()
    path = path_of(file, sha256)
    return f"""\
script=$(cat {path})
[ "$(printf "%s\\n" "$script" | sha256sum)" = "{sha256}  -" ] || {{
    echo "
ERROR on node $NODE_NAME: {path} is missing or was changed [{MISSING_CODE}]
    why   root runs a script only if it has the hash that the Pulumi state names
    fix   {_COPY_AGAIN}" >&2
    exit {MISSING}
}}
eval "$script" # {file}"""
