"""The common code of both stand-ins: start a plugin, talk to the engine, and end.

A plugin is a gRPC server that prints its port as the first line of its standard output.
The engine ends it with SIGINT; when the engine itself is killed, the plugin's standard
input reaches its end, and that counts as SIGINT too.
"""

import asyncio
import contextlib
import os
import signal
import stat
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from itertools import accumulate

import grpc.aio  # type: ignore[import-untyped]
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc

# The engine allows messages of 400 MiB; the default of gRPC is 4 MiB.
_MESSAGE_LIMIT = 400 * 1024 * 1024
CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
    ("grpc.max_send_message_length", _MESSAGE_LIMIT),
]
_LOG_LINE_LIMIT = 16 * 1024
_LOG_MESSAGE_LIMIT = 64 * 1024
_BACKLOG = 64
# How long a child may take to end after a signal, in seconds.
_GRACE = 2.0


class StepFailedError(Exception):
    """A step cannot be done; the text is what the user reads."""


async def end(process: Process) -> None:
    """End a child with all its own children: first with a signal, then by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _GRACE)
            return


_ESCAPES = {
    "\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v",
    "\\": r"\\", '"': r"\"",
}  # fmt: skip


def failure(reason: str, command: str, output: bytes) -> str:
    """The official provider's error of a command: the reason, the whole command, its output."""
    return f"{reason}: running {_quoted(command)}:\n{output.decode(errors='replace')}"


def _quoted(text: str) -> str:
    """Quote a text in the format of Go's %q."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Engine:
    """The calls to the engine's log that a plugin needs."""

    def __init__(self, address: str | None) -> None:
        """`address` is host:port, or None if the plugin was started by hand."""
        self._stub: engine_pb2_grpc.EngineStub | None = None
        if address is not None:
            channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            self._stub = engine_pb2_grpc.EngineStub(channel)
        self._streams = 0

    async def send(self, request: engine_pb2.LogRequest) -> None:
        """Log one message; ignore an engine that no longer listens."""
        if self._stub is None:
            return
        try:
            await self._stub.Log(request)
        except grpc.RpcError:
            return

    async def debug(self, message: str) -> None:
        """Log a message that only `pulumi up --debug` shows."""
        await self.send(engine_pb2.LogRequest(severity=engine_pb2.DEBUG, message=message))

    def stream(self, urn: str) -> "LogStream":
        """Start a stream of status lines of one resource."""
        self._streams += 1
        return LogStream(self, urn, self._streams)


class LogStream:
    """Output of a running command, sent to the engine a batch of whole lines at a time.

    Feeding never waits, so a slow engine cannot hold up a command; a line of any length is
    cut into pieces.
    """

    def __init__(self, engine: Engine, urn: str, stream_id: int) -> None:
        self._engine = engine
        self._urn = urn
        self._stream_id = stream_id
        self._partial = b""
        self._lines: list[str] = []
        self._sender: asyncio.Task[None] | None = None

    def feed(self, data: bytes) -> None:
        """Add output."""
        *whole, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _LOG_LINE_LIMIT:
            whole.append(self._partial)
            self._partial = b""
        self._queue(whole)

    async def close(self) -> None:
        """Send the rest, including an unfinished line."""
        self._queue([self._partial])
        self._partial = b""
        if self._sender is not None:
            await self._sender

    def _queue(self, lines: list[bytes]) -> None:
        for line in lines:
            text = line.decode(errors="replace").rstrip("\r")
            starts = range(0, len(text), _LOG_LINE_LIMIT)
            self._lines += [text[start : start + _LOG_LINE_LIMIT] for start in starts]
        if self._lines and (self._sender is None or self._sender.done()):
            self._sender = asyncio.create_task(self._send())

    async def _send(self) -> None:
        while self._lines:
            # A terminal shows one line a message; only a backlog is sent in larger pieces.
            batch = 1
            if len(self._lines) > _BACKLOG:
                sizes = accumulate(len(line) for line in self._lines)
                batch += sum(1 for size in sizes if size < _LOG_MESSAGE_LIMIT)
            message = "\n".join(self._lines[:batch])
            del self._lines[:batch]
            await self._engine.send(
                engine_pb2.LogRequest(
                    severity=engine_pb2.INFO,
                    urn=self._urn,
                    message=message,
                    streamId=self._stream_id,
                    ephemeral=True,
                )
            )


def engine_address(arguments: list[str]) -> str | None:
    """The engine's host:port, which is the last argument of a plugin that an engine starts."""
    return arguments[-1] if arguments and not arguments[-1].startswith("-") else None


def _engine_gone(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` when the pipe that the engine holds as our standard input is closed."""
    descriptor = sys.stdin.fileno()
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, readable)


async def serve(
    register: Callable[[grpc.aio.Server], None],
    on_stop: Callable[[], Awaitable[None]],
) -> None:
    """Run a plugin until the engine ends it, then leave the process at once.

    The process is left without the interpreter's own clean-up, since the engine waits for
    it at the end of every command.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = grpc.aio.server(options=CHANNEL_OPTIONS)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    _engine_gone(loop, stop)
    await stop.wait()
    await on_stop()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
