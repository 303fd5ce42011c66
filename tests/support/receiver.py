"""Receivers of alerts: an HTTP server and a mail server that keep what they get."""

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


@dataclass
class Webhook:
    """Requests that an HTTP server got, by their path."""

    port: int = 0
    requests: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def alerts(self, path: str) -> list[tuple[str, str]]:
        """The status and the name of each alert at a path, in the order of arrival."""
        return [
            (alert["status"], alert["labels"]["alertname"])
            for request in list(self.requests.get(path, []))
            for alert in request["alerts"]
        ]


@contextmanager
def webhook(address: str = "127.0.0.1") -> Iterator[Webhook]:
    """Run an HTTP server on a free port."""
    kept = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kept.requests.setdefault(self.path, []).append(json.loads(body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with _running(ThreadingHTTPServer((address, 0), Handler)) as kept.port:
        yield kept


@dataclass
class Mailbox:
    """Mails that an SMTP server got over TLS, with the login of each connection."""

    port: int = 0
    mails: list[str] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)


@contextmanager
def mailbox(certificate: Path, key: Path) -> Iterator[Mailbox]:
    """Run an SMTP server on a free port that accepts mail only after STARTTLS and a login."""
    kept = Mailbox()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 ready")
            secure = False
            while line := self._line():
                word = line.upper()
                if word.startswith(("EHLO", "HELO")):
                    self._say("250-hello", "250 AUTH PLAIN" if secure else "250 STARTTLS")
                elif word == "STARTTLS":
                    self._say("220 go")
                    self.connection = context.wrap_socket(self.connection, server_side=True)
                    self.rfile = self.connection.makefile("rb")
                    secure = True
                elif not secure and word != "QUIT":
                    self._say("530 TLS first")
                elif word.startswith("AUTH PLAIN "):
                    kept.logins.append(line.rpartition(" ")[2])
                    self._say("235 welcome")
                elif word.startswith("RCPT TO:"):
                    kept.recipients.append(line.partition("<")[2].rstrip(">"))
                    self._say("250 ok")
                elif word == "DATA":
                    self._say("354 send")
                    kept.mails.append("".join(self._data()))
                    self._say("250 kept")
                elif word == "QUIT":
                    self._say("221 bye")
                    return
                else:
                    self._say("250 ok")

        def _line(self) -> str:
            try:
                return self.rfile.readline().decode().strip()
            except ConnectionError:  # the client ended without QUIT
                return ""

        def _data(self) -> Iterator[str]:
            while (line := self.rfile.readline().decode()) not in (".\r\n", ""):
                yield line

        def _say(self, *lines: str) -> None:
            self.connection.sendall("".join(f"{line}\r\n" for line in lines).encode())

    with _running(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)) as kept.port:
        yield kept


@contextmanager
def _running(server: socketserver.TCPServer) -> Iterator[int]:
    """Serve in a thread; yields the port."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    with server:
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()
