"""Scripts run on nodes from the command line, outside Pulumi: over SSH, with a pinned host key.

The user's own SSH settings, known hosts and agent are not looked at. Keys are in a directory of the
run's own, readable by nobody else and removed at the end; never on a command line.
"""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

DIAL_SECONDS = 10
_AT_ONCE = 32
# What ssh itself ends with where there was no session; a script's own status is below it.
_NO_SESSION = 255


@dataclass(frozen=True, kw_only=True)
class Login:
    """How a node is reached. host_key: one authorized_keys-style line, pinned."""

    host: str
    user: str
    port: int
    host_key: str
    private_key: str = field(repr=False)

    @classmethod
    def of(cls, connection: Mapping[str, Any]) -> "Login":
        """The login in a command resource's `connection`."""
        return cls(
            host=str(connection["host"]),
            user=str(connection["user"]),
            port=int(connection["port"]),
            host_key=str(connection["hostKey"]),
            private_key=str(connection["privateKey"]),
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a script printed. problem: why it is nothing, or not all; None if it ended well."""

    text: str
    problem: str | None = None


class NoState(Exception):
    """The stack's state cannot be read; the text says what pulumi said."""


def logins(project: Path, stack: str, script: str) -> dict[str, Login]:
    """The logins of the nodes that a script was run on, by the node's name, from the stack's state.

    script: the end of the resources' names, such as `-prepare`. Raises NoState.
    """
    command = ["pulumi", "stack", "export", "--show-secrets", "--stack", stack, "--non-interactive"]
    try:
        result = subprocess.run(
            command, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise NoState("there is no pulumi on PATH; for the lab's, run `. .lab/env`") from None
    if result.returncode:
        raise NoState(result.stderr.strip() or f"pulumi ended with {result.returncode}")
    deployment = json.loads(result.stdout).get("deployment") or {}
    return {
        name.removesuffix(script): Login.of(_plain(resource["inputs"]["connection"]))
        for resource in deployment.get("resources") or []
        if resource["type"] == "command:remote:Command"
        and (name := resource["urn"].rpartition("::")[2]).endswith(script)
    }


def run(tasks: Mapping[str, tuple[Login, str]], *, seconds: int) -> dict[str, Answer]:
    """Scripts run as root on nodes, all at once: by name, where and what; the answers by name.

    seconds: how long a script may take; it is ended then. A script comes over standard input.
    """
    with (
        TemporaryDirectory(prefix="nordmesh-") as directory,  # mode 0700
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        running: list[subprocess.Popen[str]] = []
        started = {
            name: pool.submit(_run, Path(directory) / name, login, script, seconds, running)
            for name, (login, script) in tasks.items()
        }
        try:
            return {name: future.result() for name, future in started.items()}
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in running:
                process.kill()
            raise


def _run(
    directory: Path,
    login: Login,
    script: str,
    seconds: int,
    running: list["subprocess.Popen[str]"],
) -> Answer:
    directory.mkdir(mode=0o700)
    key, known = directory / "key", directory / "known_hosts"
    _write(key, [login.private_key.rstrip("\n")])
    _write(known, [f"node {' '.join(login.host_key.split()[:2])}"])
    as_root = [] if login.user == "root" else ["sudo", "-n"]
    command = [
        "ssh", "-F", "none", "-T", "-i", str(key), "-p", str(login.port), "-l", login.user,
        "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none",
        "-o", "HostKeyAlias=node", "-o", f"UserKnownHostsFile={known}",
        "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes",
        "-o", "UpdateHostKeys=no", "-o", "LogLevel=ERROR", "-o", f"ConnectTimeout={DIAL_SECONDS}",
        "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3",
        login.host, *as_root, "timeout", "--kill-after=5", str(seconds), "bash", "-s",
    ]  # fmt: skip
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace",
        )  # fmt: skip
    except FileNotFoundError:
        return Answer(text="", problem="there is no ssh on this machine (Debian's openssh-client)")
    running.append(process)
    with process:
        try:
            out, err = process.communicate(script, timeout=seconds + 2 * DIAL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            return Answer(text="", problem=f"no answer in {seconds + 2 * DIAL_SECONDS} s")
    return Answer(text=out, problem=_problem(process.returncode, err, seconds))


def _problem(code: int, err: str, seconds: int) -> str | None:
    if code == 0:
        return None
    said = " ".join(err.split())
    if code == _NO_SESSION:
        if "Host key verification failed" in said or "HOST IDENTIFICATION HAS CHANGED" in said:
            return "it shows another host key than the pinned one; nothing was asked of it"
        return said or "the connection ended"
    if code in (124, 137):
        return f"its script was ended after {seconds} s"
    return said or f"its script ended with {code}"


def _write(path: Path, lines: Iterable[str]) -> None:
    """A file that nobody else can read, from its first byte on."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"{line}\n" for line in lines)


def _plain(value: Any) -> Any:
    """A value of an exported state with its secrets in the clear."""
    if isinstance(value, Mapping):
        if "plaintext" in value:
            return _plain(json.loads(value["plaintext"]))
        return {key: _plain(below) for key, below in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(below) for below in value]
    return value
