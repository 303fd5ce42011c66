"""Render the command line that runs a checked-in script on a node, and parse it.

A command names its script by the hash of its content. components.remote.copies puts the script on
the machine; the command runs it only if the content has that hash.
"""

import functools
import hashlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = "/var/lib/nordmesh/scripts"
"""The directory of scripts on a machine; it keeps earlier versions of each script."""

MISSING = 66
"""The exit status of a command whose script is missing on the machine, or was changed there."""

MISSING_CODE = "script-not-verified"
"""The code of that error."""

PHASES = ("create", "update", "delete")
"""The inputs of a resource that hold a command."""

LOCK_SECONDS = 600
"""How long `single_run` of lib.sh waits for an earlier script on the same machine."""

_COPY_AGAIN = "run \\`pulumi up\\` or \\`pulumi destroy --run-program\\`; both copy it again"
_SCRIPTS = Path(__file__).parents[1] / "scripts"
_LIBRARY = "lib.sh"
_USES = re.compile(r"^# Uses: (.+)$", re.MULTILINE)
_LOCKS = re.compile(r"^\s*single_run$", re.MULTILINE)

# The output of shlex.quote: bare, or in single quotes, in which '"'"' stands for one.
_QUOTE = "'\"'\"'"
_SETTING = re.compile(r"^export (\w+)=(?:'((?:[^']|'\"'\"')*)'|([^\s']*))$", re.MULTILINE)
_FILE = re.compile(r"# ([a-z0-9-]+\.sh)'?$")
_TIME_LIMIT = re.compile(r"timeout --kill-after=\d+ (\d+) bash -c ")
_DIGEST = re.compile(r'sha256sum\)" = "([0-9a-f]{64})  -"')


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script of components/scripts with its settings, ready to run on one node.

    settings: exported at the start of the command, so they are visible on the node and in the
    state: never a secret. timeout: seconds that its work may take; the time limit adds the wait for
    an earlier script, and ten seconds to clean up.
    """

    file: str
    node: str
    settings: Mapping[str, str]
    timeout: int = 300

    @property
    def text(self) -> str:
        """The settings and the whole script, for the standard input of `bash -s`."""
        return self._exports + text_of(self.file)

    @property
    def _exports(self) -> str:
        return "".join(
            f"export {name}={shlex.quote(value)}\n"
            for name, value in sorted({"NODE_NAME": self.node, **self.settings}.items())
        )

    def seconds(self, *, patience: int = 1) -> int:
        """The time limit: its work, `patience` times slower, and the wait for the lock."""
        return self.timeout * patience + (LOCK_SECONDS if takes_lock(self.file) else 0)

    def command(self, user: str, *, patience: int = 1) -> str:
        """Render the command line that runs the script as root: the settings, then its name."""
        as_root = "" if user == "root" else "sudo -n "
        text = shlex.quote(self._exports + _runner(self.file))
        return f"{as_root}timeout --kill-after=10 {self.seconds(patience=patience)} bash -c {text}"


@functools.cache
def settings(command: str) -> dict[str, str]:
    """Parse the settings that a command exports to its script, including NODE_NAME."""
    inner = command.partition("bash -c ")[2].strip().removeprefix("'").removesuffix("'")
    text = inner.replace(_QUOTE, "'")
    return {
        match[1]: match[2].replace(_QUOTE, "'") if match[3] is None else match[3]
        for match in _SETTING.finditer(text)
    }


def settings_of(inputs: Mapping[str, object] | None) -> dict[str, str]:
    """The settings of the script that a command's resource creates; {} without one."""
    return settings(str((inputs or {}).get("create")))


def file(command: str) -> str | None:
    """Parse the name of a command's script; None if the script is not nordmesh's."""
    match = _FILE.search(command)
    return match[1] if match else None


def digest(command: str) -> str | None:
    """Parse the hash (SHA-256, hex) of a command's script; None if it is not nordmesh's."""
    digests = _DIGEST.findall(command)
    return digests[-1] if digests and file(command) else None


def time_limit(command: str) -> int | None:
    """Parse the time limit of a command's script in seconds; None if it is not nordmesh's."""
    match = _TIME_LIMIT.search(command)
    return int(match[1]) if match else None


def path_of(file: str, sha256: str) -> str:
    """The path on a machine of the script with this hash."""
    return f"{FOLDER}/{file.removesuffix('.sh')}-{sha256[:12]}.sh"


@functools.cache
def text_of(file: str) -> str:
    """Read a script with its libraries before it: the common one, and those that its head names."""
    return text_alone(_LIBRARY) + local_text(file)


def local_text(file: str) -> str:
    """Read a script that runs on this machine, with the libraries that its head names before it."""
    text = text_alone(file)
    return "".join(map(text_alone, uses(text))) + text


@functools.cache
def takes_lock(file: str) -> bool:
    """Whether a script waits until no other one works on its machine."""
    return _LOCKS.search(text_alone(file)) is not None


def uses(text: str) -> list[str]:
    """The libraries that the head of a script names."""
    named = _USES.search(text)
    return named[1].split() if named else []


def texts() -> dict[str, str]:
    """The scripts and libraries by file name."""
    return {path.name: path.read_text() for path in sorted(_SCRIPTS.glob("*.sh"))}


def text_alone(file: str) -> str:
    """Read a script without libraries: it runs elsewhere, or is installed on nodes unchanged."""
    return (_SCRIPTS / file).read_text()


def constant(file: str, name: str) -> list[str]:
    """Read the words of a constant in a script: NAME="..."."""
    text = text_alone(file).replace("\\\n", "")
    (words,) = re.findall(rf'^readonly {name}="([^"]+)"$', text, re.MULTILINE)
    return str(words).split()


@functools.cache
def _runner(file: str) -> str:
    """Render the shell lines that check a script's content and run it.

    They run the text that they have checked, not the file, which could change in between.
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
