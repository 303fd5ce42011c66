"""Hosts outside the cluster: declared hosts answer on the configured route, others do not.

The hosts are servers of this test on the bridge, where only the nodes reach them.
"""

import datetime
import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from cli import report
from config.load import read_stack
from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.live.edited import STRANGER, add_client, edited
from tests.live.harness import Project
from tests.support.applied import apply

HTTP, HTTPS = 18080, 18443
SECURE, MADE, UNVERIFIED = "secure.test.example", "made.test.example", "unverified.test.example"
PLAIN, UNKNOWN = "plain.test.example", "unknown.test.example"
COUNT = ("--count", "20", "--concurrency", "2", "--timeout", "5s")
WHY = {
    "owner": "the live tests",
    "purpose": "count who may call whom",
    "legalBasis": "no personal data is sent",
    "country": "NO",
    "namespaces": ["shop"],
}


class Server(ThreadingHTTPServer):
    """A server that ignores clients that refuse its certificate."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


class Outside:
    """Servers outside the cluster, and their requests by host."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.requests: Counter[str] = Counter()

    @contextmanager
    def serve(self, port: int, tls: ssl.SSLContext | None = None) -> Iterator[None]:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                requests[self.headers["Host"].split(":")[0]] += 1
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        with Server((self.address, port), Handler) as server:
            if tls is not None:
                server.socket = tls.wrap_socket(
                    server.socket, server_side=True, do_handshake_on_connect=False
                )
            Thread(target=server.serve_forever, daemon=True).start()
            yield
            server.shutdown()


def make_certificates(directory: Path, names: list[str]) -> tuple[str, ssl.SSLContext]:
    """Create a CA; return it in PEM, and a server context with a certificate for these names."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "outside")])

    def certificate(name: x509.Name, of: Any, extension: x509.ExtensionType) -> bytes:
        builder = x509.CertificateBuilder(
            issuer_name=ca_name,
            subject_name=name,
            public_key=of.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - datetime.timedelta(hours=1),
            not_valid_after=now + datetime.timedelta(days=1),
        ).add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        signed = builder.sign(ca_key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    ca = certificate(ca_name, ca_key, x509.BasicConstraints(ca=True, path_length=None))
    own = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
    file = directory / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + certificate(subject, key, own))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return ca.decode(), context


def allow(address: str) -> Any:
    https = {"ports": [{"number": HTTPS, "protocol": "HTTPS"}], "addresses": [address]}
    http = {"ports": [{"number": HTTP, "protocol": "HTTP"}], "addresses": [address]}
    made = {**WHY, **https, "tls": "originate"}
    hosts = {
        "secure": {**WHY, **https, "host": SECURE},
        "plain": {**WHY, **http, "host": PLAIN},
        "made": {**made, "host": MADE, "caSecret": "test-ca"},
        "unverified": {**made, "host": UNVERIFIED, "through": "direct"},
    }

    def edit(mesh: dict[str, Any]) -> None:
        mesh["namespaces"][STRANGER] = {"injection": True}
        mesh["egress"] = {"hosts": hosts}

    return edit


@pytest.fixture(scope="module")
def outside(
    project: Project, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Outside]:
    """Servers outside the cluster, with four names that are declared for the namespace shop."""
    servers = Outside(f"{project.machine_addresses()['cp-1'].rsplit('.', 1)[0]}.1")
    ca, tls = make_certificates(tmp_path_factory.mktemp("tls"), [SECURE, MADE, UNVERIFIED])
    names = {"name": "test-ca", "namespace": "istio-system"}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": names, "stringData": {"ca.crt": ca}}
    with servers.serve(HTTP), servers.serve(HTTPS, tls):
        apply(cluster, [secret])
        with edited(project, allow(servers.address)):
            add_client(cluster, STRANGER)
            settle(cluster, servers)
            yield servers
        cluster.kubectl("-n", "istio-system", "delete", "secret", "test-ca")


def settle(cluster: Cluster, outside: Outside) -> None:
    """Wait until the proxies and the gateway have the new configuration."""

    def answers(url: str, host: str) -> bool:
        return bool(cluster.call("shop", url, "--host", host)["ok"])

    for url, host in (
        (f"http://{outside.address}:{HTTP}/", PLAIN),
        (originated_url(outside), MADE),
    ):
        wait_for(f"{host} answers", partial(answers, url, host), seconds=180)
    outside.requests.clear()


def originated_url(outside: Outside) -> str:
    return f"http://{outside.address}:80/"


def ask(cluster: Cluster, namespace: str, url: str, host: str) -> dict[str, Any]:
    return cluster.call(namespace, url, "--host", host, "--insecure", *COUNT)


def passed_gateway(cluster: Cluster, host: str) -> list[str]:
    """Return the lines about a host in the access log of the egress gateway."""
    lines = cluster.kubectl("-n", "istio-system", "logs", "deploy/istio-egressgateway", "--tail=-1")
    return [line for line in lines.splitlines() if line.startswith("[") and host in line]


def test_a_declared_host_answers_through_the_gateway(cluster: Cluster, outside: Outside) -> None:
    http = ask(cluster, "shop", f"http://{outside.address}:{HTTP}/", PLAIN)
    https = ask(cluster, "shop", f"https://{outside.address}:{HTTPS}/", SECURE)
    assert http["statuses"] == https["statuses"] == {"200": 20}
    assert outside.requests == {PLAIN: 20, SECURE: 20}

    # Envoy flushes its log every second, and writes the line of a connection when it ends.
    def logged() -> bool:
        lines = [line for line in passed_gateway(cluster, PLAIN) if " 200 " in line]
        return len(lines) >= 20 and bool(passed_gateway(cluster, SECURE))

    wait_for("the gateway logs the requests", logged, seconds=180)


def test_the_gateway_originates_and_verifies_tls(cluster: Cluster, outside: Outside) -> None:
    before = outside.requests[MADE]
    made = ask(cluster, "shop", originated_url(outside), MADE)
    assert made["statuses"] == {"200": 20}
    assert outside.requests[MADE] == before + 20
    assert passed_gateway(cluster, MADE)
    # No public CA has issued the certificate of the server.
    unverified = ask(cluster, "shop", originated_url(outside), UNVERIFIED)
    assert unverified["statuses"] == {"503": 20}
    assert outside.requests[UNVERIFIED] == 0


def test_a_client_cannot_bypass_the_gateway(cluster: Cluster, outside: Outside) -> None:
    past = ask(cluster, "shop", f"https://{outside.address}:{HTTPS}/", MADE)
    assert past["ok"] == 0, past


def test_an_undeclared_host_is_refused(cluster: Cluster, outside: Outside) -> None:
    http = ask(cluster, "shop", f"http://{outside.address}:{HTTP}/", UNKNOWN)
    https = ask(cluster, "shop", f"https://{outside.address}:{HTTPS}/", UNKNOWN)
    assert (http["ok"], https["ok"]) == (0, 0), (http, https)
    assert outside.requests[UNKNOWN] == 0


def test_an_undeclared_namespace_is_refused(cluster: Cluster, outside: Outside) -> None:
    before = outside.requests.copy()
    for url, host in (
        (f"http://{outside.address}:{HTTP}/", PLAIN),
        (f"https://{outside.address}:{HTTPS}/", SECURE),
        (originated_url(outside), MADE),
    ):
        tally = ask(cluster, STRANGER, url, host)
        assert tally["ok"] == 0, (host, tally)
    # The gateway also refuses it by its own name.
    gateway = "istio-egressgateway.istio-system.svc.cluster.local"
    assert ask(cluster, STRANGER, f"http://{gateway}:80/", PLAIN)["ok"] == 0
    assert ask(cluster, STRANGER, f"https://{gateway}:443/", SECURE)["ok"] == 0
    assert outside.requests == before


@pytest.mark.usefixtures("outside")
def test_the_report_lists_the_deployed_hosts(project: Project, cluster: Cluster) -> None:
    config = read_stack(project.directory, project.stack).usable()
    lines = report.egress(config).markdown().splitlines()
    entries = cluster.items("serviceentries", "--namespace=istio-system")
    assert len(lines) - 4 == len(entries) == 4
    for entry in entries:
        (line,) = (line for line in lines if f"| {entry['spec']['hosts'][0]} |" in line)
        assert entry["metadata"]["annotations"]["nordmesh.io/legal-basis"] in line
