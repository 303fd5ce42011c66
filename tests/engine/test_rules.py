"""Alerting rules of the mesh, checked with promtool: their syntax, and when they fire."""

import subprocess
from pathlib import Path

from lab import paths

CASES = Path(__file__).parent / "rules" / "mesh.yaml"
RULES = paths.PROJECT / "components" / "manifests" / "prometheus-rules.yaml"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = paths.cache().bin / "prometheus" / "promtool"
    command = [str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


def test_the_rules_are_valid() -> None:
    checked = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert checked.returncode == 0, checked.stderr


def test_the_alerts_fire_exactly_when_expected() -> None:
    tested = promtool("test", "rules", str(CASES))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_wrong_expectation_fails(tmp_path: Path) -> None:
    """Otherwise the test above could pass without testing anything."""
    text = CASES.read_text().replace("../../../components", str(paths.PROJECT / "components"))
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("value: 0.2", "value: 0.3"))
    assert promtool("test", "rules", str(wrong)).returncode == 1
