"""The command line that runs a script on a node."""

import subprocess
from pathlib import Path

import pytest

import components
from components.node_command import Script

FOLDER = Path(components.__file__).parent / "scripts"
LIBRARIES = {
    "identity.sh": ("other_owner", "refuse_other_owner"),
    "apt.sh": ("install_packages", "host_reset"),
    "fetch.sh": ("fetch",),
    "files.sh": ("write_files",),
    "runtime.sh": ("container_runtime", "remove_runtime"),
    "images.sh": ("pull_images", "wait_for_images"),
    "firewall.sh": ("host_packages", "host_reset"),
    "host.sh": ("host_packages", "host_reset"),
    "kvm.sh": ("has_guest", "is_ours"),
    "mesh.sh": ("unanswered",),
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
    # As the node's shell sees it.
    shown = subprocess.run(
        ["bash", "-c", command.replace("bash -c", "printf %s", 1)],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    head = shown[: shown.index("eval ")] + 'printf %s "$JOINED_NODE"'
    value = subprocess.run(["bash", "-c", head], capture_output=True, text=True, check=True).stdout
    assert value == "it's; rm -rf /"


def test_the_same_script_is_the_same_command_each_time() -> None:
    first, second = (
        Script(file="node-reset.sh", node="cp-1", settings={}).command("root") for _ in range(2)
    )
    assert first == second


@pytest.mark.parametrize("file", SCRIPTS)
def test_the_packed_script_is_the_file_with_its_libraries_before_it(file: str) -> None:
    command = Script(file=file, node="cp-1", settings={}).command("root")
    packed = command.split("<<<", 1)[1].split(" ", 1)[0]
    text = subprocess.run(
        ["bash", "-c", f"base64 -d <<<{packed} | gunzip"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    own = (FOLDER / file).read_text()
    used = [name for name, functions in LIBRARIES.items() if any(f in own for f in functions)]
    libraries = "".join((FOLDER / name).read_text() for name in ("lib.sh", *used))
    assert text == libraries + own
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
