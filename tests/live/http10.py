"""Requests of HTTP/1.0, as `ab` and some health checks send them."""

import shlex
import socket

from tests.live.tls import Address


def status(address: Address, *headers: str) -> str:
    """Send GET / with these headers; return the status of the response."""
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(_request(*headers).encode())
        return status_of(connection.makefile("rb").readline().decode())


def command(address: Address, *headers: str) -> str:
    """Return a command that sends the same from a node, and prints the first line."""
    host, port = address
    send = f"printf %s {shlex.quote(_request(*headers))} >&3"
    return (
        f"timeout 30 bash -c {shlex.quote(f'exec 3<>/dev/tcp/{host}/{port}; {send}; head -1 <&3')}"
    )


def status_of(line: str) -> str:
    """Return the status in the first line of a response."""
    return line.split()[1]


def _request(*headers: str) -> str:
    return "\r\n".join(("GET / HTTP/1.0", *headers, "", ""))
