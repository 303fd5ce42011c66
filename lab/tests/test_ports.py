"""Reserved ports: refused until their own server listens, and assigned to nobody else."""

import socket
import subprocess
import sys

import pytest

from lab import paths
from lab.ports import reserved_port

HERE = "127.0.0.1"


def test_a_reserved_port_refuses_connections() -> None:
    with reserved_port() as port, pytest.raises(ConnectionRefusedError):
        socket.create_connection((HERE, port))


def test_a_server_can_listen_on_a_reserved_port() -> None:
    with reserved_port() as port, socket.create_server((HERE, port)):
        socket.create_connection((HERE, port)).close()
        with pytest.raises(OSError, match="in use"):
            socket.create_server((HERE, port))


# In its own network, where the kernel has ten ports to choose from.
_CHOOSE = """
import socket
from lab.ports import reserved_port

with reserved_port() as port:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(9)]
    print(port in {server.getsockname()[1] for server in servers})
    socket.create_server(("127.0.0.1", 0))
"""


def test_a_reserved_port_is_not_assigned_to_another_socket() -> None:
    few = "echo 40000 40009 >/proc/sys/net/ipv4/ip_local_port_range; ip link set lo up"
    program = (sys.executable, "-c", _CHOOSE)
    ended = subprocess.run(
        ["unshare", "--net", "sh", "-c", f'{few}; exec "$@"', "-", *program],
        cwd=paths.PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "False\n"
    assert "[Errno 98] Address already in use" in ended.stderr
