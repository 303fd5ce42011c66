"""Certificates, and a TLS client for gateways."""

import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

from lab import paths
from lab.screen import Cluster
from tests.live.counted import wait_for

Address = tuple[str, int]


@dataclass(frozen=True)
class Pair:
    """A certificate and its key in a directory, by the name of the owner."""

    directory: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.directory / f"{self.name}.crt"

    @property
    def key(self) -> Path:
        return self.directory / f"{self.name}.key"


def self_signed(directory: Path, name: str) -> Pair:
    """Create a self-signed certificate."""
    pair = Pair(directory, name)
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}",
            "-keyout", str(pair.key), "-out", str(pair.certificate),
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair


@contextmanager
def forwarded(cluster: Cluster, gateway: str, port: int) -> Iterator[Address]:
    """Forward a port of a gateway to an address of this machine."""
    with NamedTemporaryFile("w+") as output:
        process = subprocess.Popen(
            [
                str(paths.cache().bin / "kubernetes" / "kubectl"),
                f"--kubeconfig={cluster.kubeconfig}", "-n", "istio-system",
                "port-forward", "--address=127.0.0.1", gateway, f":{port}",
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            (own,) = wait_for(
                "the port is forwarded",
                lambda: re.findall(r"from 127.0.0.1:(\d+) ->", Path(output.name).read_text()),
                seconds=180,
            )
            yield "127.0.0.1", int(own)
        finally:
            process.terminate()
            process.wait()


def status_line(address: Address, host: str, client: Pair | None) -> str:
    """Return the first line of the response, or the TLS error."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if client is not None:
        context.load_cert_chain(client.certificate, client.key)
    request = f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    try:
        with (
            socket.create_connection(address, timeout=60) as tcp,
            context.wrap_socket(tcp, server_hostname=host) as tls,
        ):
            tls.sendall(request.encode())
            return tls.recv(4096).decode().partition("\r\n")[0]
    except ssl.SSLError as error:
        return error.reason
