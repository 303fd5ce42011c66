"""The errors of the command plugin, in the official one's words.

components/failures.py reads these words. The table runs against the plugin that the lab has: the
official one, or the stand-in.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.engine.conftest import Project, Sshd

Projects = Callable[..., Project]
Table = Mapping[str, tuple[str, Mapping[str, Any], str]]

PROGRAM = """
for name, (command, login) in settings["commands"].items():
    remote.Command(name, connection=login, create=command, logging=remote.Logging.NONE)
"""
_TRIES = r"after 1 failed attempts: "
# By name: the command, the changes of its connection, and its error (a regular expression).
COMMANDS: Table = {
    "fails": (
        "echo out; echo 'er\"r\\' >&2; exit 3",
        {},
        r'Process exited with status 3: running "echo out; echo \'er\\"r\\\\\' >&2; exit 3":'
        r"\s+out\s+er\"r\\",
    ),
    "times-out": (
        "timeout --kill-after=10 1 sleep 5",
        {},
        r'Process exited with status 124: running "timeout --kill-after=10 1 sleep 5":',
    ),
    "killed": (
        "kill -KILL $$",
        {},
        r'Process exited with status 137 from signal KILL: running "kill -KILL \$\$":',
    ),
    "ended": (
        "kill -TERM $$",
        {},
        r'Process exited with status 143 from signal TERM: running "kill -TERM \$\$":',
    ),
    "missing": (
        "no-such-program",
        {},
        r'Process exited with status 127: running "no-such-program":\s+.*command not found',
    ),
    "closed": (
        "true",
        {"port": 1},
        _TRIES + r"dial tcp 127\.0\.0\.1:1: connect: connection refused",
    ),
    "unnamed": (
        "true",
        {"host": "nosuch.invalid"},
        _TRIES + r"dial tcp: lookup nosuch\.invalid[^\n]*: no such host",
    ),
    "unlocked": (
        "true",
        {"private_key": None, "agent_socket_path": "/nonexistent"},
        r"dial unix /nonexistent: connect: no such file or directory",
    ),
}


def test_errors_have_the_words_of_the_official_plugin(
    project: Projects, sshd: Sshd, start_sshd: Callable[..., Sshd]
) -> None:
    other = start_sshd()
    table = {
        **COMMANDS,
        "stranger": (
            "true",
            {"private_key": other.private_key},
            _TRIES + r"ssh: handshake failed: ssh: unable to authenticate, attempted methods "
            r"\[none publickey\], no supported methods remain",
        ),
        # On its own server: the stand-in shares a connection among commands.
        "cut": (
            "kill -9 $PPID; sleep 5",
            {"port": other.port, "host_key": other.host_key, "private_key": other.private_key},
            "wait: remote command exited without exit status or exit signal: running "
            r'"kill -9 \$PPID; sleep 5":',
        ),
        # The stand-in does not try again, and shows both keys.
        "impostor": (
            "true",
            {"host_key": other.host_key},
            rf"({_TRIES})?ssh: handshake failed: ssh: host key mismatch",
        ),
    }
    commands = {
        name: (command, sshd.connection(dial_error_limit=1, per_dial_timeout=20, **changes))
        for name, (command, changes, _) in table.items()
    }
    output = project(PROGRAM, commands=commands).up("--continue-on-error").failed().output
    diagnostics = output.partition("\nDiagnostics:")[2]
    wrong = {name: error for name, (_, _, error) in table.items() if not shown(diagnostics, error)}
    assert not wrong, f"not shown: {wrong}\n{diagnostics}"


def shown(diagnostics: str, error: str) -> bool:
    return re.search(error, diagnostics) is not None
