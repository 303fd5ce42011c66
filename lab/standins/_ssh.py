"""Run commands and copy files on other machines, over SSH with a pinned host key.

Deliberately ignores the user's own SSH settings, known hosts, keys and agent: a connection
uses its own settings only.
"""

import asyncio
import contextlib
import importlib
import os
import posixpath
import re
import signal
import socket
from asyncio import Task
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lab.standins._local import Sink
from lab.standins._plugin import StepFailedError

if TYPE_CHECKING:
    import asyncssh

Session = TypeVar("Session")

# OpenSSH allows 10 sessions a connection (MaxSessions). A session that has just ended may
# count for a moment longer, so two are left free.
_SESSIONS = 8
# A peer that does not answer for 30 seconds is gone.
_KEEPALIVE_SECONDS = 10
_KEEPALIVE_COUNT = 3
# Between two tries to connect, in seconds.
_FIRST_PAUSE, _PAUSE_FACTOR, _LONGEST_PAUSE = 0.1, 1.5, 5.0
_CHUNK = 65536
# How Go's SSH library calls what fails before the login is done, and a connection that was lost
# while a command ran.
_HANDSHAKE = "ssh: handshake failed"
_REFUSED_LOGIN = (
    "ssh: unable to authenticate, attempted methods [none publickey], no supported methods remain"
)
_NO_STATUS = "wait: remote command exited without exit status or exit signal"


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The address and the login of a connection. Equal settings share SSH connections."""

    host: str
    port: int
    user: str
    host_key: str
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)
    private_key_password: str | None = field(default=None, repr=False)
    agent_socket_path: str | None = None
    dial_error_limit: int = 10
    """How many more tries follow a failed first one; -1 for no limit."""
    per_dial_timeout: float = 15
    """Seconds that one try may take; 0 for no limit."""
    proxy: "Connection | None" = None

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


NO_HOST_KEY = (
    "A connection without a host key does not exist in this program: without it nobody can "
    "tell the machine from one that pretends to be it. Set hostKey to the machine's line, as "
    "`ssh-keyscan -t ed25519 <address>` prints it without the address, after comparing it "
    "with the provider's console."
)


_HOST_KEY = re.compile(r"\s*(ssh|ecdsa|sk)-\S+ +[A-Za-z0-9+/]+=*(\s.*)?", re.DOTALL)
BAD_HOST_KEY = (
    "is not a public key. Write one line such as `ssh-ed25519 AAAA...`: the type and the key, "
    "without an address before them."
)


def is_host_key(text: str) -> bool:
    """Whether a text has the format of a public key line; a fast check for previews."""
    return _HOST_KEY.fullmatch(text) is not None


def read_connection(settings: Any, name: str = "connection") -> Connection:
    """The settings of a connection as a resource has them; StepFailedError when they are wrong."""
    if not isinstance(settings, dict) or not settings.get("host"):
        raise StepFailedError(f"{name}.host is not set")
    if not settings.get("hostKey"):
        raise StepFailedError(f"{name}.hostKey is not set. {NO_HOST_KEY}")
    proxy = settings.get("proxy")
    return Connection(
        host=settings["host"],
        port=int(settings.get("port") or 22),
        user=settings.get("user") or "root",
        host_key=settings["hostKey"],
        password=settings.get("password"),
        private_key=settings.get("privateKey"),
        private_key_password=settings.get("privateKeyPassword"),
        agent_socket_path=settings.get("agentSocketPath"),
        dial_error_limit=int(settings.get("dialErrorLimit", 10)),
        per_dial_timeout=settings.get("perDialTimeout", 15),
        proxy=read_connection(proxy, f"{name}.proxy") if proxy else None,
    )


def _read_host_key(settings: Connection) -> "asyncssh.SSHKey":
    import asyncssh

    try:
        return asyncssh.import_public_key(settings.host_key.strip())
    except asyncssh.KeyImportError as error:
        raise StepFailedError(f"the hostKey of {settings} {BAD_HOST_KEY}") from error


def _read_private_key(settings: Connection) -> "asyncssh.SSHKey | None":
    import asyncssh

    if settings.private_key is None:
        return None
    try:
        return asyncssh.import_private_key(settings.private_key, settings.private_key_password)
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise StepFailedError(
            f"the privateKey for {settings} cannot be read: {error}. It must be the whole text "
            "of a private key file, and privateKeyPassword must be set if it is encrypted."
        ) from error


def _host_key_algorithms(expected: "asyncssh.SSHKey") -> list[str]:
    """The pinned key's own algorithms first, then all, so that any other key can be named."""
    from asyncssh.public_key import get_default_public_key_algs

    usual = get_default_public_key_algs()
    own = [name for name in expected.sig_algorithms if name in usual]
    return [name.decode() for name in dict.fromkeys([*own, *usual])]


class _Link:
    """One open SSH connection and how many sessions run on it."""

    def __init__(self, connection: "asyncssh.SSHClientConnection") -> None:
        self.connection = connection
        self.sessions = 0
        self.limit = _SESSIONS
        self.used = False

    @property
    def is_free(self) -> bool:
        return self.sessions < self.limit and not self.connection.is_closed()


class _Machine:
    """The open connections with one set of settings.

    A new one is made when all are full, one at a time: OpenSSH drops bursts of connections
    (MaxStartups). Those who wait for it share its outcome, its failure as well.
    """

    def __init__(self, settings: Connection, pool: "Pool") -> None:
        self._settings = settings
        self._pool = pool
        self._links: list[_Link] = []
        self._dialling: Task[None] | None = None

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[_Link]:
        """A connection with room for one session, for as long as the session lasts."""
        while (link := next((link for link in self._links if link.is_free), None)) is None:
            if self._dialling is None or self._dialling.done():
                self._dialling = asyncio.create_task(self._dial())
            await asyncio.shield(self._dialling)
        link.sessions += 1
        try:
            yield link
        finally:
            link.sessions -= 1
            link.used = True

    def abort(self) -> None:
        """Close all connections without waiting for the other side."""
        if self._dialling is not None:
            self._dialling.cancel()
        for link in self._links:
            link.connection.abort()

    async def _dial(self) -> None:
        connection = await self._connect_patiently()
        self._links = [link for link in self._links if not link.connection.is_closed()]
        self._links.append(_Link(connection))

    async def _connect_patiently(self) -> "asyncssh.SSHClientConnection":
        import asyncssh

        settings, failures, pause = self._settings, 0, _FIRST_PAUSE
        while True:
            try:
                async with asyncio.timeout(settings.per_dial_timeout or None):
                    return await self._connect()
            except (OSError, asyncssh.Error) as error:
                failures += 1
                if 0 <= settings.dial_error_limit < failures:
                    reason = _cannot_connect(settings, error, settings.dial_error_limit)
                    raise StepFailedError(reason) from error
            await asyncio.sleep(pause)
            pause = min(pause * _PAUSE_FACTOR, _LONGEST_PAUSE)

    @contextlib.asynccontextmanager
    async def _bastion(self, settings: Connection) -> AsyncIterator[_Link]:
        async with contextlib.AsyncExitStack() as stack:
            try:
                session = self._pool.machine(settings).session()
                link = await stack.enter_async_context(session)
            except StepFailedError as error:
                raise StepFailedError(f"proxy: {error}") from error
            yield link

    async def _connect(self) -> "asyncssh.SSHClientConnection":
        import asyncssh

        settings = self._settings
        expected = _read_host_key(settings)
        offered: list[asyncssh.SSHKey] = []

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(
                self, host: str, addr: str, port: int, key: asyncssh.SSHKey
            ) -> bool:
                # Asked only about a key that is not the pinned one.
                del host, addr, port
                offered.append(key)
                return False

        async with contextlib.AsyncExitStack() as stack:
            keys: list[Any] = []
            if (private_key := _read_private_key(settings)) is not None:
                keys.append(private_key)
            if settings.agent_socket_path:
                keys += await (await stack.enter_async_context(_agent(settings))).get_keys()
            if settings.proxy is not None:
                link = await stack.enter_async_context(self._bastion(settings.proxy))
            try:
                return await asyncssh.connect(
                    settings.host,
                    settings.port,
                    tunnel=link.connection if settings.proxy is not None else (),
                    config=None,
                    known_hosts=([expected], [], []),
                    server_host_key_algs=_host_key_algorithms(expected),
                    client_factory=Client,
                    username=settings.user,
                    password=settings.password,
                    client_keys=keys or None,
                    gss_kex=False,
                    gss_auth=False,
                    keepalive_interval=_KEEPALIVE_SECONDS,
                    keepalive_count_max=_KEEPALIVE_COUNT,
                )
            except asyncssh.HostKeyNotVerifiable as error:
                raise StepFailedError(_wrong_host_key(settings, expected, offered)) from error


@contextlib.asynccontextmanager
async def _agent(settings: Connection) -> "AsyncIterator[asyncssh.SSHAgentClient]":
    import asyncssh

    path = str(settings.agent_socket_path)
    try:
        agent = await asyncssh.connect_agent(path)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise StepFailedError(f"dial unix {path}: connect: {reason}") from error
    async with agent:
        yield agent


def _cannot_connect(settings: Connection, error: Exception, tries: int) -> str:
    import asyncssh

    dial = f"dial tcp {settings.host}:{settings.port}"
    if isinstance(error, TimeoutError):
        reason = f"{dial}: i/o timeout"
    elif isinstance(error, socket.gaierror):
        reason = f"dial tcp: lookup {settings.host}: no such host"
    elif isinstance(error, asyncssh.PermissionDenied):
        reason = f"{_HANDSHAKE}: {_REFUSED_LOGIN}"
    elif isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        reason = f"{dial}: connect: {os.strerror(error.errno).lower()}"
    else:
        reason = f"{_HANDSHAKE}: {error or type(error).__name__}"
    return f"{_through(settings)}after {tries} failed attempts: {reason}"


def _through(settings: Connection) -> str:
    """How the official provider begins the error of a connection through a bastion."""
    return "proxy: " if settings.proxy else ""


def _wrong_host_key(
    settings: Connection, expected: "asyncssh.SSHKey", offered: "list[asyncssh.SSHKey]"
) -> str:
    def show(key: "asyncssh.SSHKey") -> str:
        return f"{key.get_algorithm()} {key.get_fingerprint()}"

    shown = show(offered[-1]) if offered else "a key of an unknown kind"
    return (
        f"{_through(settings)}{_HANDSHAKE}: ssh: host key mismatch: {settings}\n"
        f"  expected: {show(expected)}\n"
        f"  offered:  {shown}\n"
        "Either another machine has this address now, or this one was reinstalled. "
        "Compare with the provider's console, then correct hostKey."
    )


class Pool:
    """All SSH connections of this process."""

    def __init__(self) -> None:
        self._machines: dict[Connection, _Machine] = {}

    def machine(self, settings: Connection) -> _Machine:
        """The connections with these settings."""
        return self._machines.setdefault(settings, _Machine(settings, self))

    def abort(self) -> None:
        """Close all connections at once, even those in use."""
        for machine in self._machines.values():
            machine.abort()
        self._machines = {}

    async def run(
        self,
        settings: Connection,
        command: str,
        *,
        environment: Mapping[str, str],
        stdin: str,
        sink: Sink,
    ) -> str | None:
        """Run a command to its end; return what went wrong, or None when it exited with 0.

        What went wrong is in the words of Go's SSH library. Cancelling ends the command if the
        server allows it. Raises StepFailedError when it cannot be started.
        """
        import asyncssh

        async def start(
            connection: asyncssh.SSHClientConnection,
        ) -> asyncssh.SSHClientProcess[bytes]:
            return await connection.create_process(command, encoding=None, env=environment)

        async with self._open(settings, start) as process:
            try:
                await asyncio.gather(
                    _write(process, stdin.encode()),
                    _read(process.stdout, True, sink),
                    _read(process.stderr, False, sink),
                )
                await process.wait_closed()
            except (OSError, asyncssh.Error):
                return _NO_STATUS
            finally:
                if process.exit_status is None and process.exit_signal is None:
                    with contextlib.suppress(OSError):
                        process.terminate()
                process.close()
            return _how_it_ended(process)

    async def copy(self, settings: Connection, source: "str | Path", destination: str) -> None:
        """Copy a text (str) or a file or directory (Path) to `destination` over there.

        Raises StepFailedError with the path that could not be written.
        """
        import asyncssh

        async def start(connection: asyncssh.SSHClientConnection) -> asyncssh.SFTPClient:
            return await connection.start_sftp_client()

        async with self._open(settings, start) as sftp:
            try:
                await _copy(sftp, source, destination)
            except (OSError, asyncssh.Error) as error:
                raise StepFailedError(
                    f"cannot copy to {destination} on {settings}: {error}"
                ) from error
            finally:
                sftp.exit()

    @contextlib.asynccontextmanager
    async def _open(
        self,
        settings: Connection,
        start: "Callable[[asyncssh.SSHClientConnection], Awaitable[Session]]",
    ) -> AsyncIterator[Session]:
        """Start a session on a connection with room, or on a new connection if the server refuses.

        A server may allow fewer sessions than OpenSSH's default, and a connection that was
        used before may have died since.
        """
        asyncssh = await asyncio.to_thread(importlib.import_module, "asyncssh")
        while True:
            async with self.machine(settings).session() as link:
                try:
                    session = await start(link.connection)
                except (OSError, asyncssh.Error) as error:
                    if link.sessions == 1 and not link.used:
                        raise StepFailedError(
                            f"{settings} accepts the login but starts no session: {error}"
                        ) from error
                    if link.sessions == 1:
                        link.connection.abort()
                    link.limit = max(link.sessions - 1, 1)
                    continue
                yield session
                return


def _how_it_ended(process: "asyncssh.SSHClientProcess[bytes]") -> str | None:
    if process.exit_signal is not None:
        name = process.exit_signal[0]
        number = getattr(signal, f"SIG{name}", 0)
        return f"Process exited with status {128 + number} from signal {name}"
    if process.exit_status is None:
        return _NO_STATUS
    return f"Process exited with status {process.exit_status}" if process.exit_status else None


async def _read(stream: "asyncssh.SSHReader[bytes]", is_stdout: bool, sink: Sink) -> None:
    while data := await stream.read(_CHUNK):
        sink(is_stdout, data)


async def _write(process: "asyncssh.SSHClientProcess[bytes]", data: bytes) -> None:
    # A command need not read what it is given.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for start in range(0, len(data), _CHUNK):
            process.stdin.write(data[start : start + _CHUNK])
            await process.stdin.drain()
        process.stdin.write_eof()


async def _copy(sftp: "asyncssh.SFTPClient", source: "str | Path", destination: str) -> None:
    """The rules of the official provider: an existing directory receives, a file is replaced.

    A directory's path that ends with / stands for what is in it.
    """
    await sftp.makedirs(posixpath.dirname(destination.rstrip("/")) or ".", exist_ok=True)
    is_directory = await sftp.isdir(destination)
    if isinstance(source, str):
        if is_directory:
            raise OSError("it is a directory, and a text needs the path of a file")
        async with sftp.open(destination, "wb") as file:
            await file.write(source.encode())
    elif source.is_dir():
        await _copy_directory(sftp, source, destination)
    else:
        target = posixpath.join(destination, source.name) if is_directory else destination
        await sftp.put(source, target)


async def _copy_directory(sftp: "asyncssh.SFTPClient", source: Path, destination: str) -> None:
    for folder, _, names in os.walk(source):
        relative = Path(folder).relative_to(source).as_posix()
        target = posixpath.normpath(posixpath.join(destination, relative))
        await sftp.makedirs(target, exist_ok=True)
        for name in names:
            await sftp.put(Path(folder, name), posixpath.join(target, name))
