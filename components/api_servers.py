"""Choose the API server that a run, or a command, uses from outside the nodes."""

import asyncio
import ssl
from collections.abc import Sequence

from components.threads import in_thread
from config import ports

_SECONDS = 3
_REQUEST = b"GET /readyz HTTP/1.1\r\nHost: nordmesh\r\nConnection: close\r\n\r\n"
READY = (200, 401, 403)
"""The HTTP statuses of an API server that is ready; it may refuse requests without credentials."""


async def first_ready(addresses: Sequence[str]) -> str:
    """The first of these addresses whose API server is ready; the first of all if none is.

    All are asked at once, unless there is only one. So the answer changes only while a control
    plane is down. In a thread: the program makes its resources in its own event loop meanwhile,
    and the time would run out with answers unread.
    """
    if len(addresses) == 1:
        return addresses[0]
    return await in_thread(lambda: asyncio.run(_ask(addresses)))


async def statuses(addresses: Sequence[str]) -> list[int | None]:
    """The HTTP status of each API server's /readyz; None if there is no answer."""
    return await asyncio.gather(*map(_answer, addresses))


async def _ask(addresses: Sequence[str]) -> str:
    asked = [asyncio.ensure_future(_answer(address)) for address in addresses]
    try:
        for address, answer in zip(addresses, asked, strict=True):
            if await answer in READY:
                return address
        return addresses[0]
    finally:
        for answer in asked:
            answer.cancel()


async def _answer(address: str) -> int | None:
    try:
        return await asyncio.wait_for(_status(address), _SECONDS)
    except (OSError, TimeoutError, ValueError, IndexError):
        return None


async def _status(address: str) -> int:
    """The HTTP status of /readyz."""
    # Nothing secret is sent, and the connection after this one verifies the cluster's CA.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(address, ports.API, ssl=context)
    try:
        writer.write(_REQUEST)
        return int((await reader.readline()).split()[1])
    finally:
        writer.close()
