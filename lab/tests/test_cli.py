"""The lab's command line: stack files, locks, background services, exit codes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import lab.__main__ as command
from components.remote.node_command import local_text
from config.errors import NordmeshError
from lab import build, host, paths, programs, selection, services, stack, toolchain
from lab.errors import LabError
from lab.ports import reserved_port
from lab.programs import Program
from lab.selection import Selection
from lab.services import Service
from lab.stack import Stack

STACK_FILE: dict[str, Any] = {
    "config": {
        "nordmesh:machines": {
            "allowDataLoss": True,
            "container": {"bridge": "nmunit0", "subnet": "198.51.100.0/24"},
            "nodes": {
                "cp-1": {"provider": "container", "address": "198.51.100.11"},
                "far-1": {"provider": "existing", "address": "192.0.2.11"},
            },
        },
        "nordmesh:artifacts": {
            "mirror": "http://198.51.100.1:8080",
            "registry": "http://198.51.100.1:5000",
        },
    }
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one stack, its own cache and its own state. It is the current directory."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "Pulumi.yaml").write_text("name: nordmesh\nruntime: python\n")
    (folder / "Pulumi.unit.yaml").write_text(yaml.safe_dump(STACK_FILE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(folder)
    return folder


def write_stack(project: Path, **machines: object) -> None:
    document = json.loads(json.dumps(STACK_FILE))
    document["config"]["nordmesh:machines"].update(machines)
    (project / "Pulumi.unit.yaml").write_text(yaml.safe_dump(document))


# --- the lab in a stack file ---


def test_the_lab_is_read_from_the_stack_file(project: Path) -> None:
    lab = services.read_lab(project, "unit")
    assert (lab.bridge, lab.gateway) == ("nmunit0", "198.51.100.1")
    assert (lab.mirror_port, lab.registry_port) == (8080, 5000)
    assert lab.nodes == {"cp-1": "198.51.100.11"}, "bought machines are not part of the lab"
    assert lab.directory == paths.state().lab("nmunit0")


def test_a_machine_is_started_with_all_that_its_script_reads(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = services.read_lab(project, "unit")
    (lab.directory / "machines" / "cp-1" / "root").mkdir(parents=True)
    given: list[dict[str, str]] = []

    def run(*_: object, env: dict[str, str], **__: object) -> subprocess.CompletedProcess[str]:
        given.append(env)
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr("lab.services.subprocess.run", run)
    assert services.start_stopped_machines(lab, print) == ["cp-1"]
    names = re.search(r"^# In: +(.+)$", local_text("container-create.sh"), re.M)
    assert names
    for name in re.findall(r"[A-Z_]{4,}", names[1]):
        assert given[0].get(name), f"{name} is missing"


def test_an_unknown_stack_lists_the_known_ones(project: Path) -> None:
    with pytest.raises(NordmeshError) as caught:
        services.read_lab(project, "other")
    assert caught.value.code == "no-stack-file"
    assert caught.value.path == "Pulumi.other.yaml"
    assert "(unit)" in caught.value.fix


def test_a_stack_without_container_machines_is_not_a_lab(project: Path) -> None:
    write_stack(project, container=None)
    with pytest.raises(LabError, match=r"Pulumi\.unit\.yaml"):
        services.read_lab(project, "unit")


def test_artifacts_must_be_served_from_the_bridge(project: Path) -> None:
    write_stack(project, container={"bridge": "nmunit0", "subnet": "203.0.113.0/24"})
    with pytest.raises(LabError, match=r"(?s)http://203\.0\.113\.1:<port>.*not at http://198"):
        services.read_lab(project, "unit")


# --- the salt in the stack file ---


def test_the_salt_is_removed_and_comments_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    before = "# why\nconfig:\n  nordmesh:demo: {enabled: true} # really\n"
    path.write_text(before + "encryptionsalt: v1:abc=:v1:def:ghi==\n")
    stack.strip_salt(path)
    assert path.read_text() == before


def test_the_salt_of_encrypted_values_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    text = "config:\n  nordmesh:key:\n    secure: v1:xyz\nencryptionsalt: v1:abc=:v1:def\n"
    path.write_text(text)
    stack.strip_salt(path)
    assert path.read_text() == text


# --- locks ---


def write_lock(pid: int, host: str) -> Path:
    folder = paths.state().pulumi / ".pulumi" / "locks" / "organization" / "nordmesh" / "unit"
    folder.mkdir(parents=True)
    path = folder / "one.json"
    path.write_text(json.dumps({"pid": pid, "hostname": host, "timestamp": "2026-11-20T00:00:00Z"}))
    return path


def ended_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_lock_of_a_killed_run_is_removed(project: Path) -> None:
    """Also before the stack exists, when `pulumi cancel` fails."""
    lock = write_lock(ended_pid(), socket.gethostname())
    messages: list[str] = []
    unit_stack = Stack(project=project, name="unit")
    unit_stack.free(messages.append)
    assert not lock.exists()
    assert not unit_stack.locks()
    assert "removed the lock" in messages[0]


def test_attributes_that_a_killed_run_left_empty_are_removed(project: Path) -> None:
    """The engine cannot read a state beside them."""
    folder = paths.state().pulumi / ".pulumi" / "stacks" / "nordmesh"
    folder.mkdir(parents=True)
    empty, whole = folder / "unit.json.attrs", folder / "other.json.attrs"
    empty.touch()
    whole.write_text("{}")
    Stack(project=project, name="unit").free(print)
    assert not empty.exists()
    assert whole.exists()


def test_the_lock_of_a_running_update_is_respected(project: Path) -> None:
    write_lock(os.getpid(), "another-host")
    with pytest.raises(LabError, match=rf"in use by pulumi, process {os.getpid()} on another-host"):
        Stack(project=project, name="unit").free(print)


def test_a_reused_process_id_is_not_the_holder(project: Path) -> None:
    write_lock(os.getpid(), socket.gethostname())  # alive, but not pulumi
    (lock,) = Stack(project=project, name="unit").locks()
    assert not lock.holder_is_alive()


# --- the backend ---


def test_the_passphrase_is_private_and_removed_with_the_last_stack(project: Path) -> None:
    toolchain.make_state()
    passphrase = paths.state().passphrase
    assert passphrase.stat().st_mode & 0o777 == 0o600
    other_stack = paths.state().pulumi / ".pulumi" / "stacks" / "nordmesh" / "other.json"
    other_stack.parent.mkdir(parents=True)
    other_stack.touch()
    assert not stack.remove_backend_if_empty([])
    assert passphrase.exists()
    other_stack.unlink()
    assert stack.remove_backend_if_empty([project / "Pulumi.unit.yaml"])
    assert not passphrase.exists()


@pytest.mark.usefixtures("project")
def test_the_backend_is_kept_while_another_lab_starts() -> None:
    state = paths.state()
    other_lab = state.lab("nordmesh-other")
    other_lab.mkdir(parents=True)
    toolchain.make_state()
    assert not stack.remove_backend_if_empty([])
    assert state.passphrase.is_file()
    other_lab.rmdir()
    assert stack.remove_backend_if_empty([])
    assert not state.passphrase.exists()


def test_the_lab_environment_has_every_tool_and_no_passphrase(project: Path) -> None:
    stack.write_env(project / ".lab" / "env")
    script = '. .lab/env && echo "$PATH" && echo "${PULUMI_CONFIG_PASSPHRASE-none}"'
    environment = {**os.environ, "PULUMI_CONFIG_PASSPHRASE": "wrong"}
    result = subprocess.run(
        ["bash", "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    search, inherited = result.stdout.splitlines()
    bin_dir = paths.cache().bin
    assert {str(bin_dir / "kubernetes"), str(bin_dir / "istio")} <= set(search.split(":"))
    assert inherited == "none"


# --- what is built ---


@pytest.mark.parametrize(
    ("arguments", "chosen", "more"),
    [
        (
            ["up"],
            selection.of_stack(services.read_stack(paths.PROJECT, "local"), paths.PROJECT),
            (),
        ),
        (["build"], selection.EVERYTHING, programs.TESTS),
    ],
)
def test_up_builds_the_stacks_programs_and_build_builds_all(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    chosen: Selection,
    more: tuple[Program, ...],
) -> None:
    build_options: dict[str, object] = {}

    def make_all(**options: object) -> None:
        build_options.update(options)
        raise LabError("enough", code="unit")

    monkeypatch.chdir(paths.PROJECT)
    monkeypatch.setattr(build, "make_all", make_all)
    monkeypatch.setattr(host, "require", lambda _: "a machine")
    monkeypatch.setattr(host, "install_packages", lambda *_, **__: None)
    monkeypatch.setattr(host, "prepare_kernel", lambda _: None)
    assert command.main(arguments) == 1
    assert (build_options["chosen"], build_options["more"]) == (chosen, more)
    assert chosen != selection.EVERYTHING or arguments == ["build"]


# --- services ---


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Service]:
    with reserved_port() as port:
        service = Service(
            name="mirror",
            program=(sys.executable, "-m", "lab.mirror"),
            config_file=tmp_path / "mirror.json",
            config={"directory": str(tmp_path), "address": "127.0.0.1", "port": port},
            health=f"http://127.0.0.1:{port}/",
            log=tmp_path / "mirror.log",
        )
        yield service
        service.stop()


def test_a_service_is_started_once_and_stopped_cleanly(mirror: Service) -> None:
    mirror.start()
    (pid,) = mirror.pids()
    mirror.start()
    assert mirror.pids() == [pid], "a healthy service is left alone"
    mirror.stop()
    assert not mirror.pids()
    mirror.stop()


def test_a_killed_service_is_started_again(mirror: Service) -> None:
    mirror.start()
    os.kill(mirror.pids()[0], signal.SIGKILL)
    while mirror.is_healthy():
        pass
    mirror.start()
    assert mirror.is_healthy()


def test_a_port_in_use_is_reported(mirror: Service, tmp_path: Path) -> None:
    mirror.start()
    second = Service(
        name="mirror",
        program=mirror.program,
        config_file=tmp_path / "second.json",
        config=mirror.config,
        health=mirror.health,
        log=tmp_path / "second.log",
    )
    with pytest.raises(LabError) as caught:
        second.start()
    assert caught.value.code == "lab-port-taken"
    assert mirror.health in caught.value.what


# --- commands ---


@pytest.mark.parametrize("allowed", [False, [], [{"etcd": "cp-1", "reason": "a test of the lab"}]])
def test_down_is_refused_without_data_loss_permission(
    project: Path, capsys: pytest.CaptureFixture[str], allowed: object
) -> None:
    write_stack(project, allowDataLoss=allowed)
    assert command.main(["down", "--stack", "unit"]) == 1
    error = capsys.readouterr().err
    assert "[lab-data-loss]" in error
    assert "{disk: cp-1, reason: ...}" in error


def test_an_error_is_printed_without_a_traceback(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert project.is_dir()
    assert command.main(["status", "--stack", "unit"]) == 1
    error = capsys.readouterr().err
    assert "the stack unit does not exist [lab-not-up]" in error
    assert "run `make up`" in error
    assert "Traceback" not in error


def test_ctrl_c_prints_a_short_message(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    assert project.is_dir()
    monkeypatch.setattr(services, "read_lab", interrupt)
    assert command.main(["up", "--stack", "unit"]) == 130
    assert "run it again to continue" in capsys.readouterr().err


def test_an_unknown_option_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["up", "--stak", "unit"]) == 2
    assert "--stak" in capsys.readouterr().err


# --- machine scripts ---


def run_script(name: str, tmp_path: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    return subprocess.run(
        ["bash", "-c", local_text(name)],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["", "Cp-1", "../x", "-a", "a b"])
def test_the_name_of_a_machine_must_be_a_label(tmp_path: Path, name: str) -> None:
    network = {"ADDRESS": "198.51.100.11", "PREFIX": "24", "GATEWAY": "198.51.100.1"}
    result = run_script("container-create.sh", tmp_path, NAME=name, BRIDGE="nmunit0", **network)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "NAME" in result.stderr


def test_deleting_a_missing_machine_is_not_an_error(tmp_path: Path) -> None:
    result = run_script("container-delete.sh", tmp_path, NAME="cp-1", BRIDGE="nmunit0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_deleting_a_machine_needs_permission(tmp_path: Path) -> None:
    machine = tmp_path / "nordmesh" / "lab" / "nmunit0" / "machines" / "cp-1"
    (machine / "root" / "var").mkdir(parents=True)
    settings = {"NAME": "cp-1", "BRIDGE": "nmunit0"}
    refusal = run_script("container-delete.sh", tmp_path, **settings)
    assert refusal.returncode == 1
    assert "allowDataLoss" in refusal.stderr
    assert (machine / "root" / "var").is_dir()
    deleted = run_script("container-delete.sh", tmp_path, **settings, ALLOW_DATA_LOSS="true")
    assert deleted.returncode == 0
    assert not machine.exists()
