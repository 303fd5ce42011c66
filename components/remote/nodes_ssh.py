"""Run commands on nodes without Pulumi's providers: over SSH, with a pinned host key.

Ignores the user's own SSH settings, known hosts, keys and agent; keys stay in memory.
asyncssh is imported only where a connection is opened: the import takes 0.3 s.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncssh

_Started = TypeVar("_Started")

DIAL_SECONDS = 10
_DIALS = 3
_PAUSE_SECONDS = 0.5
# Exit statuses of `timeout` after it terminated, or killed, the command; with the latter, it kills
# itself too. So does the kernel when memory runs out, but before the time is over.
_ENDED = (124, 137, -signal.SIGKILL)
_SIGNALS_FROM = 128
# The command's share of the limit from which on its machine's clock may have reached the limit.
_NEARLY = 0.9


@dataclass(frozen=True, kw_only=True)
class Login:
    """The SSH login of a node. host_key: the pinned key, one line in the format of authorized_keys.

    bastion: the jump host.
    """

    host: str
    user: str
    port: int
    host_key: str
    private_key: str = field(repr=False)
    password: str | None = field(default=None, repr=False)
    bastion: "Login | None" = None

    @classmethod
    def of(cls, connection: Mapping[str, Any]) -> "Login":
        """Read the login from a command resource's `connection`."""
        proxy = connection.get("proxy")
        password = connection.get("privateKeyPassword")
        return cls(
            host=str(connection["host"]),
            user=str(connection["user"]),
            port=int(connection["port"]),
            host_key=str(connection["hostKey"]),
            private_key=str(connection["privateKey"]),
            password=None if password is None else str(password),
            bastion=cls.of(proxy) if proxy else None,
        )

    def __str__(self) -> str:
        return f"{self.user}@{self.host} port {self.port}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The output of a command. problem: why it is missing or incomplete; None after success.

    errors: what it printed to standard error.
    """

    text: str
    problem: str | None = None
    errors: str = ""


class NoSession(Exception):
    """No session could be opened on a machine; the text says why."""


class Session:
    """An open connection to a node."""

    def __init__(self, connection: "asyncssh.SSHClientConnection", login: Login) -> None:
        self._connection, self._login = connection, login

    async def run(
        self, command: str, *, stdin: str | Path = "", seconds: int, as_root: bool = True
    ) -> Answer:
        """Run a command, as root by default, and end it after this many seconds.

        stdin: a text, or the file with the bytes that the command reads.
        """
        import asyncssh

        limited = self._limited(command, seconds, as_root=as_root)
        start = time.monotonic()
        # An empty text would leave the command's standard input open.
        given: dict[str, Any] = {"input": stdin} if stdin else {"stdin": asyncssh.DEVNULL}
        if isinstance(stdin, Path):
            given = {"stdin": stdin, "encoding": None}
        try:
            result = await asyncio.wait_for(
                self._patiently(
                    lambda: self._connection.run(limited, errors="replace", **given), seconds
                ),
                seconds + DIAL_SECONDS,
            )
        except TimeoutError:
            return Answer(text="", problem=f"no answer in {seconds + DIAL_SECONDS} s")
        except (OSError, asyncssh.Error) as error:
            return Answer(text="", problem=f"connection lost: {_reason(error)}")
        passed = time.monotonic() - start
        return Answer(
            text=_text(result.stdout),
            problem=_problem(result, seconds, passed),
            errors=_text(result.stderr),
        )

    @asynccontextmanager
    async def started(
        self, command: str, *, seconds: int
    ) -> "AsyncIterator[asyncssh.SSHClientProcess[str]]":
        """Run a command as root until the end of this context, which closes its input.

        Raises NoSession.
        """
        import asyncssh

        limited = self._limited(command, seconds)
        try:
            process = await self._patiently(
                lambda: self._connection.create_process(limited, errors="replace"), DIAL_SECONDS
            )
        except (OSError, asyncssh.Error) as error:
            raise NoSession(f"connection lost: {_reason(error)}") from None
        async with process:
            try:
                yield process
            finally:
                with suppress(OSError):  # a lost connection has ended the command already
                    process.stdin.write_eof()

    async def _patiently(
        self, start: "Callable[[], Awaitable[_Started]]", seconds: int
    ) -> "_Started":
        """Start a session; retry while the server has reached its limit of sessions."""
        import asyncssh

        deadline = time.monotonic() + seconds
        while True:
            try:
                return await start()
            except asyncssh.ChannelOpenError:
                # A closed connection raises the same error, and a retry cannot help.
                if self._connection.is_closed() or time.monotonic() > deadline:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)

    def _limited(self, command: str, seconds: int, *, as_root: bool = True) -> str:
        sudo = "sudo -n " if as_root and self._login.user != "root" else ""
        return f"{sudo}timeout --kill-after=5 {seconds} {command}"


class Sessions:
    """An async context with connections to many nodes, which share those to their bastions."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._bastions: dict[Login, asyncio.Task[asyncssh.SSHClientConnection]] = {}

    async def __aenter__(self) -> "Sessions":
        return self

    async def __aexit__(self, *_: object) -> None:
        for dialling in self._bastions.values():
            dialling.cancel()
        await self._stack.aclose()

    async def open(self, login: Login) -> Session:
        """Open a session on a node; raises NoSession."""
        return Session(await self._connected(login), login)

    async def run(self, login: Login, command: str, *, stdin: str = "", seconds: int) -> Answer:
        """Open a session on a node and run a command as root; without a session, say why."""
        try:
            session = await self.open(login)
        except NoSession as error:
            return Answer(text="", problem=str(error))
        return await session.run(command, stdin=stdin, seconds=seconds)

    async def _connected(self, login: Login) -> "asyncssh.SSHClientConnection":
        tunnel = await self._bastion(login.bastion) if login.bastion else None
        return await self._stack.enter_async_context(await _dial(login, tunnel))

    async def _bastion(self, login: Login) -> "asyncssh.SSHClientConnection":
        if login not in self._bastions:
            self._bastions[login] = asyncio.create_task(self._connected(login))
        try:
            return await asyncio.shield(self._bastions[login])
        except NoSession as error:
            raise NoSession(f"bastion: {error}") from None


async def _dial(
    login: Login, tunnel: "asyncssh.SSHClientConnection | None"
) -> "asyncssh.SSHClientConnection":
    import asyncssh

    try:
        host_key = asyncssh.import_public_key(login.host_key.strip())
        private_key = asyncssh.import_private_key(login.private_key, login.password)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise NoSession(f"a key for {login} cannot be read: {error}") from None
    failed = 0
    while True:
        try:
            return await asyncio.wait_for(
                asyncssh.connect(
                    login.host,
                    login.port,
                    tunnel=tunnel if tunnel is not None else (),
                    config=None,
                    # Only the pinned key is trusted. Offer its algorithms first, then all others:
                    # a server with another kind of key then fails as such, not as no answer.
                    known_hosts=([host_key], [], []),
                    server_host_key_algs=_algorithms(host_key),
                    username=login.user,
                    client_keys=[private_key],
                    agent_path=None,
                    gss_kex=False,
                    gss_auth=False,
                    keepalive_interval=5,
                ),
                DIAL_SECONDS,
            )
        except asyncssh.HostKeyNotVerifiable:
            raise NoSession(f"{login} shows a host key other than the pinned one") from None
        except asyncssh.PermissionDenied:
            raise NoSession(f"{login}: permission denied for this key") from None
        except (OSError, asyncssh.Error) as error:
            failed += 1
            if failed == _DIALS:
                raise NoSession(f"{login}: {_reason(error)}") from None
        await asyncio.sleep(failed)


def _algorithms(host_key: "asyncssh.SSHKey") -> list[str]:
    from asyncssh.public_key import get_default_public_key_algs

    usual = get_default_public_key_algs()
    own = [name for name in host_key.sig_algorithms if name in usual]
    return [name.decode() for name in dict.fromkeys([*own, *usual])]


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or type(error).__name__


def _text(output: Any) -> str:
    """What a command printed; bytes if its input was a file."""
    return output.decode(errors="replace") if isinstance(output, bytes) else str(output)


def _problem(result: "asyncssh.SSHCompletedProcess", seconds: int, passed: float) -> str | None:
    """Why a command failed; None after success. passed: how long it ran, in seconds."""
    status = result.returncode
    if status is None:
        return "connection lost while it ran"
    if status == 0:
        return None
    if status in _ENDED and passed >= seconds * _NEARLY:
        return f"it did not finish in {seconds} s"
    errors = " ".join(_text(result.stderr).split())
    if (name := _signal_name(status)) is None:
        return errors or f"exit status {status}"
    hint = ": the kernel does this when memory runs out, see journalctl -k" * (name == "SIGKILL")
    return f"it was killed with {name}{hint}" + (f"; its last lines: {errors}" if errors else "")


def _signal_name(status: int) -> str | None:
    """The signal that ended a command; None if it exited.

    status: of a shell or `timeout`, 128 above the signal; negative if sshd reports the signal.
    """
    number = -status if status < 0 else status - _SIGNALS_FROM
    try:
        return signal.Signals(number).name
    except ValueError:
        return None


def run(tasks: Mapping[str, tuple[Login, str]], *, seconds: int) -> dict[str, Answer]:
    """Run a script as root on each of several nodes, in parallel; return the answers by name.

    tasks: the login and the script by name. A script is passed on standard input, and ended after
    this many seconds.
    """

    async def all_of_them() -> list[Answer]:
        async with Sessions() as sessions:
            return await asyncio.gather(
                *(
                    sessions.run(login, "bash -s", stdin=script, seconds=seconds)
                    for login, script in tasks.values()
                )
            )

    return dict(zip(tasks, asyncio.run(all_of_them()), strict=True))
