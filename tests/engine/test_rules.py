"""Alerting rules, checked with promtool: their syntax, and when they fire."""

import subprocess
from pathlib import Path

import pytest
import yaml

from components.manifests import prometheus
from lab import paths

CASES = Path(__file__).parent / "rules"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = paths.cache().bin / "prometheus" / "promtool"
    command = [str(program), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize("file", prometheus.RULES)
def test_the_rules_are_valid(file: str) -> None:
    checked = promtool("check", "rules", "--lint-fatal", str(prometheus.RULES[file]))
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("file", prometheus.RULES)
def test_the_alerts_fire_exactly_when_expected(file: str) -> None:
    tested = promtool("test", "rules", str(CASES / file))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_alerts_about_snapshots_fire_exactly_when_expected(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(prometheus.snapshot_rules(900))
    checked = promtool("check", "rules", "--lint-fatal", str(rules))
    assert checked.returncode == 0, checked.stderr
    cases = tmp_path / "backup.yaml"
    cases.write_text((CASES / "backup.yaml").read_text().replace("RULES", str(rules)))
    tested = promtool("test", "rules", str(cases))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_of_the_cluster_has_a_case_in_which_it_fires() -> None:
    groups = yaml.safe_load(prometheus.RULES["cluster.yaml"].read_text())["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"]}
    cases = yaml.safe_load((CASES / "cluster.yaml").read_text())["tests"]
    fired = {
        test["alertname"]
        for case in cases
        for test in case["alert_rule_test"]
        if test["exp_alerts"]
    }
    print(f"{len(fired)} of {len(alerts)} alerts fire in a case")
    assert fired == alerts


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [("mesh.yaml", "value: 0.2", "value: 0.3"), ("cluster.yaml", "uses 95%", "uses 96%")],
)
def test_a_wrong_expectation_fails(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    """Otherwise the test above could pass without testing anything."""
    cases = (CASES / file).read_text()
    assert right in cases
    text = cases.replace("../../../components", str(paths.PROJECT / "components"))
    changed = tmp_path / "wrong.yaml"
    changed.write_text(text.replace(right, wrong))
    assert promtool("test", "rules", str(changed)).returncode == 1
