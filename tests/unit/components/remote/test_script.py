"""Command lines that run a script on a node, and the copies of scripts on nodes."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

import components
from components.remote import copies, node_command
from components.remote.node_command import MISSING, Script, digest, path_of, text_of
from tests.unit.machine import Machine

FOLDER = Path(components.__file__).parent / "scripts"
LIBRARIES = {
    "identity.sh": ("other_owner", "refuse_other_owner", "$ADMIN_CONF"),
    "apt.sh": ("install_packages", "host_reset"),
    "fetch.sh": ("fetch", "download_from"),
    "files.sh": ("write_files",),
    "runtime.sh": ("container_runtime", "remove_runtime"),
    "images.sh": ("pull_images", "wait_for_images"),
    "handover.sh": ("read_handover",),
    "static-pods.sh": ("$BEFORE",),
    "encryption.sh": ("encryption_keys", "write_keys"),
    "pod-settings.sh": ("is_changed",),
    "encryption-planes.sh": ("set_planes",),
    "encryption-add.sh": ("apply_settings",),
    "plane-join.sh": ("has_announced",),
    "endpoint.sh": ("host_packages", "host_reset"),
    "firewall.sh": ("host_packages", "host_reset"),
    "host.sh": ("host_packages", "host_reset"),
    "kvm.sh": ("has_guest", "is_ours"),
    "mesh.sh": ("no_answer", "require_api"),
    "removal.sh": ("\ndelete_node\n", "|| delete_node\n"),
    "restore.sh": ("$RESTORING", "has_placed"),
    "cordon.sh": ("$(fields ", '&& is_ready "$JOINED_NODE"'),
}
SCRIPTS = sorted(
    path.name
    for path in FOLDER.glob("*.sh")
    if path.name not in ("lib.sh", *LIBRARIES) and not path.name.startswith("container-")
)


def test_settings_are_readable_and_quoted() -> None:
    script = Script(file="node-ready.sh", node="cp-1", settings={"JOINED_NODE": "it's; rm -rf /"})
    command = script.command("root")
    assert command.startswith("timeout --kill-after=10 300 bash -c ")
    assert "export NODE_NAME=cp-1\n" in command
    # As the shell of the node parses it.
    parsed = subprocess.run(
        ["bash", "-c", command.replace("bash -c", "printf %s", 1)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    head = parsed[: parsed.index("script=")] + 'printf %s "$JOINED_NODE"'
    value = subprocess.run(["bash", "-c", head], capture_output=True, text=True, check=True).stdout
    assert value == "it's; rm -rf /"


def test_rendering_a_command_is_deterministic() -> None:
    first, second = (
        Script(file="node-reset.sh", node="cp-1", settings={}).command("root") for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("file", SCRIPTS)
def test_a_script_is_its_libraries_followed_by_its_file(file: str) -> None:
    source = (FOLDER / file).read_text()
    used = [name for name, functions in LIBRARIES.items() if any(f in source for f in functions)]
    text = "".join((FOLDER / name).read_text() for name in ("lib.sh", *used)) + source
    assert text_of(file) == text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    command = Script(file=file, node="cp-1", settings={}).command("root")
    assert digest(command) == hashlib.sha256(text.encode()).hexdigest()


SCRIPT = Script(file="node-ready.sh", node="worker-1", settings={"JOINED_NODE": "worker-1"})
PATH = path_of(SCRIPT.file, str(digest(SCRIPT.command("root"))))


@pytest.mark.parametrize("changed", ["missing", "altered", "longer"])
def test_a_changed_or_missing_copy_does_not_run(machine: Machine, changed: str) -> None:
    machine.fake("kubectl")
    command = machine.command(SCRIPT)
    text = {"altered": "touch /altered\n", "longer": machine.read(PATH) + "touch /altered\n"}
    machine.path(PATH).unlink()
    if changed in text:
        machine.write(PATH, text[changed])
    result = machine.shell(command)
    assert result.status == MISSING
    assert not machine.exists("/altered")
    assert machine.calls() == []
    assert f"ERROR on node worker-1: {PATH} " in result.stderr
    assert "`pulumi destroy --run-program`" in result.stderr


def test_a_copied_script_runs(machine: Machine) -> None:
    text = text_of(SCRIPT.file)
    machine.fake("kubectl", "printf True")
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert machine.shell(copies.install(SCRIPT.file, sha256), stdin=text).status == 0
    assert machine.shell(SCRIPT.command("root")).status == 0
    assert f"{sha256}  {PATH}" in machine.shell(copies.LIST).stdout


def test_an_incomplete_copy_is_deleted(machine: Machine) -> None:
    text = text_of(SCRIPT.file)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    assert machine.shell(copies.install(SCRIPT.file, sha256), stdin=text[:100]).status != 0
    assert machine.shell(copies.LIST).stdout == ""
    assert list(machine.path(node_command.FOLDER).iterdir()) == []


def test_the_part_of_a_copy_that_was_cut_off_is_deleted(machine: Machine) -> None:
    text = text_of(SCRIPT.file)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    machine.write(f"{path_of(SCRIPT.file, sha256)}.15475", text[:100])
    assert machine.shell(copies.install(SCRIPT.file, sha256), stdin=text).status == 0
    (left,) = machine.path(node_command.FOLDER).iterdir()
    assert left == machine.path(path_of(SCRIPT.file, sha256))


def test_only_the_20_newest_versions_of_a_script_remain(machine: Machine) -> None:
    machine.write(f"{node_command.FOLDER}/node-remove-0123456789ab.sh", "another script\n")
    for number in range(25):
        text = f"version {number}\n"
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        path = machine.path(path_of("node.sh", sha256))
        assert machine.shell(copies.install("node.sh", sha256), stdin=text).status == 0
        os.utime(path, (number, number))
    remaining = sorted(path.read_text() for path in path.parent.glob("node-*"))
    assert remaining == sorted(["another script\n", *(f"version {n}\n" for n in range(5, 25))])
