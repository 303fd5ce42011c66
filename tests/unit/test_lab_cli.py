"""The lab's command line: stack files, locks, background services, exit codes."""

import json
import os
import shutil
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
from config.errors import NordmeshError
from lab import build, host, paths, programs, selection, services, stack, toolchain
from lab.errors import LabError
from lab.programs import Program
from lab.selection import Selection
from lab.services import Service
from lab.stack import Stack
from tests.unit.commands import nordmesh

SCRIPTS = Path(__file__).parents[2] / "components" / "scripts"

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
    """A project with one stack, and cache and state of its own; the current directory."""
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


# --- what a stack file says about its lab ---


def test_the_lab_is_read_from_the_stack_file(project: Path) -> None:
    lab = services.read_lab(project, "unit")
    assert (lab.bridge, lab.gateway) == ("nmunit0", "198.51.100.1")
    assert (lab.mirror_port, lab.registry_port) == (8080, 5000)
    assert lab.nodes == {"cp-1": "198.51.100.11"}, "bought machines are no part of the lab"
    assert lab.directory == paths.state().lab("nmunit0")


def test_an_unknown_stack_names_those_that_there_are(project: Path) -> None:
    with pytest.raises(NordmeshError) as caught:
        services.read_lab(project, "other")
    assert caught.value.code == "no-stack-file"
    assert caught.value.path == "Pulumi.other.yaml"
    assert "(unit)" in caught.value.fix


def test_a_stack_without_container_machines_is_no_lab(project: Path) -> None:
    write_stack(project, container=None)
    with pytest.raises(LabError, match=r"Pulumi\.unit\.yaml"):
        services.read_lab(project, "unit")


def test_artifacts_must_be_served_from_the_bridge(project: Path) -> None:
    write_stack(project, container={"bridge": "nmunit0", "subnet": "203.0.113.0/24"})
    with pytest.raises(LabError, match=r"(?s)http://203\.0\.113\.1:<port>.*not at http://198"):
        services.read_lab(project, "unit")


# --- the stack file stays as it was written ---


def test_the_salt_is_taken_out_and_comments_stay(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.x.yaml"
    before = "# why\nconfig:\n  nordmesh:demo: {enabled: true} # really\n"
    path.write_text(before + "encryptionsalt: v1:abc=:v1:def:ghi==\n")
    stack.strip_salt(path)
    assert path.read_text() == before


def test_the_salt_stays_where_secrets_need_it(tmp_path: Path) -> None:
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


def test_a_killed_run_s_lock_is_removed(project: Path) -> None:
    """Before the stack was made, too, where `pulumi cancel` says that there is none."""
    lock = write_lock(ended_pid(), socket.gethostname())
    said: list[str] = []
    one = Stack(project=project, name="unit")
    one.free(said.append)
    assert not lock.exists()
    assert not one.locks()
    assert "removed the lock" in said[0]


def test_a_live_run_s_lock_is_respected(project: Path) -> None:
    write_lock(os.getpid(), "another-host")
    with pytest.raises(LabError, match=rf"in use by pulumi, process {os.getpid()} on another-host"):
        Stack(project=project, name="unit").free(print)


def test_a_reused_process_id_is_not_the_holder(project: Path) -> None:
    write_lock(os.getpid(), socket.gethostname())  # alive, but no pulumi
    (lock,) = Stack(project=project, name="unit").locks()
    assert not lock.holder_is_alive()


# --- the backend ---


def test_the_passphrase_is_private_and_goes_with_the_last_stack(project: Path) -> None:
    toolchain.make_state()
    passphrase = paths.state().passphrase
    assert passphrase.stat().st_mode & 0o777 == 0o600
    other = paths.state().pulumi / ".pulumi" / "stacks" / "nordmesh" / "other.json"
    other.parent.mkdir(parents=True)
    other.touch()
    assert not stack.remove_backend_if_empty([])
    assert passphrase.exists()
    other.unlink()
    assert stack.remove_backend_if_empty([project / "Pulumi.unit.yaml"])
    assert not passphrase.exists()


@pytest.mark.usefixtures("project")
def test_the_backend_stays_while_another_lab_starts() -> None:
    state = paths.state()
    other = state.lab("nordmesh-other")
    other.mkdir(parents=True)
    toolchain.make_state()
    assert not stack.remove_backend_if_empty([])
    assert state.passphrase.is_file()
    other.rmdir()
    assert stack.remove_backend_if_empty([])
    assert not state.passphrase.exists()


def test_the_shell_gets_every_tool_and_no_passphrase_of_its_own(project: Path) -> None:
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


LAB = {
    "PULUMI_BACKEND_URL": f"file://{paths.state().pulumi}",
    "PULUMI_CONFIG_PASSPHRASE_FILE": str(paths.state().passphrase),
}
OWN = {"PULUMI_BACKEND_URL": "s3://own", "PULUMI_CONFIG_PASSPHRASE_FILE": "/own"}
PULUMI = """#!/bin/sh
echo "$PULUMI_BACKEND_URL $PULUMI_CONFIG_PASSPHRASE_FILE" >asked
exit 1
"""


class Shell:
    """A checkout of which a lab is up, and a pulumi that writes down which backend it was given."""

    def __init__(self, checkout: Path, patch: pytest.MonkeyPatch) -> None:
        self.checkout, self._patch = checkout, patch
        (checkout / "bin").mkdir()
        (checkout / "bin" / "pulumi").write_text(PULUMI)
        (checkout / "bin" / "pulumi").chmod(0o755)
        (checkout / "Pulumi.local.yaml").write_text(yaml.safe_dump(STACK_FILE))
        shutil.copy(paths.PROJECT / "Pulumi.prod.yaml", checkout)
        stack.write_env(checkout / ".lab" / "env")
        self.export(PATH=f"{checkout / 'bin'}:{os.environ['PATH']}")

    def source_lab_env(self) -> None:
        """`. .lab/env`."""
        script = ". .lab/env && env -0"
        result = subprocess.run(
            ["bash", "-c", script], cwd=self.checkout, capture_output=True, text=True, check=True
        )
        variables = dict(line.partition("=")[::2] for line in result.stdout.split("\0") if line)
        self.export(
            **{k: v for k, v in variables.items() if k.startswith(("PULUMI_", "NORDMESH_"))}
        )

    def export(self, **variables: str) -> None:
        for name, value in variables.items():
            self._patch.setenv(name, value)

    def asked(self) -> str:
        """The backend and the passphrase file that pulumi was given; empty if it did not run."""
        file = self.checkout / "asked"
        return file.read_text().strip() if file.exists() else ""


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(tmp_path, monkeypatch)


COMMANDS = [
    ["preflight"],
    ["dashboard"],
    ["review"],
    ["drift"],
    ["canary", "abort", "payment-service"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_another_stack_never_gets_the_labs_backend(
    shell: Shell, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shell.source_lab_env()
    file = shell.checkout / "Pulumi.prod.yaml"
    before = file.read_text()
    assert nordmesh(shell.checkout, *command, "--stack", "prod") == 1
    assert "prod [lab-backend]" in capsys.readouterr().err
    assert shell.asked() == ""
    assert file.read_text() == before


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_another_stack_gets_its_own_backend(shell: Shell, command: list[str]) -> None:
    shell.source_lab_env()
    shell.export(**OWN)
    assert nordmesh(shell.checkout, *command, "--stack", "prod") != 0
    assert shell.asked() == " ".join(OWN.values())


@pytest.mark.parametrize("command", COMMANDS[:4], ids=" ".join)
def test_the_labs_stack_gets_it(shell: Shell, command: list[str]) -> None:
    shell.source_lab_env()
    assert nordmesh(shell.checkout, *command, "--stack", "local") != 0
    assert shell.asked() == " ".join(LAB.values())


def test_without_a_stack_pulumis_selection_is_asked_for(
    shell: Shell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.export(**OWN)
    assert nordmesh(shell.checkout, "explain") == 1
    error = capsys.readouterr().err
    assert "[no-stack]" in error
    assert "pulumi stack select" in error
    (shell.checkout / "bin" / "pulumi").write_text(
        '#!/bin/sh\n[ "$1 $2" = "stack --show-name" ] && echo prod\n'
    )
    assert nordmesh(shell.checkout, "report", "egress") == 0
    assert "api.acquirer.example" in capsys.readouterr().out
    monkeypatch.setenv("PULUMI_STACK", "nope")
    assert nordmesh(shell.checkout, "explain") == 1
    assert "Pulumi.nope.yaml [no-stack-file]" in capsys.readouterr().err


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
def test_up_builds_what_the_stack_runs_and_build_everything(
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    chosen: Selection,
    more: tuple[Program, ...],
) -> None:
    asked: dict[str, object] = {}

    def make_all(**options: object) -> None:
        asked.update(options)
        raise LabError("enough", code="unit")

    monkeypatch.chdir(paths.PROJECT)
    monkeypatch.setattr(build, "make_all", make_all)
    monkeypatch.setattr(host, "require", lambda _: "a machine")
    monkeypatch.setattr(host, "install_packages", lambda *_, **__: None)
    monkeypatch.setattr(host, "prepare_kernel", lambda _: None)
    assert command.main(arguments) == 1
    assert (asked["chosen"], asked["more"]) == (chosen, more)
    assert chosen != selection.EVERYTHING or arguments == ["build"]


# --- services ---


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Service]:
    port = free_port()
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
    (first,) = mirror.pids()
    mirror.start()
    assert mirror.pids() == [first], "a healthy service is left alone"
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


def test_a_taken_port_is_reported(mirror: Service, tmp_path: Path) -> None:
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


def test_down_refuses_where_data_loss_is_not_allowed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_stack(project, allowDataLoss=False)
    assert command.main(["down", "--stack", "unit"]) == 1
    shown = capsys.readouterr().err
    assert "[lab-data-loss]" in shown
    assert "nordmesh:machines.allowDataLoss to true" in shown


def test_errors_are_one_message(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert project.is_dir()
    assert command.main(["status", "--stack", "unit"]) == 1
    error = capsys.readouterr().err
    assert "the stack unit does not exist [lab-not-up]" in error
    assert "run `make up`" in error
    assert "Traceback" not in error


def test_ctrl_c_is_short(
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
        ["bash", str(SCRIPTS / name)],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("name", ["", "Cp-1", "../x", "-a", "a b"])
def test_a_machine_s_name_must_be_a_label(tmp_path: Path, name: str) -> None:
    network = {"ADDRESS": "198.51.100.11", "PREFIX": "24", "GATEWAY": "198.51.100.1"}
    result = run_script("container-create.sh", tmp_path, NAME=name, BRIDGE="nmunit0", **network)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "NAME" in result.stderr


def test_deleting_no_machine_is_no_error(tmp_path: Path) -> None:
    result = run_script("container-delete.sh", tmp_path, NAME="cp-1", BRIDGE="nmunit0")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_deleting_a_machine_needs_permission(tmp_path: Path) -> None:
    machine = tmp_path / "nordmesh" / "lab" / "nmunit0" / "machines" / "cp-1"
    (machine / "root" / "var").mkdir(parents=True)
    settings = {"NAME": "cp-1", "BRIDGE": "nmunit0"}
    refused = run_script("container-delete.sh", tmp_path, **settings)
    assert refused.returncode == 1
    assert "allowDataLoss" in refused.stderr
    assert (machine / "root" / "var").is_dir()
    deleted = run_script("container-delete.sh", tmp_path, **settings, ALLOW_DATA_LOSS="true")
    assert deleted.returncode == 0
    assert not machine.exists()
