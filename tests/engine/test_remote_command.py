"""remote.Command and remote.CopyToRemote with a real engine and a real OpenSSH server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from lab.stack import remove_empty_attributes

if TYPE_CHECKING:
    from tests.engine.conftest import Project, Sshd

    Projects = Callable[..., Project]
    Wait = Callable[[Callable[[], bool], str], None]

SECRET = "a-very-secret-word"  # noqa: S105


def test_each_step_runs_its_own_command(project: Projects, sshd: Sshd, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    program = """
remote.Command("it", connection=connection, logging=remote.Logging.NONE,
    create=f"echo create >> {settings['journal']}; echo made",
    update=f"echo update $PULUMI_COMMAND_STDOUT {settings['size']} >> {settings['journal']}; "
           "echo changed",
    delete=f"echo delete $PULUMI_COMMAND_STDOUT >> {settings['journal']}")
"""
    settings = {"connection": sshd.connection(), "journal": str(journal)}
    stack = project(program, size=1, **settings)
    stack.preview().ok()
    assert not journal.exists(), "a preview has run a command"
    assert "warning" not in stack.up().ok().output.lower()
    assert journal.read_text() == "create\n"

    opened = sshd.connections()
    stack.preview("--expect-no-changes").ok()
    assert "2 unchanged" in stack.up().ok().output
    assert sshd.connections() == opened, "an unchanged stack has opened an SSH connection"

    stack.write(program, size=2, **settings)
    stack.up().ok()
    stack.destroy().ok()
    assert journal.read_text().splitlines() == ["create", "update made 2", "delete changed"]


def test_a_change_runs_the_update_or_replaces_the_command(
    project: Projects, sshd: Sshd, tmp_path: Path
) -> None:
    again, replaced = tmp_path / "again", tmp_path / "replaced"
    program = """
remote.Command("again", connection=connection, add_previous_output_in_env=False,
    create=f"echo {settings['size']} $PULUMI_COMMAND_STDOUT >> {settings['again']}; echo out")
remote.Command("replaced", connection=connection, triggers=[settings["size"]],
    create=f"echo create >> {settings['replaced']}",
    update=f"echo update >> {settings['replaced']}",
    delete=f"echo delete >> {settings['replaced']}")
"""
    paths = {"again": str(again), "replaced": str(replaced)}
    stack = project(program, size=1, connection=sshd.connection(), **paths)
    stack.up().ok()
    stack.write(program, size=2, connection=sshd.connection(), **paths)

    plan = json.loads(stack.preview("--json").ok().output)
    differing = {
        step["urn"].split("::")[-1]: step for step in plan["steps"] if step["op"] != "same"
    }
    assert differing["again"]["op"] == "update"
    assert set(differing["again"]["detailedDiff"]) == {"create"}
    assert differing["replaced"]["op"] in ("replace", "create-replacement", "delete-replaced")
    assert differing["replaced"]["replaceReasons"] == ["triggers"]

    stack.up().ok()
    assert again.read_text().splitlines() == ["1", "2"], "without `update`, `create` runs again"
    assert replaced.read_text().splitlines() == ["create", "create", "delete"]


def test_a_secret_is_passed_through_stdin_only(
    project: Projects, sshd: Sshd, tmp_path: Path
) -> None:
    observed, arguments = tmp_path / "seen", tmp_path / "arguments"
    program = """
remote.Command("it", connection=connection, stdin=pulumi.Output.secret(settings["word"]),
    create=f"cat > {settings['seen']}; cat /proc/[0-9]*/cmdline > {settings['arguments']} || true")
"""
    paths = {"seen": str(observed), "arguments": str(arguments)}
    stack = project(program, connection=sshd.connection(), word=SECRET, **paths)
    output = stack.up().ok().output
    assert observed.read_text() == SECRET
    assert SECRET.encode() not in arguments.read_bytes()
    state = stack.state()
    for hidden in (SECRET, "PRIVATE KEY", sshd.private_key.splitlines()[2]):
        assert hidden not in state
        assert hidden not in output


def test_a_wrong_host_key_fails_immediately(
    project: Projects, sshd: Sshd, start_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    program = """
remote.Command("it", connection=connection, create=f"touch {settings['marker']}")
"""
    other = start_sshd()
    connection = sshd.connection(host_key=other.host_key)
    stack = project(program, connection=connection, marker=str(marker))
    opened = sshd.connections()
    output = stack.up().failed().output
    assert "ssh: handshake failed: ssh: host key mismatch" in output
    assert f"127.0.0.1:{sshd.port}" in output
    assert output.count("SHA256:") >= 2, "both fingerprints must be shown"
    assert sshd.connections() == opened + 1, "a wrong host key must not be tried again"
    assert not marker.exists()


@pytest.mark.parametrize(
    ("host_key", "message"),
    [
        (None, "A connection without a host key does not exist in this program"),
        ("127.0.0.1 ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA", "without an address before them"),
    ],
)
def test_a_connection_without_a_usable_host_key_fails_the_preview(
    project: Projects, sshd: Sshd, host_key: str | None, message: str
) -> None:
    program = """
remote.Command("it", connection=connection, create="true")
"""
    stack = project(program, connection=sshd.connection(host_key=host_key))
    opened = sshd.connections()
    output = stack.preview().failed().output
    assert "connection.hostKey" in output
    assert message in output
    assert sshd.connections() == opened


def test_many_commands_run_concurrently(project: Projects, start_sshd: Callable[..., Sshd]) -> None:
    usual, narrow = start_sshd(), start_sshd("MaxSessions 2")
    program = """
for name, count in (("usual", 30), ("narrow", 6)):
    for number in range(count):
        it = remote.Command(f"{name}-{number}", connection=settings[name],
            create=f"sleep 0.5; echo {number}")
        pulumi.export(f"{name}-{number}", it.stdout)
"""
    connections = {"usual": usual.connection(), "narrow": narrow.connection()}
    stack = project(program, **connections)
    opened = usual.connections(), narrow.connections()
    stack.up("--parallel", "40").ok()
    assert stack.outputs() == {
        f"{name}-{number}": str(number)
        for name, count in (("usual", 30), ("narrow", 6))
        for number in range(count)
    }
    assert usual.connections() - opened[0] <= 4, "8 sessions share a connection"
    assert narrow.connections() - opened[1] <= 6


def test_failures_name_their_cause_and_can_be_retried(project: Projects, sshd: Sshd) -> None:
    program = """
remote.Command("failing", connection=connection, logging=remote.Logging.NONE,
    create=f"echo on stdout; echo on stderr >&2; exit {settings['status']}")
remote.Command("unreachable", connection=settings["other"], create="true")
"""
    nowhere = sshd.connection(port=1, dial_error_limit=2)
    stack = project(program, connection=sshd.connection(), other=nowhere, status=3)
    output = stack.up("--continue-on-error").failed().output
    assert "Process exited with status 3" in output
    assert "on stdout" in output
    assert "on stderr" in output
    assert "after 2 failed attempts: dial tcp 127.0.0.1:1: connect: connection refused" in output
    stack.write(program, connection=sshd.connection(), other=sshd.connection(), status=0)
    stack.up().ok()


def test_a_line_of_one_mebibyte_is_passed_through(project: Projects, sshd: Sshd) -> None:
    program = """
it = remote.Command("it", connection=connection,
    create="head -c 1048576 /dev/zero | tr '\\\\0' x; echo; echo end")
pulumi.export("length", it.stdout.apply(len))
"""
    stack = project(program, connection=sshd.connection())
    stack.up().ok()
    assert stack.outputs() == {"length": 1048576 + len("\nend")}


def test_an_update_after_a_killed_engine_needs_no_manual_repair(
    project: Projects, sshd: Sshd, tmp_path: Path, wait: Wait
) -> None:
    started, done = tmp_path / "started", tmp_path / "done"
    program = """
remote.Command("before", connection=connection, create="true")
remote.Command("it", connection=connection,
    create=f"touch {settings['started']}; sleep {settings['seconds']}; touch {settings['done']}")
"""
    settings = {"connection": sshd.connection(), "started": str(started), "done": str(done)}
    stack = project(program, seconds=5, **settings)
    with stack.start("up", "--yes", "--skip-preview") as process:
        wait(started.exists, "the command starts")
        process.kill()
    wait(lambda: not stack.processes(), "the plugins end without their engine")
    # As when the engine is killed in the moment that it writes them.
    for path in (tmp_path / "backend").rglob("*.attrs"):
        path.write_text("")
    assert remove_empty_attributes(tmp_path / "backend")
    stack.pulumi("cancel", "--yes").ok()
    stack.write(program, seconds=0, **settings)
    stack.up().ok()
    assert done.exists()
    # The engine keeps warning about the interrupted step until its entry is cleared.
    stack.pulumi("refresh", "--yes", "--skip-preview", "--clear-pending-creates").ok()
    assert "warning" not in stack.preview("--expect-no-changes").ok().output.lower()


def test_an_interrupted_engine_exits_quickly(
    project: Projects, sshd: Sshd, tmp_path: Path, wait: Wait
) -> None:
    started, done = tmp_path / "started", tmp_path / "done"
    program = """
remote.Command("far", connection=connection,
    create=f"touch {settings['started']}-far; sleep 120; touch {settings['done']}")
local.Command("near",
    create=f"touch {settings['started']}-near; sleep 120; touch {settings['done']}")
"""
    paths = {"started": str(started), "done": str(done)}
    stack = project(program, connection=sshd.connection(), **paths)
    markers = [Path(f"{started}-{name}") for name in ("far", "near")]
    with stack.start("up", "--yes", "--skip-preview") as process:
        wait(lambda: all(path.exists() for path in markers), "both commands start")
        process.send_signal(signal.SIGINT)
        interrupted = time.monotonic()
        output, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert time.monotonic() - interrupted < 100
    assert "Traceback" not in output
    assert "update was cancelled" in output
    wait(lambda: not stack.processes(), "the plugins end")
    assert not done.exists()


def test_login_through_a_bastion_with_a_key_from_an_agent(
    project: Projects, sshd: Sshd, start_sshd: Callable[..., Sshd], tmp_path: Path, wait: Wait
) -> None:
    program = """
it = remote.Command("it", connection=connection, create="echo $SSH_CONNECTION")
pulumi.export("port", it.stdout.apply(lambda text: text.split()[-1]))
"""
    bastion, agent_path, key = start_sshd(), tmp_path / "agent", tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(sshd.private_key)
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(agent_path)]) as agent:
        wait(agent_path.exists, "ssh-agent listens")
        environment = {**os.environ, "SSH_AUTH_SOCK": str(agent_path)}
        subprocess.run(["ssh-add", "-q", str(key)], env=environment, check=True)
        connection = sshd.connection(
            private_key=None, agent_socket_path=str(agent_path), proxy=bastion.connection()
        )
        stack = project(program, connection=connection)
        opened = bastion.connections()
        stack.up().ok()
        agent.terminate()
    assert bastion.connections() == opened + 1
    assert stack.outputs() == {"port": str(sshd.port)}


def test_files_assets_and_directories_are_copied(
    project: Projects, sshd: Sshd, tmp_path: Path
) -> None:
    target = tmp_path / "there"
    program = """
there = settings["there"]
def copy(name, source, path):
    remote.CopyToRemote(name, connection=connection, source=source, remote_path=there + path)
copy("text", pulumi.StringAsset(settings["text"]), "/deep/below/text")
copy("file", pulumi.FileAsset("settings.json"), "/file")
copy("directory", pulumi.FileArchive("tree"), "/tree")
"""
    settings = {"connection": sshd.connection(), "there": str(target)}
    stack = project(program, text="one", **settings)
    leaf = stack.directory / "tree" / "branch" / "leaf"
    leaf.parent.mkdir(parents=True)
    leaf.write_text("green")
    stack.up().ok()
    assert (target / "deep/below/text").read_text() == "one"
    assert (target / "file").read_bytes() == (stack.directory / "settings.json").read_bytes()
    assert (target / "tree/tree/branch/leaf").read_text() == "green"

    stack.write(program, text="two", **settings)
    assert "2 updated" in stack.up().ok().output
    assert (target / "deep/below/text").read_text() == "two"
