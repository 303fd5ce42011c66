"""A real API server with RBAC, its etcd, and the controllers for certificates and deletions."""

from __future__ import annotations

import base64
import datetime
import http.client
import ipaddress
import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from components.manifests import kubeadm
from lab import paths
from lab.ports import reserved_port

ADDRESS = "127.0.0.1"
_START_SECONDS = 900  # 8 s of one core, on a machine that may be busy
Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Login:
    """A client certificate, as files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, kw_only=True)
class ApiServer:
    """A running API server. administrator: a kubeconfig as in the outputs of a stack."""

    port: int
    authority: Authority
    folder: Path
    administrator: str = field(repr=False)
    _local: threading.local = field(default_factory=threading.local, repr=False)

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        login: Login | None = None,
        token: str | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Values]:
        """Send a request as a certificate or a token; by default as the administrator."""
        if login is None and token is None:
            login = self.authority.administrator
        headers = {"Content-Type": content_type, **(headers or {})}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        connection = self._connection(login)
        text = None if body is None else json.dumps(body)
        for attempt in (1, 2):
            try:
                connection.request(method, path, text, headers)
                response = connection.getresponse()
                content = response.read()
                break
            except (http.client.HTTPException, OSError):
                connection.close()  # the server closes one that was idle for some minutes
                if attempt == 2:
                    raise
        try:
            return response.status, dict(json.loads(content))
        except ValueError:
            return response.status, {"text": content.decode()}

    def ok(self, method: str, path: str, body: object = None, **options: Any) -> Values:
        """Send a request as the administrator, and return the object after checking the status."""
        status, answer = self.request(method, path, body, **options)
        assert status in (200, 201), answer
        return answer

    def apply(self, manifest: Values, **options: Any) -> tuple[int, Values]:
        """Apply a manifest on the server, as the provider of Pulumi does."""
        path = f"{self.path_of(manifest)}?fieldManager=nordmesh&force=true"
        apply = "application/apply-patch+yaml"
        return self.request("PATCH", path, manifest, content_type=apply, **options)

    def path_of(self, manifest: Values) -> str:
        """The path of a manifest's object."""
        version, metadata = manifest["apiVersion"], manifest["metadata"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        known = self.ok("GET", base)["resources"]
        (resource,) = (
            one for one in known if one["kind"] == manifest["kind"] and "/" not in one["name"]
        )
        place = f"/namespaces/{metadata['namespace']}" if resource["namespaced"] else ""
        return f"{base}{place}/{resource['name']}/{metadata['name']}"

    def is_ready(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/readyz")[0] == 200
        return False

    def _connection(self, login: Login | None) -> http.client.HTTPSConnection:
        """This thread's connection for a certificate, which stays open."""
        known: dict[Login | None, http.client.HTTPSConnection]
        known = self._local.__dict__.setdefault("connections", {})
        if login not in known:
            context = ssl.create_default_context(cafile=self.authority.file)
            if login is not None:
                context.load_cert_chain(login.certificate, login.key)
            known[login] = http.client.HTTPSConnection(
                ADDRESS, self.port, context=context, timeout=60
            )
        return known[login]


class Authority:
    """The CA of clients and servers, with its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        is_authority = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = (
            self._builder(self._name, self._key, days=400)
            .add_extension(is_authority, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.file, self.key_file = folder / "ca.crt", folder / "ca.key"
        self.file.write_bytes(pem(self._certificate))
        self.key_file.write_bytes(pem(self._key))
        self.administrator = self.login("admin", "system:masters")

    def login(self, user: str, *groups: str, days: float = 1) -> Login:
        """A client certificate. days: until its end; negative if it has ended."""
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, user)])
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return self._files(subject, [(usage, False)], days)

    def server(self, address: str = ADDRESS, *hosts: str) -> Login:
        """A server certificate for an address and host names."""
        names = x509.SubjectAlternativeName(
            [x509.IPAddress(ipaddress.ip_address(address)), *map(x509.DNSName, hosts)]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        return self._files(subject, [(names, False)], 1)

    def _files(
        self, subject: x509.Name, extensions: Sequence[tuple[x509.ExtensionType, bool]], days: float
    ) -> Login:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(subject, key, days=days)
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        made = builder.sign(self._key, hashes.SHA256())
        login = Login(
            certificate=self._folder / f"{made.serial_number}.crt",
            key=self._folder / f"{made.serial_number}.key",
        )
        login.certificate.write_bytes(pem(made))
        login.key.write_bytes(pem(key))
        return login

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: float
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .issuer_name(self._name)
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=2))
            .not_valid_after(now + datetime.timedelta(days=days))
        )


def pem(content: x509.Certificate | ec.EllipticCurvePrivateKey) -> bytes:
    if isinstance(content, x509.Certificate):
        return content.public_bytes(serialization.Encoding.PEM)
    return content.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


@contextmanager
def api_server(
    folder: Path, authority: Authority, *flags: str, hosts: Sequence[str] = ()
) -> Iterator[ApiServer]:
    """Start the servers, and end them. flags: more flags of the API server. hosts: its names."""
    cache = paths.cache().bin
    keys = ec.generate_private_key(ec.SECP256R1())
    (folder / "accounts.key").write_bytes(pem(keys))
    served = authority.server(ADDRESS, *hosts)
    with ExitStack() as stack:
        etcd, peer, port = (stack.enter_context(reserved_port()) for _ in range(3))
        server = ApiServer(
            port=port,
            authority=authority,
            folder=folder,
            administrator=_kubeconfig(authority, port),
        )
        (folder / "admin.conf").write_text(server.administrator)
        url = f"http://{ADDRESS}:{etcd}"
        _start(
            stack,
            folder,
            cache / "etcd" / "etcd",
            "--data-dir=etcd",
            f"--listen-client-urls={url}",
            f"--advertise-client-urls={url}",
            f"--listen-peer-urls=http://{ADDRESS}:{peer}",
            "--unsafe-no-fsync",  # test data need not survive a crash
        )
        is_running = _start(
            stack,
            folder,
            cache / "kubernetes" / "kube-apiserver",
            f"--etcd-servers={url}",
            f"--bind-address={ADDRESS}",
            f"--secure-port={port}",
            f"--tls-cert-file={served.certificate}",
            f"--tls-private-key-file={served.key}",
            f"--client-ca-file={authority.file}",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://test",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-key-file=accounts.key",
            "--service-account-signing-key-file=accounts.key",
            *flags,
        )

        def is_ready() -> bool:
            assert is_running(), (folder / "kube-apiserver.log").read_text()[-3000:]
            return server.is_ready()

        deadline = time.monotonic() + _START_SECONDS
        while not is_ready():
            assert time.monotonic() < deadline, (folder / "kube-apiserver.log").read_text()[-3000:]
            time.sleep(0.2)
        _start(
            stack,
            folder,
            cache / "kubernetes" / "kube-controller-manager",
            "--kubeconfig=admin.conf",
            # Pulumi waits until the collector has removed the object that it deletes.
            "--controllers=csrsigning,garbagecollector",
            "--leader-elect=false",
            "--secure-port=0",
            f"--cluster-signing-cert-file={authority.file}",
            f"--cluster-signing-key-file={authority.key_file}",
        )
        yield server


def _start(stack: ExitStack, folder: Path, program: Path, *flags: str) -> Callable[[], bool]:
    log = stack.enter_context((folder / f"{program.name}.log").open("wb"))
    process = subprocess.Popen([program, *flags], cwd=folder, stdout=log, stderr=log)

    def end() -> None:
        process.kill()
        process.wait()

    stack.callback(end)
    return lambda: process.poll() is None


def _kubeconfig(authority: Authority, port: int) -> str:
    login = authority.administrator
    data = {
        "ca": authority.file,
        "clientCertificate": login.certificate,
        "clientKey": login.key,
    }
    encoded = {key: base64.b64encode(path.read_bytes()).decode() for key, path in data.items()}
    text = kubeadm.admin_kubeconfig(encoded, endpoint=ADDRESS, address=ADDRESS)
    return text.replace(f"{ADDRESS}:6443", f"{ADDRESS}:{port}")
