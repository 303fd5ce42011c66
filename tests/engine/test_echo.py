"""The echo program of the demo: its tests in Go."""

import os
import subprocess
from pathlib import Path

from lab import build, paths


def go(*arguments: str, program: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Go in the folder of the program, with the user's build cache."""
    settings = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    return subprocess.run(
        [str(program or build.go_binary()), *arguments],
        cwd=paths.checkout().demo,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_echo_program_passes_its_tests() -> None:
    for command in (("vet", "."), ("test", ".")):
        result = go(*command)
        assert result.returncode == 0, f"go {command[0]}:\n{result.stdout}{result.stderr}"


def test_the_echo_program_is_formatted() -> None:
    gofmt = Path(go("env", "GOROOT").stdout.strip()) / "bin" / "gofmt"
    result = go("-l", ".", program=gofmt)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
