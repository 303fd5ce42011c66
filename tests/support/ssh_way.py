"""A transparent proxy to the SSH servers of nodes that can add latency and cut connections.

`Way` forwards connections to a server, or to their original destination if `redirected` sends them
here.
"""

import asyncio
import fcntl
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import Any

_HERE = "127.0.0.1"
_CHUNK = 65536
_SO_ORIGINAL_DST = 80
# Marks packets of the proxy itself, so that they are not redirected again.
_MARK = 0x6E6D
# A socket that is closed with this sends a reset.
_RESET = struct.pack("ii", 1, 0)

Address = tuple[str, int]


class Listener:
    """A port of 127.0.0.1 whose connections a coroutine handles, in a separate thread."""

    def __init__(self, answer: Callable[[socket.socket], Coroutine[Any, Any, None]]) -> None:
        self._answer = answer
        self.loop = asyncio.new_event_loop()
        self._socket = socket.create_server((_HERE, 0), backlog=256)
        self._thread = threading.Thread(target=self._run, daemon=True)
        port: int = self._socket.getsockname()[1]
        self.port = port

    def __enter__(self) -> "Listener":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._socket.setblocking(False)
        with closing(self.loop), self._socket:
            self.loop.create_task(self._accept())
            self.loop.run_forever()
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def _accept(self) -> None:
        answering: set[asyncio.Task[None]] = set()
        while True:
            client, _ = await self.loop.sock_accept(self._socket)
            task = asyncio.create_task(self._answer(client))
            answering.add(task)
            task.add_done_callback(answering.discard)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The way to cut connections.

    is_reset: whether the nodes get a reset. Otherwise they wait for data, as behind a firewall that
    dropped the connection. stays: whether new connections are refused until it is restored.
    """

    is_reset: bool
    stays: bool


class Way:
    """A proxy on 127.0.0.1, which runs in a separate thread while it is entered.

    round_trip: added round-trip time in seconds, also for the TCP handshake. to: the server; None
    for the original destination of a redirected connection. opened: the number of connections.
    carried: the number of bytes that the nodes have sent.
    """

    def __init__(self, *, round_trip: float = 0, to: Address | None = None) -> None:
        self.round_trip, self.opened, self.carried = round_trip, 0, 0
        self._to = to
        self._links: set[_Link] = set()
        self._is_closed = False
        self._armed: tuple[int, Cut] | None = None
        self._listener = Listener(self._answer)

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._listener.port

    def __enter__(self) -> "Way":
        self._listener.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut(Cut(is_reset=True, stays=True))
        self._listener.__exit__()

    def cut(self, how: Cut) -> int:
        """Cut all connections now; return their number."""

        async def cut_all() -> int:
            return self._cut(how)

        return asyncio.run_coroutine_threadsafe(cut_all(), self._listener.loop).result()

    def cut_after(self, sent: int, how: Cut) -> None:
        """Cut all connections after the nodes have sent this number of additional bytes."""
        self._armed = (self.carried + sent, how)

    def restore(self) -> None:
        """Accept connections again; those that were cut stay cut."""
        self._is_closed, self._armed = False, None

    @property
    def is_cut(self) -> bool:
        """Whether `cut_after` has cut the connections, or was never called."""
        return self._armed is None

    def _cut(self, how: Cut) -> int:
        self._is_closed, self._armed = how.stays, None
        open_links = [link for link in self._links if not link.is_cut]
        for link in open_links:
            link.cut(is_reset=how.is_reset)
        return len(open_links)

    def sent(self, count: int) -> None:
        """Count the bytes from a node before they are forwarded."""
        self.carried += count
        if self._armed and self.carried >= self._armed[0]:
            self._cut(self._armed[1])

    async def _answer(self, client: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=client)
        if self._is_closed:
            _reset(writer)
            return
        self.opened += 1
        try:
            await asyncio.sleep(self.round_trip)
            link = _Link(
                self, (reader, writer), await _connect(self._to or original_destination(client))
            )
        except OSError:
            _reset(writer)
            return
        self._links.add(link)
        try:
            await link.carry()
        finally:
            self._links.discard(link)


class _Link:
    """A connection from a client and the connection to its node."""

    Half = tuple[asyncio.StreamReader, asyncio.StreamWriter]

    def __init__(self, way: Way, client: Half, node: Half) -> None:
        self._way, self._client, self._node = way, client, node
        self._halves: list[asyncio.Task[None]] = []
        self.is_cut = False

    async def carry(self) -> None:
        """Forward data in both directions until either side closes, or until cut."""
        self._halves = [
            asyncio.create_task(self._carry(self._client[0], self._node[1], is_node=False)),
            asyncio.create_task(self._carry(self._node[0], self._client[1], is_node=True)),
        ]
        await asyncio.wait(self._halves)
        if not self.is_cut:
            for writer in (self._client[1], self._node[1]):
                writer.close()
        else:
            # The connection of the node stays open and silent until the node closes it.
            with suppress(OSError):
                while await self._node[0].read(_CHUNK):
                    pass
            self._node[1].close()

    def cut(self, *, is_reset: bool) -> None:
        """Reset the connection of the client, and with `is_reset` also that of the node."""
        self.is_cut = True
        for half in self._halves:
            half.cancel()
        _reset(self._client[1])
        if is_reset:
            _reset(self._node[1])

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_node: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        in_flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def arrive() -> None:
            while True:
                due, data = await in_flight.get()
                await asyncio.sleep(due - loop.time())
                if not data:
                    writer.write_eof()
                    return
                if is_node:
                    self._way.sent(len(data))
                if self.is_cut:
                    return
                writer.write(data)
                await writer.drain()

        arriving = asyncio.create_task(arrive())
        try:
            data = b"-"
            while data:
                data = await reader.read(_CHUNK)
                in_flight.put_nowait((loop.time() + self._way.round_trip / 2, data))
            await arriving
        except OSError:
            # Close the other side as well.
            writer.close()
        finally:
            arriving.cancel()


async def _connect(to: Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    node = socket.socket()
    node.setblocking(False)
    with suppress(PermissionError):  # only root can set the mark, and only root redirects
        node.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, _MARK)
    await asyncio.get_running_loop().sock_connect(node, to)
    return await asyncio.open_connection(sock=node)


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def original_destination(client: socket.socket) -> Address:
    """Return the original destination of a redirected connection."""
    destination = client.getsockopt(socket.SOL_IP, _SO_ORIGINAL_DST, 16)
    port, address = struct.unpack("!2xH4s8x", destination)
    return socket.inet_ntoa(address), port


@contextmanager
def redirected(network: str, port: int, *, service: int = 22) -> Iterator[None]:
    """Redirect connections from this machine to a network to a local port.

    service: their port, by default that of SSH. Waits for other test runs on this machine that
    redirect the same.
    """
    rule = [
        *("OUTPUT", "-d", network, "-p", "tcp", "--dport", str(service)),
        *("-m", "mark", "!", "--mark", str(_MARK), "-j", "REDIRECT", "--to-ports", str(port)),
    ]

    def iptables(action: str) -> None:
        subprocess.run(["iptables", "-w", "-t", "nat", action, *rule], check=True)

    name = f"nordmesh-redirect-{network.replace('/', '-')}-{service}"
    with Path(gettempdir(), name).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        iptables("-I")
        try:
            yield
        finally:
            iptables("-D")
