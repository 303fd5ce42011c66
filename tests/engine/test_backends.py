"""State in a directory, in PostgreSQL and in an S3 bucket, with the commands of docs/state.md.

The engine and the servers are real.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab import paths
from lab.ports import reserved_port
from tests.engine.conftest import Result
from tests.support import servers

if TYPE_CHECKING:
    from tests.engine.conftest import Project
    from tests.support.servers import S3, Backend, Postgres

    Projects = Callable[..., Project]
    Backends = Callable[[str], Backend]
    Operators = Callable[[Backend], "Operator"]
    Wait = Callable[[Callable[[], bool], str], None]

GUIDE = paths.PROJECT / "docs" / "state.md"
KINDS = ("directory", "s3", "postgres")
NAME, STACK = "engine", "prod"
SECRET = "a-very-secret-word"  # noqa: S105

# A secret that a command prints, like the kubeconfig. The command runs while `busy` exists.
PROGRAM = """
it = local.Command("it", stdin=pulumi.Config().require_secret("word"),
    create=f"touch {settings['started']}; while test -e {settings['busy']}; do sleep .1; done; cat",
    logging=local.Logging.NONE,
    opts=pulumi.ResourceOptions(additional_secret_outputs=["stdout"]))
pulumi.export("kubeconfig", it.stdout)
"""


def blocks(heading: str, language: str = "sh") -> list[str]:
    """Return the fenced blocks of the guide directly below a heading."""
    parts = re.split(r"^#+ (.*)\n", GUIDE.read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return re.findall(rf"^```{language}\n(.*?)^```$", sections.get(heading, ""), re.M | re.S)


def test_every_command_of_the_guide_is_tested_here() -> None:
    headings = re.findall(r"^#+ (.*)$", GUIDE.read_text(), flags=re.MULTILINE)
    assert {heading: len(blocks(heading)) for heading in headings if blocks(heading)} == {
        "A directory": 1,
        "An S3-compatible bucket": 1,
        "A PostgreSQL database": 1,
        "A new stack": 1,
        "The passphrase, encrypted with age": 3,
        "Change the passphrase": 2,
        "Locks, and runs that were killed": 1,
        "Backups": 2,
        "Restore": 3,
        "Objects that someone else created": 1,  # tests/live/test_taken_objects.py
        "Move to another place": 2,
    }


class Operator:
    """A user who follows the guide, in a shell that keeps its variables."""

    def __init__(self, project: Project, directory: Path, backend: Backend) -> None:
        self._project = project
        self._exported = directory / "exported"
        self.started, self.busy = directory / "started", directory / "busy"
        self.passphrase, self.backup = directory / "passphrase", directory / "backup.json"
        inherited = dict(project.environment)
        for name in ("PULUMI_BACKEND_URL", "PULUMI_CONFIG_PASSPHRASE", "PULUMI_STACK"):
            del inherited[name]
        self.environment = {
            **inherited,
            "BACKUP": str(self.backup),
            "PASSPHRASE": str(self.passphrase),
            "PULUMI_SKIP_CONFIRMATIONS": "true",
            "STACK": STACK,
        }
        self.settle(backend)

    @property
    def project(self) -> Project:
        """The project, with the environment of this shell."""
        return replace(self._project, environment=self.environment)

    def settle(self, backend: Backend) -> str:
        """Switch to a backend; return its URL."""
        self.environment |= {**backend.environment, **backend.variables}
        self.follow(backend.heading).ok()
        return self.environment["PULUMI_BACKEND_URL"]

    def follow(self, heading: str, block: int | None = None) -> Result:
        """Run all commands below a heading of the guide, or one block of them."""
        commands = blocks(heading)
        assert commands, f"the guide has no commands below {heading!r}"
        return self.run("".join(commands) if block is None else commands[block])

    def run(self, commands: str, **variables: str) -> Result:
        """Run commands until one fails; keep the variables that they export."""
        self._exported.unlink(missing_ok=True)
        result = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'{commands}\nenv --null > "{self._exported}"'],
            cwd=self._project.directory,
            env={**self.environment, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        if self._exported.exists():
            pairs = self._exported.read_text().rstrip("\0").split("\0")
            self.environment = dict(pair.split("=", 1) for pair in pairs)
        return Result(result.returncode, result.stdout)

    def begin(self) -> None:
        """Create a stack with a secret and deploy it."""
        self.follow("A new stack").ok()
        self.run(f"printf %s {SECRET} | pulumi config set --secret word").ok()
        self.project.up().ok()

    def check_unchanged(self) -> None:
        """Check that the stack has no changes and that its secret can be decrypted."""
        output = self.project.preview("--expect-no-changes").ok().output
        assert "2 unchanged" in output
        assert "warning" not in output.lower()
        assert self.project.outputs() == {"kubeconfig": SECRET}


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with reserved_port() as port, servers.postgres(port) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with reserved_port() as port, servers.s3(tmp_path_factory.mktemp("s3"), port) as server:
        yield server


@pytest.fixture
def backends(request: pytest.FixtureRequest, tmp_path: Path) -> Backends:
    """Create an empty backend of a kind; a server starts when it is first needed."""

    def make(kind: str) -> Backend:
        if kind == "directory":
            return servers.directory(tmp_path / "state")
        if kind == "s3":
            server: S3 = request.getfixturevalue("s3")
            return server.backend(f"mesh-{os.urandom(4).hex()}")
        database: Postgres = request.getfixturevalue("postgres")
        return database.backend("".join(blocks("A PostgreSQL database", "sql")))

    return make


@pytest.fixture
def operators(project: Projects, tmp_path: Path) -> Operators:
    """Create an operator who works with a backend."""

    def make(backend: Backend) -> Operator:
        paths = {name: str(tmp_path / name) for name in ("started", "busy")}
        return Operator(project(PROGRAM, **paths), tmp_path, backend)

    return make


def assert_holds_no_secret(content: dict[str, bytes], *secrets: str) -> None:
    for name, data in content.items():
        for secret in secrets:
            for form in (secret.encode(), base64.b64encode(secret.encode())):
                # Not an assertion, which would print the content.
                if form in data:
                    pytest.fail(f"{secret[:4]}... is in {name}", pytrace=False)


def is_private(path: Path) -> bool:
    return path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_is_stored_in_the_backend(
    kind: str, backends: Backends, operators: Operators
) -> None:
    backend = backends(kind)
    operator = operators(backend)
    operator.begin()
    assert is_private(operator.passphrase)
    operator.project.up("--expect-no-changes").ok()
    operator.check_unchanged()

    content = backend.contents()
    (state,) = (data for name, data in content.items() if name.endswith(f"/{NAME}/{STACK}.json"))
    assert b'"kubeconfig"' in state, "the state is not readable"
    assert any("/history/" in name for name in content)
    assert_holds_no_secret(content, SECRET, operator.passphrase.read_text().strip())


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_locks_the_stack_and_a_killed_one_can_be_unlocked(
    kind: str, backends: Backends, operators: Operators, wait: Wait
) -> None:
    operator = operators(backends(kind))
    operator.follow("A new stack").ok()
    operator.run(f"printf %s {SECRET} | pulumi config set --secret word").ok()
    operator.busy.touch()
    with operator.project.start("up", "--yes", "--skip-preview") as first:
        wait(operator.started.exists, "the command starts")
        output = operator.project.up().failed().output
        assert "the stack is currently locked by 1 lock(s)" in output
        assert re.search(rf"created by \w+@{os.uname().nodename} \(pid {first.pid}\)", output)
        operator.project.preview().ok()
        first.kill()
    operator.busy.unlink()
    wait(lambda: not operator.project.processes(), "the plugins end without their engine")
    assert "locked" in operator.project.up().failed().output
    operator.follow("Locks, and runs that were killed").ok()
    operator.check_unchanged()


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_state_is_restored(kind: str, backends: Backends, operators: Operators) -> None:
    backend = backends(kind)
    operator = operators(backend)
    operator.begin()
    operator.follow("Backups", block=0).ok()
    assert is_private(operator.backup)
    assert_holds_no_secret({"the backup": operator.backup.read_bytes()}, SECRET)

    backend.lose()
    operator.project.pulumi("stack", "export", "--stack", STACK).failed()
    assert "2 unchanged" in operator.follow("Restore", block=0).ok().output
    operator.check_unchanged()
    operator.project.up("--expect-no-changes").ok()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("directory", "s3"),
        pytest.param("s3", "postgres", marks=pytest.mark.long),
        pytest.param("postgres", "directory", marks=pytest.mark.long),
    ],
)
def test_a_stack_moves_to_another_backend(
    old: str, new: str, backends: Backends, operators: Operators
) -> None:
    before, after = backends(old), backends(new)
    operator = operators(before)
    operator.begin()
    stack_file = operator.project.directory / f"Pulumi.{STACK}.yaml"
    text = stack_file.read_text()

    old_url = operator.environment["PULUMI_BACKEND_URL"]
    new_url = operator.settle(after)
    move, clean_up = blocks("Move to another place")
    operator.run(move, OLD=old_url, NEW=new_url).ok()
    assert operator.environment["PULUMI_BACKEND_URL"] == new_url
    operator.check_unchanged()
    assert stack_file.read_text() == text
    assert_holds_no_secret(after.contents(), SECRET)

    assert any(f"/{NAME}/{STACK}" in name for name in before.contents())
    operator.run(clean_up, OLD=old_url).ok()
    assert not [name for name in before.contents() if f"/{NAME}/{STACK}" in name]
    operator.check_unchanged()
    assert stack_file.read_text() == text


@pytest.mark.parametrize("kind", ["s3", "postgres"])
def test_a_server_with_an_untrusted_certificate_receives_nothing(
    kind: str, backends: Backends, operators: Operators, tmp_path: Path
) -> None:
    backend = backends(kind)
    other = str(servers.make_certificate(tmp_path))
    backend = replace(
        backend,
        environment={**backend.environment, "AWS_CA_BUNDLE": other},
        variables={**backend.variables, "PG_CA": other},
    )
    operator = operators(backend)
    output = operator.project.pulumi("stack", "init", STACK).failed().output
    assert "certificate signed by unknown authority" in output
    assert backend.contents() == {}


def test_a_password_from_the_environment_is_used_and_not_shown(
    postgres: Postgres, backends: Backends, operators: Operators
) -> None:
    operator = operators(backends("postgres"))
    operator.environment |= {"PGPASSFILE": "/dev/null", "PGPASSWORD": "a-wrong-word"}
    output = operator.project.pulumi("stack", "ls").failed().output
    assert "password authentication failed" in output
    assert "a-wrong-word" not in output
    operator.environment["PGPASSWORD"] = postgres.password
    operator.project.pulumi("stack", "ls").ok()


def test_the_backup_that_pulumi_keeps_can_be_restored(
    backends: Backends, operators: Operators
) -> None:
    backend = backends("directory")
    operator = operators(backend)
    operator.begin()
    root = Path(backend.variables["DIRECTORY"]) / ".pulumi"
    (copy,) = (root / "backups" / NAME / STACK).glob("*.json")
    (root / "stacks" / NAME / f"{STACK}.json").write_text("{")
    operator.project.preview().failed()
    operator.environment |= {"PROJECT": NAME, "COPY": copy.name}
    operator.follow("Restore", block=1).ok()
    operator.check_unchanged()


def test_a_database_is_restored_as_a_whole(
    backends: Backends, operators: Operators, tmp_path: Path
) -> None:
    backend = backends("postgres")
    operator = operators(backend)
    operator.begin()
    dump = tmp_path / "dump"
    operator.environment["DUMP"] = str(dump)
    operator.follow("Backups", block=1).ok()
    assert is_private(dump)
    content = backend.contents()

    backend.lose()
    operator.follow("Restore", block=2).ok()
    assert backend.contents() == content, "history or backups differ"
    operator.check_unchanged()


def test_the_passphrase_can_be_changed(
    backends: Backends, operators: Operators, tmp_path: Path
) -> None:
    backend = backends("directory")
    operator = operators(backend)
    operator.begin()
    new = tmp_path / "new-passphrase"
    new.write_text("another one\n")
    operator.environment["NEW_PASSPHRASE"] = str(new)
    operator.follow("Change the passphrase").ok()
    operator.check_unchanged()
    operator.environment["PULUMI_CONFIG_PASSPHRASE_FILE"] = str(operator.passphrase)
    output = operator.project.pulumi("stack", "output", "--show-secrets").failed().output
    assert "incorrect passphrase" in output


def test_the_passphrase_can_be_stored_encrypted_with_age(
    backends: Backends, operators: Operators, tmp_path: Path
) -> None:
    if shutil.which("age") is None:
        pytest.fail("age is missing: install Debian's age", pytrace=False)
    backend = backends("directory")
    operator = operators(backend)
    operator.environment["AGE_KEY"] = str(tmp_path / "age-key")
    operator.follow("The passphrase, encrypted with age").ok()
    passphrase = operator.environment["PULUMI_CONFIG_PASSPHRASE"]
    assert len(base64.b64decode(passphrase)) == 32
    operator.run(f"pulumi stack init {STACK}").ok()
    operator.run(f"printf %s {SECRET} | pulumi config set --secret word").ok()
    operator.project.up().ok()
    operator.check_unchanged()
    assert is_private(tmp_path / "age-key")
    files = {path.name: path.read_bytes() for path in operator.project.directory.glob("*.*")}
    assert f"passphrase.{STACK}.age" in files
    assert_holds_no_secret(files, passphrase)
