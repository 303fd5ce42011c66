"""Parts of the stand-ins that need no engine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.engine_values import SIGNATURE
from lab.paths import PROJECT
from lab.standins import install
from lab.standins._local import find_assets
from lab.standins._plugin import engine_address, failure
from lab.standins._ssh import is_host_key
from lab.standins._values import ASSET, differences


def test_install_is_idempotent_and_works_with_any_path(tmp_path: Path) -> None:
    bin_dir, home = tmp_path / "it's a bin", tmp_path / "home"
    for _ in range(2):
        install(bin_dir, Path(sys.executable), home)
    provider = home / "plugins/resource-command-v1.2.1/pulumi-resource-command"
    for wrapper in (bin_dir / "pulumi-language-python", provider):
        assert wrapper.stat().st_mode & 0o777 == 0o755
        assert [path.name for path in wrapper.parent.iterdir()] == [wrapper.name]
        with subprocess.Popen(
            [wrapper], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            rest, stderr = process.communicate(timeout=120)
        assert port > 0
        assert rest == b""
        assert b"this is a stand-in for the official" in stderr
        assert process.returncode == 0, "it ends when its standard input does"


def test_a_stand_in_outlives_the_checkout_that_installed_it(tmp_path: Path) -> None:
    checkout, bin_dir = tmp_path / "it's a checkout", tmp_path / "bin"
    shutil.copytree(PROJECT / "lab" / "standins", checkout / "lab" / "standins")
    python = checkout / ".venv" / "bin" / "python"
    (checkout / ".venv").symlink_to(sys.prefix)
    code = (
        "import sys; from pathlib import Path; from lab.standins import install_language_host;"
        "install_language_host(Path(sys.argv[1]), Path(sys.executable))"
    )
    subprocess.run([python, "-c", code, bin_dir], cwd=checkout, check=True)
    wrapper = bin_dir / "pulumi-language-python"
    assert str(python) in wrapper.read_text().replace("'\"'\"'", "'")
    assert first_line(wrapper, tmp_path).isdigit()

    other = tmp_path / "other"
    checkout.rename(other)
    assert first_line(wrapper, other).isdigit()
    with pytest.raises(subprocess.CalledProcessError) as error:
        first_line(wrapper, tmp_path)
    assert "the checkout that installed this stand-in is gone" in error.value.stderr
    assert "Run `make up` in your checkout" in error.value.stderr


def first_line(wrapper: Path, directory: Path) -> str:
    """Start a stand-in in a directory, end it, and return what it prints: its port."""
    result = subprocess.run(
        [wrapper],
        cwd=directory,
        input="",
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return result.stdout.strip()


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1, "__defaults": []}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2, "b": 3}, {"a": "update", "b": "add"}),
        (
            {"a": {"b": [1, 2], "c.d": 1}},
            {"a": {"b": [1]}},
            {"a.b[1]": "delete", 'a["c.d"]': "delete"},
        ),
        (
            {"a": {SIGNATURE: ASSET, "hash": "x", "path": "/old"}},
            {"a": {SIGNATURE: ASSET, "hash": "x", "path": "/new"}},
            {},
        ),
        (
            {"a": {SIGNATURE: ASSET, "hash": "x"}},
            {"a": {SIGNATURE: ASSET, "hash": "y"}},
            {"a": "update"},
        ),
    ],
)
def test_changed_properties_are_found(
    old: dict[str, object], new: dict[str, object], result: dict[str, str]
) -> None:
    assert dict(differences(old, new)) == result


@pytest.mark.parametrize(
    ("globs", "result"),
    [
        (["*"], ["top.js"]),
        (["src/**.js", "!**secret.*"], ["src/a.js", "src/deep/b.js"]),
        (["**/{a,b}.js"], ["src/a.js", "src/deep/b.js"]),
        (["src/[!b].js", "to?.js"], ["src/a.js", "top.js"]),
    ],
)
def test_asset_globs_match_as_in_the_official_provider(
    tmp_path: Path, globs: list[str], result: list[str]
) -> None:
    for name in ("top.js", "src/a.js", "src/secret.js", "src/deep/b.js"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert list(find_assets(str(tmp_path), globs)) == result


def test_host_key_lines_are_parsed() -> None:
    assert is_host_key("ssh-ed25519 AAAAC3Nz root@cp-1\n")
    assert is_host_key("ecdsa-sha2-nistp256 AAAAE2Vj=")
    assert not is_host_key("192.0.2.11 ssh-ed25519 AAAAC3Nz")
    assert not is_host_key("SHA256:abc")


def test_a_failed_command_is_quoted_as_by_the_official_provider() -> None:
    command = 'echo "a\\b"\n\tø\x01\x7f\u00a0\U000e0001'
    quoted = r'"echo \"a\\b\"\n\tø\x01\x7f\u00a0\U000e0001"'
    message = failure("Process exited with status 3", command, b"out\nerr\n")
    assert message == f"Process exited with status 3: running {quoted}:\nout\nerr\n"


def test_the_address_of_the_engine_is_the_last_argument() -> None:
    assert engine_address(["-v=3", "127.0.0.1:1"]) == "127.0.0.1:1"
    assert engine_address(["--logtostderr"]) is None
    assert engine_address([]) is None
