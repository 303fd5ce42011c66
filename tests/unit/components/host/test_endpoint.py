"""Debian's haproxy with a worker's configuration, in front of pretended API servers.

They listen on addresses of the loopback network, all of them on the load balancer's port.
"""

import re
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from components.host.table import ENDPOINT_CONFIG, ENDPOINT_SERVERS, UNITS, node_files
from config import ports
from lab.ports import reserved_port
from tests.unit import node
from tests.unit.components.host.test_files import ARGS
from tests.unit.machine import Machine

NAME = ARGS.endpoint
UNIT = f"{UNITS}/nordmesh-endpoint.service"
CA = "/etc/kubernetes/pki/ca.crt"
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")


@dataclass
class Api:
    """A pretended API server: answers /readyz, and every other request with its address."""

    address: str
    port: int
    certificate: Path
    is_ready: bool = True
    connections: list[socket.socket] = field(default_factory=list)

    def __enter__(self) -> "Api":
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate)
        self._listener = socket.create_server((self.address, self.port))
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Go away as a machine does whose kernel still answers: no new connections, no old ones."""
        for one in (self._listener, *self.connections):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), self._context.wrap_socket(connection, server_side=True) as tls:
            while request := tls.recv(4096):
                is_check = request.startswith(b"GET /readyz ")
                status = "200 OK" if self.is_ready or not is_check else "500 Not Ready"
                body = "ok" if is_check else self.address
                head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n"
                tls.sendall((head + body).encode())


@dataclass(frozen=True)
class Balancer:
    """A running haproxy. output: what the journal would have."""

    port: int
    ca: Path
    master: subprocess.Popen[str]
    servers: Path
    output: Path

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=self.ca)
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=120)
        return context.wrap_socket(plain, server_hostname=NAME)

    def asks(self) -> str:
        """The address of the API server that a new connection leads to."""
        with self.connect() as tls:
            return ask(tls)


def ask(tls: ssl.SSLSocket) -> str:
    tls.sendall(f"GET /api HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    return tls.recv(4096).decode().rpartition("\r\n\r\n")[2]


@pytest.fixture(scope="module")
def program() -> str:
    found = shutil.which("haproxy")
    assert found, "haproxy is missing: install Debian's haproxy"
    return found


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Certificates of the API server's name, by the CA that signs them; it is in NAME.ca."""
    folder = tmp_path_factory.mktemp("pki")

    def made(ca: str) -> Path:
        if not (folder / ca).exists():
            run = f"req -x509 -subj /CN={ca} -keyout {ca}.key -out {ca}.ca"
            ask_ = f"req -subj /CN=kube-apiserver -keyout {ca}.pem -out {ca}.csr"
            (folder / "names").write_text(f"subjectAltName=DNS:{NAME}\n")
            sign = (
                f"x509 -req -in {ca}.csr -CA {ca}.ca -CAkey {ca}.key -CAcreateserial -extfile names"
            )
            for command in (f"{run} {' '.join(_KEY)}", f"{ask_} {' '.join(_KEY[:-2])}", sign):
                done = subprocess.run(
                    ["openssl", *command.split()],
                    cwd=folder, check=True, capture_output=True, text=True,
                )  # fmt: skip
            key = (folder / f"{ca}.pem").read_text()
            (folder / ca).write_text(key + done.stdout)
        return folder / ca

    return made


@pytest.fixture
def port() -> Iterator[int]:
    """The load balancer's: without a reservation another process may listen there first."""
    with reserved_port() as port:
        yield port


def files(port: int = ports.API) -> dict[str, str]:
    """A worker's files, with another port."""
    texts = {file.path: file.text for file in node_files(replace(ARGS, role="worker"))}
    texts[ENDPOINT_CONFIG] = texts[ENDPOINT_CONFIG].replace(str(ports.API), str(port))
    return texts


def servers(machine: Machine, *addresses: str, ca: Path | None = None) -> str:
    """What the program of a worker writes for these control planes."""
    machine.fake("systemctl")
    node.with_endpoint_program(machine)
    if ca is not None:
        machine.write(CA, "ca")
    written = machine.shell(f"bash {node.ENDPOINT_PROGRAM} {' '.join(addresses)}")
    assert written.status == 0, written.stderr
    return machine.read(ENDPOINT_SERVERS).replace(CA, str(ca))


@contextmanager
def running(program: str, folder: Path, text: str, *, port: int, ca: Path) -> Iterator[Balancer]:
    """Run the unit's command with the text of servers."""
    config, listed, output = folder / "endpoint.cfg", folder / "servers.cfg", folder / "output"
    texts = files(port)
    config.write_text(f"{texts[ENDPOINT_CONFIG]}\n")
    listed.write_text(text)
    (start,) = re.findall(r"^ExecStart=/usr/sbin/haproxy (.*)$", texts[UNIT], re.MULTILINE)
    arguments = start.replace(ENDPOINT_CONFIG, str(config)).replace(ENDPOINT_SERVERS, str(listed))
    with output.open("w") as file:
        master = subprocess.Popen(
            [program, *arguments.split()], stdout=file, stderr=file, text=True
        )
        balancer = Balancer(port, ca, master, listed, output)
        try:
            until(lambda: is_open(port), "haproxy listens")
            yield balancer
        finally:
            master.send_signal(signal.SIGTERM)
            master.wait(120)


def is_open(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def until(true: Callable[[], bool], what: str, seconds: float = 120) -> float:
    """Wait, and return for how long."""
    started = time.monotonic()
    while not true():
        assert time.monotonic() - started < seconds, f"not in {seconds} s: {what}"
        time.sleep(0.1)
    return time.monotonic() - started


def only(balancer: Balancer, *addresses: str) -> Callable[[], bool]:
    """Whether new connections lead to these API servers and no others."""

    def is_so() -> bool:
        try:
            return {balancer.asks() for _ in range(8)} == set(addresses)
        except OSError:
            return False

    return is_so


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("has_ca", [True, False])
def test_haproxy_accepts_the_configuration_without_a_warning(
    machine: Machine,
    program: str,
    pki: Callable[[str], Path],
    tmp_path: Path,
    count: int,
    *,
    has_ca: bool,
) -> None:
    ca = pki("cluster").with_suffix(".ca") if has_ca else None
    text = servers(machine, *(f"192.0.2.{n}" for n in range(11, 11 + count)), ca=ca)
    (tmp_path / "servers").write_text(text)
    (tmp_path / "config").write_text(f"{files()[ENDPOINT_CONFIG]}\n")
    command = [program, "-c", "-f", str(tmp_path / "config"), "-f", str(tmp_path / "servers")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_load_balancer_listens_on_the_loopback_only() -> None:
    binds = re.findall(r"^\s*(?:bind|stats) (.*)$", files()[ENDPOINT_CONFIG], re.MULTILINE)
    assert binds == ["127.0.0.1:6443"]


def test_only_api_servers_that_are_ready_and_of_the_cluster_are_used(
    machine: Machine, program: str, pki: Callable[[str], Path], tmp_path: Path, port: int
) -> None:
    certificate, ca = pki("cluster"), pki("cluster").with_suffix(".ca")
    first = Api("127.0.1.1", port, certificate)
    second = Api("127.0.1.2", port, certificate, is_ready=False)
    text = servers(machine, "127.0.1.1", "127.0.1.2", "127.0.1.3", ca=ca)
    with (
        first, second, Api("127.0.1.3", port, pki("other")),
        running(program, tmp_path, text, port=port, ca=ca) as balancer,
    ):  # fmt: skip
        until(only(balancer, first.address), "only the first is used")
        second.is_ready = True
        until(only(balancer, first.address, second.address), "the second is used again")
        # None is ready, and all of the cluster's answer: better than nothing.
        first.is_ready = second.is_ready = False
        until(lambda: "backend 'ready' has no server available" in output(balancer), "both are out")
        answers = set()
        for _ in range(12):
            with suppress(OSError):  # the one with the other CA
                answers.add(balancer.asks())
        assert answers == {first.address, second.address}


def output(balancer: Balancer) -> str:
    return balancer.output.read_text()


def test_an_api_server_that_goes_away_is_replaced_within_ten_seconds(
    machine: Machine, program: str, pki: Callable[[str], Path], tmp_path: Path, port: int
) -> None:
    """New connections lead to the other one at once."""
    certificate, ca = pki("cluster"), pki("cluster").with_suffix(".ca")
    text = servers(machine, "127.0.1.1", "127.0.1.2", ca=ca)
    down = "Server ready/127.0.1.1 is DOWN"
    with (
        Api("127.0.1.2", port, certificate),
        running(program, tmp_path, text, port=port, ca=ca) as balancer,
    ):
        # A busy machine may run haproxy's checks late, but not each time.
        for times in (1, 2, 3):
            with Api("127.0.1.1", port, certificate):
                until(only(balancer, "127.0.1.1", "127.0.1.2"), "both are used")
            gone = time.monotonic()
            assert [balancer.asks() for _ in range(8)] == ["127.0.1.2"] * 8
            until(lambda: output(balancer).count(down) == times, "it is out")  # noqa: B023
            seconds = time.monotonic() - gone
            print(f"out after {seconds:.1f} s")
            if seconds < 10:
                break
        assert seconds < 10


def test_no_connection_fails_while_a_machine_that_is_off_is_found(
    machine: Machine, program: str, pki: Callable[[str], Path], tmp_path: Path, port: int
) -> None:
    """A connection that is being tried when the check fails goes to the other API server."""
    certificate, ca = pki("cluster"), pki("cluster").with_suffix(".ca")
    text, failures = servers(machine, "127.0.1.1", "127.0.1.2", ca=ca), list[str]()
    is_over, asked = threading.Event(), list[str]()
    with (
        no_answer("127.0.1.1", port), Api("127.0.1.2", port, certificate),
        running(program, tmp_path, text, port=port, ca=ca) as balancer,
    ):  # fmt: skip

        def steadily() -> None:
            while not is_over.is_set():
                try:
                    asked.append(balancer.asks())
                except OSError as error:
                    failures.append(str(error))

        clients = [threading.Thread(target=steadily) for _ in range(8)]
        for client in clients:
            client.start()
        until(lambda: "Server ready/127.0.1.1 is DOWN" in output(balancer), "it is found")
        time.sleep(3)  # a connection that was being tried is tried elsewhere after 2 s
        is_over.set()
        for client in clients:
            client.join()
    assert failures == []
    assert set(asked) == {"127.0.1.2"}
    print(f"{len(asked)} connections, 0 failed")


@contextmanager
def no_answer(address: str, port: int) -> Iterator[None]:
    """Drop each attempt to connect, as a machine does that is off: the queue is full."""
    with socket.create_server((address, port), backlog=0), ExitStack() as queue:
        with suppress(TimeoutError):
            while True:
                connected = socket.create_connection((address, port), timeout=0.2)
                queue.enter_context(connected)
        yield


def test_a_reload_refuses_and_closes_no_connection(
    machine: Machine, program: str, pki: Callable[[str], Path], tmp_path: Path, port: int
) -> None:
    """Another control plane comes while clients open connections, and one keeps its own."""
    certificate, ca = pki("cluster"), pki("cluster").with_suffix(".ca")
    text, failures = servers(machine, "127.0.1.1", ca=ca), list[str]()
    is_over, asked = threading.Event(), 0
    with (
        Api("127.0.1.1", port, certificate), Api("127.0.1.2", port, certificate),
        running(program, tmp_path, text, port=port, ca=ca) as balancer,
    ):  # fmt: skip

        def steadily() -> None:
            nonlocal asked
            while not is_over.is_set():
                try:
                    balancer.asks()
                    asked += 1
                except OSError as error:
                    failures.append(str(error))

        with balancer.connect() as kept:
            assert ask(kept) == "127.0.1.1"
            client = threading.Thread(target=steadily)
            client.start()
            balancer.servers.write_text(servers(machine, "127.0.1.1", "127.0.1.2", ca=ca))
            balancer.master.send_signal(signal.SIGUSR2)
            until(lambda: "127.0.1.2" in {balancer.asks() for _ in range(4)}, "the second is used")
            until(lambda: asked > 40, "many connections")
            is_over.set()
            client.join()
            assert ask(kept) == "127.0.1.1"
    assert failures == []
    assert asked
    print(f"{asked} connections during the reload, 0 failed")
