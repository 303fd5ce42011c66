"""Servers that store Pulumi state or snapshots, started for a test run: PostgreSQL and S3.

Both listen on one address only, with TLS from a temporary CA, and store their data in a temporary
directory. An existing database of the machine is never touched.
"""

from __future__ import annotations

import datetime
import getpass
import ipaddress
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lab import paths, programs

_ADDRESS = "127.0.0.1"
_PROGRAMS_OF_POSTGRESQL = Path("/usr/lib/postgresql")
_REGION = "eu-north-1"
_HEALTH = "/health"
_SECONDS = 180


@dataclass(frozen=True)
class Backend:
    """A Pulumi backend, as docs/state.md describes it below `heading`.

    variables: values for its commands. environment: the login, if the commands leave it to the
    user. contents: everything that is stored, by name. lose: destroys everything.
    """

    heading: str
    variables: Mapping[str, str]
    contents: Callable[[], dict[str, bytes]]
    lose: Callable[[], None]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


# --- a directory ---------------------------------------------------------------------------------


def directory(path: Path) -> Backend:
    """Create a backend in a directory."""

    def lose() -> None:
        shutil.rmtree(path)
        path.mkdir()

    variables = {"DIRECTORY": str(path)}
    return Backend("A directory", variables, lambda: _files(path), lose)


def _files(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


# --- PostgreSQL ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server whose superuser is `admin`.

    passwords: password file for `admin` and for the role `pulumi`, which does not exist yet.
    """

    port: int
    authority: Path
    passwords: Path

    def backend(self, statements: str) -> Backend:
        """Create a backend in the empty database `pulumi` with the statements of the guide."""

        def lose() -> None:
            self.sql("DROP DATABASE IF EXISTS pulumi WITH (FORCE); DROP ROLE IF EXISTS pulumi")
            self.sql(statements)
            self.sql(f"ALTER ROLE pulumi PASSWORD '{self.password}'")

        lose()
        variables = {
            "PG_HOST": f"{_ADDRESS}:{self.port}",
            "PG_CA": str(self.authority),
            "PG_PASSWORDS": str(self.passwords),
        }
        return Backend("A PostgreSQL database", variables, self._contents, lose)

    @property
    def password(self) -> str:
        """Password of the role `pulumi`."""
        return self.passwords.read_text().splitlines()[1].rpartition(":")[2]

    def sql(self, statements: str, database: str = "postgres") -> str:
        """Run statements as admin; return one line per row with columns separated by `|`."""
        environment = {
            "PGHOST": _ADDRESS,
            "PGPORT": str(self.port),
            "PGUSER": "admin",
            "PGDATABASE": database,
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": str(self.authority),
            "PGPASSFILE": str(self.passwords),
        }
        result = subprocess.run(
            ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--file=-"],
            env={**os.environ, **environment},
            input=f"\\set ON_ERROR_STOP on\n{statements};\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def _contents(self) -> dict[str, bytes]:
        if not self.sql("SELECT to_regclass('pulumi_state')", "pulumi").strip():
            return {}
        # The backend stores each object in base64.
        query = "SELECT key, encode(decode(data->>'data', 'base64'), 'hex') FROM pulumi_state"
        rows = (line.rpartition("|") for line in self.sql(query, "pulumi").splitlines())
        return {key: bytes.fromhex(value) for key, _, value in rows}


@contextmanager
def postgres(port: int) -> Iterator[Postgres]:
    """Start a PostgreSQL server from Debian's package, as an unprivileged user."""
    bin_dir = _programs_of_postgresql()
    # Not below the directory of pytest, which only its owner can enter.
    root = Path(tempfile.mkdtemp(prefix="nordmesh-postgres-"))
    data = root / "data"
    words = {role: secrets.token_urlsafe(24) for role in ("admin", "pulumi")}
    authority = make_certificate(root)
    first = _private(root / "first-password", words["admin"])
    as_user = _as_unprivileged_user()
    for path in (root, first, root / "server.key"):
        shutil.chown(path, as_user["user"])
    settings = {
        "listen_addresses": _ADDRESS,
        "port": port,
        "unix_socket_directories": "",
        "ssl": "on",
        "ssl_cert_file": root / "server.crt",
        "ssl_key_file": root / "server.key",
        "fsync": "off",  # test data need not survive a crash
        "shared_buffers": "16MB",
    }
    options = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
    initdb = [str(bin_dir / "initdb"), "--pgdata", str(data), "--username=admin", "--locale=C"]
    initdb += ["--pwfile", str(first), "--auth=scram-sha-256", "--encoding=UTF8", "--no-sync"]
    try:
        subprocess.run(initdb, cwd=root, capture_output=True, check=True, **as_user)
        (data / "pg_hba.conf").write_text(f"hostssl all all {_ADDRESS}/32 scram-sha-256\n")
        lines = [f"{_ADDRESS}:{port}:*:{role}:{word}\n" for role, word in words.items()]
        passwords = _private(root / "passwords", "".join(lines))
        command = [str(bin_dir / "postgres"), "-D", str(data), *options]
        asks = [str(bin_dir / "pg_isready"), "--quiet", f"--host={_ADDRESS}", f"--port={port}"]

        def is_ready() -> bool:
            return subprocess.run(asks, check=False).returncode == 0

        with _running(command, root, is_ready, **as_user):
            yield Postgres(port, authority, passwords)
    finally:
        shutil.rmtree(root)


def _programs_of_postgresql() -> Path:
    binaries = sorted(_PROGRAMS_OF_POSTGRESQL.glob("*/bin/postgres"))
    if not binaries:
        pytest.fail("PostgreSQL is missing: install Debian's postgresql", pytrace=False)
    return binaries[-1].parent


def _as_unprivileged_user() -> dict[str, Any]:
    """Return a command prefix that drops root, because PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {"user": getpass.getuser()}
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


# --- S3 ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class S3:
    """An S3 server: Versity's gateway on a directory, in which each bucket is a directory.

    environment: its login, and the certificate of the CA that clients must trust.
    """

    port: int
    root: Path
    environment: Mapping[str, str] = field(repr=False)

    def backend(self, bucket: str) -> Backend:
        """Create a backend in a new bucket."""
        path = self.root / bucket
        path.mkdir()

        def lose() -> None:
            shutil.rmtree(path)
            path.mkdir()

        variables = {"BUCKET": bucket, "S3_HOST": f"{_ADDRESS}:{self.port}", "REGION": _REGION}
        heading = "An S3-compatible bucket"
        return Backend(heading, variables, lambda: _files(path), lose, self.environment)


@contextmanager
def s3(root: Path, port: int, address: str = _ADDRESS) -> Iterator[S3]:
    """Start the S3 server that `python -m lab build` has built."""
    program = paths.cache().bin / programs.S3_SERVER.group / programs.S3_SERVER.name
    if not program.exists():
        pytest.fail(f"there is no {program}; `make test` makes it", pytrace=False)
    authority = make_certificate(root, address)
    data, sidecar = root / "data", root / "sidecar"
    for path in (data, sidecar):
        path.mkdir()
    key, secret = secrets.token_hex(10), secrets.token_urlsafe(24)
    command = [str(program), "--port", f"{address}:{port}", "--region", _REGION, "--quiet"]
    command += ["--health", _HEALTH]
    command += ["--cert", str(root / "server.crt"), "--key", str(root / "server.key")]
    # Not in extended attributes, which the file system of /tmp may not support.
    command += ["posix", "--sidecar", str(sidecar), str(data)]
    login = {"ROOT_ACCESS_KEY": key, "ROOT_SECRET_KEY": secret}
    trusting = ssl.create_default_context(cafile=authority)
    health = f"https://{address}:{port}{_HEALTH}"
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusting)
    )

    def is_ready() -> bool:
        with suppress(OSError), opener.open(health, timeout=5) as answer:
            return bool(answer.status == 200)
        return False

    with _running(command, root, is_ready, env={**os.environ, **login}):
        access = {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
        yield S3(port, data, {**access, "AWS_CA_BUNDLE": str(authority)})


# --- both ----------------------------------------------------------------------------------------


@contextmanager
def _running(
    command: list[str], root: Path, is_ready: Callable[[], bool], **how: Any
) -> Iterator[None]:
    """Run a server: wait until it is ready, and stop it at the end."""
    log = root / "log"

    def ready() -> bool:
        assert server.poll() is None, log.read_text()
        return is_ready()

    with log.open("wb") as stream:
        server = subprocess.Popen(command, cwd=root, stdout=stream, stderr=stream, **how)
    try:
        deadline = time.monotonic() + _SECONDS
        while not ready():
            assert time.monotonic() < deadline, f"{command[0]} is not ready: {log.read_text()}"
            time.sleep(0.02)
        yield
    finally:
        # PostgreSQL: do not wait for clients.
        server.send_signal(signal.SIGINT)
        server.wait()


def make_certificate(root: Path, address: str = _ADDRESS) -> Path:
    """Write server.crt and server.key for an address; return the certificate of the CA."""
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    now = datetime.datetime.now(datetime.UTC)

    def certificate(subject: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(_name("test authority"))
            .subject_name(_name(subject))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    is_authority = x509.BasicConstraints(ca=True, path_length=None)
    name = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    signed = {
        "authority.crt": certificate("test authority", authority_key.public_key())
        .add_extension(is_authority, critical=True)
        .sign(authority_key, hashes.SHA256()),
        "server.crt": certificate(address, key.public_key())
        .add_extension(name, critical=False)
        .sign(authority_key, hashes.SHA256()),
    }
    for file, made in signed.items():
        (root / file).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _private(root / "server.key", private.decode())
    return root / "authority.crt"


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _private(path: Path, text: str) -> Path:
    """Write a file that only its owner can read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path
