"""`nordmesh canary`: it edits the weight in the stack file and nothing else."""

from pathlib import Path

import pytest

from cli.app import main

FILE = """\
# A stack.
config:
  nordmesh:mesh:
    services:
      other: {namespace: shop, port: 80, stable: v1, canary: {subset: v2, weight: 5}}

      checkout:   # ours
        port: 8080
        namespace: shop
        stable: v1
        canary:
          weight: 25   # since Friday
          subset: v2

          steps: [5, 25, 50, 100]
      plain: {namespace: shop, port: 80, stable: v1}
"""


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "Pulumi.prod.yaml"
    file.write_text(FILE)
    return file


def run(*arguments: str) -> int:
    return main(["canary", *arguments, "--stack", "prod"])


def test_advance_edits_only_the_weight(stack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("advance", "checkout") == 0
    assert stack.read_text() == FILE.replace("weight: 25   #", "weight: 50   #")
    output = capsys.readouterr().out
    assert (
        "-          weight: 25   # since Friday\n+          weight: 50   # since Friday\n" in output
    )
    assert "git commit" in output
    assert "pull request" in output


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("{subset: v2, weight: 0, steps: [5, 100]}", "{subset: v2, weight: 5, steps: [5, 100]}"),
        ("{subset: v2, weight: 7, steps: [5, 100]}", "{subset: v2, weight: 100, steps: [5, 100]}"),
        ("{weight: '5', subset: v2, steps: [5, 9]}", "{weight: 9, subset: v2, steps: [5, 9]}"),
    ],
)
def test_advance_takes_the_first_step_above_the_weight(stack: Path, text: str, step: str) -> None:
    file = FILE.replace("{subset: v2, weight: 5}", text)
    stack.write_text(file)
    assert run("advance", "other") == 0
    assert stack.read_text() == file.replace(text, step)


@pytest.mark.parametrize(
    "words", ["[canary-at-100]", "mesh.services.checkout", "write stable: v2 and remove canary"]
)
def test_advance_at_100_explains_how_to_promote(
    stack: Path, capsys: pytest.CaptureFixture[str], words: str
) -> None:
    stack.write_text(FILE.replace("weight: 25", "weight: 100"))
    before = stack.read_text()
    assert run("advance", "checkout") == 1
    assert words in capsys.readouterr().err
    assert stack.read_text() == before


@pytest.mark.parametrize(
    ("service", "words"),
    [
        ("chekout", "did you mean checkout?"),
        ("zzz", "other, checkout, plain"),
        ("plain", "mesh.services.plain [no-canary]"),
        ("other", "mesh.services.other.canary [no-canary-steps]"),
    ],
)
def test_advance_refuses_a_service_without_steps(
    stack: Path, capsys: pytest.CaptureFixture[str], service: str, words: str
) -> None:
    assert run("advance", service) == 1
    assert words in capsys.readouterr().err
    assert stack.read_text() == FILE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE.replace("steps: [5, 25", "steps: [25, 5"), "[wrong-canary]"),
        (
            FILE.replace("[5, 100]", "[5, 100").replace("50, 100]", "50, 100"),
            "[stack-file-unreadable]",
        ),
        (FILE.replace("[5, 25, 50, 100]", "[5, 20]"), "its last step is 20"),
    ],
)
def test_advance_refuses_an_invalid_stack_file(
    stack: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    stack.write_text(text)
    assert run("advance", "checkout") == 1
    assert words in capsys.readouterr().err
    assert stack.read_text() == text


@pytest.mark.usefixtures("stack")
def test_a_missing_stack_file_lists_the_known_stacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["canary", "abort", "checkout", "--stack", "x"]) == 1
    error = capsys.readouterr().err
    assert "Pulumi.x.yaml [no-stack-file]" in error
    assert "(prod)" in error


def fake_pulumi(directory: Path, status: int) -> None:
    program = directory / "pulumi"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{directory}/arguments"\nexit {status}\n')
    program.chmod(0o755)


def aborted(stack: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Abort the canary of a stack file with this text; return the arguments of pulumi."""
    stack.write_text(text)
    fake_pulumi(stack.parent, 0)
    monkeypatch.setenv("PATH", str(stack.parent), prepend=":")
    assert run("abort", "checkout") == 0
    assert stack.read_text() == text.replace("weight: 25 ", "weight: 0 ")
    return (stack.parent / "arguments").read_text().split("\n")[:-1]


@pytest.mark.parametrize("service", ["checkout", "pay"])
def test_abort_sets_0_and_updates_only_the_route(
    stack: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    text = FILE.replace("        port: 8080\n", f"        port: 8080\n        service: {service}\n")
    arguments = aborted(stack, text, monkeypatch)
    assert arguments == [
        "up", "--yes", "--skip-preview", "--stack", "prod",
        "--target", f"**:VirtualService::shop/{service}",
    ]  # fmt: skip


@pytest.mark.parametrize("service", ["checkout", "pay"])
def test_abort_updates_the_split_of_a_service_by_path(
    stack: Path, monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    """A gateway's routes by path, and those of the mesh, delegate to the object with the split."""
    paths = f"        service: {service}\n"
    paths += "        gateway: web\n        hosts: [a.example.com]\n        paths: [{prefix: /a}]\n"
    gateways = "    gateways: {web: {hosts: [a.example.com]}}\n"
    text = FILE.replace("        canary:\n", paths + "        canary:\n") + gateways
    arguments = aborted(stack, text, monkeypatch)
    assert arguments[-2:] == ["--target", f"**:VirtualService::shop/{service}.split"]


def test_a_failed_abort_can_be_repeated(
    stack: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    fake_pulumi(tmp_path, 1)
    assert run("abort", "checkout") == 1
    assert "[abort-not-applied]" in capsys.readouterr().err
    fake_pulumi(tmp_path, 0)
    assert run("abort", "checkout") == 0
    assert stack.read_text() == FILE.replace("weight: 25 ", "weight: 0 ")


def test_abort_without_pulumi_changes_nothing(
    stack: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(stack.parent))
    assert run("abort", "checkout") == 3
    assert ". .lab/env" in capsys.readouterr().err
    assert stack.read_text() == FILE
