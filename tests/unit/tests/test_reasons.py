"""The summary of a failed run says why each test failed, not only how its message begins."""

import os
import subprocess
import sys
from pathlib import Path

_TESTS = """
import pytest

ENGINE = "`pulumi up` failed:\\n  error: cp-1 is off\\n  error: update failed\\n"
SHELL = "[certs] Using a folder\\n[etcd] Writing\\nEnd of file\\n"
NODE = "cp-1: restart\\nERROR on node cp-1: it is off [off]\\n  why  a\\n  fix  b\\n"


def test_engine():
    assert 1 == 0, ENGINE


@pytest.fixture
def shell():
    assert 1 == 0, SHELL


def test_shell(shell):
    pass


def test_node():
    assert 1 == 0, NODE


def test_values():
    assert [1, 2] == [3]
"""


def test_the_summary_has_the_errors_or_the_end_of_a_message(tmp_path: Path) -> None:
    checkout = Path(__file__).parents[3]
    (tmp_path / "conftest.py").write_text((checkout / "tests/conftest.py").read_text())
    (tmp_path / "test_it.py").write_text(_TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."]
    ended = subprocess.run(
        [*command, str(tmp_path)],
        cwd=checkout,
        env={**os.environ, "COLUMNS": "320"},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = ended.stdout.partition("short test summary info")[2]
    lines = {line.split("::")[1].split()[0]: line for line in summary.splitlines() if "::" in line}
    assert "error: cp-1 is off" in lines["test_engine"]
    assert "update failed" not in lines["test_engine"]
    assert "End of file" in lines["test_shell"]
    assert "it is off [off]" in lines["test_node"]
    assert "assert [1, 2] == [3]" in lines["test_values"]
