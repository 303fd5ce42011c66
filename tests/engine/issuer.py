"""A fake identity provider: it signs tokens for anyone, and publishes its keys over HTTPS."""

from __future__ import annotations

import base64
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from lab.ports import reserved_port
from tests.engine.rbac_server import ADDRESS, Authority


@dataclass(frozen=True, kw_only=True)
class FakeIssuer:
    """url: as in the claim iss."""

    url: str
    client: str
    _key: rsa.RSAPrivateKey

    def token(self, *, key: rsa.RSAPrivateKey | None = None, **claims: Any) -> str:
        """A signed token of an hour; claims replace those of a good one. key: another signer's."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": self.client, "iat": now, "exp": now + 3600}
        header = {"alg": "RS256", "kid": "1", "typ": "JWT"}
        text = f"{_encoded(header)}.{_encoded({**usual, **claims})}"
        signature = (key or self._key).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{text}.{_base64(signature)}"


def new_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@contextmanager
def fake_issuer(
    authority: Authority, client: str, *, address: str = ADDRESS
) -> Iterator[FakeIssuer]:
    """Start the issuer with a certificate of an authority. client: the audience of its tokens."""
    with reserved_port(address) as port:
        issuer = FakeIssuer(url=f"https://{address}:{port}/realm", client=client, _key=new_key())
        numbers = issuer._key.public_key().public_numbers()
        published = {
            "/realm/.well-known/openid-configuration": {
                "issuer": issuer.url,
                "jwks_uri": f"{issuer.url}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
            },
            "/realm/keys": {
                "keys": [
                    {
                        "kty": "RSA",
                        "use": "sig",
                        "alg": "RS256",
                        "kid": "1",
                        "n": _base64(numbers.n.to_bytes(256, "big")),
                        "e": "AQAB",
                    }
                ]
            },
        }

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(published.get(self.path, {})).encode()
                self.send_response(200 if self.path in published else 404)
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        login = authority.server(address)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(login.certificate, login.key)
        server = http.server.ThreadingHTTPServer((address, port), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield issuer
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _encoded(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
