"""`nordmesh backup now`: which nodes it asks, and what it makes of their answers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.backup import command
from components.remote.nodes_ssh import Answer, Login
from tests.unit.commands import nordmesh
from tests.unit.config.test_errors_backup import KEY

Values = dict[str, Any]
LOGIN = Login(host="10.66.0.11", user="root", port=22, host_key="k", private_key="p")


@pytest.fixture
def project(tmp_path: Path, container_stack: Values) -> Path:
    sections = {**container_stack, "backup": {"keys": [KEY], "directory": "/srv/backup"}}
    config = {f"nordmesh:{key}": value for key, value in sections.items()}
    (tmp_path / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config}))
    return tmp_path


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (Answer(text="stored 20261130T012058Z-cp-1: revision 5, 700 bytes\n"), 0, ""),
        (Answer(text="the etcd of another node leads\n"), 1, "no control plane leads"),
        (Answer(text="ERROR ... [backup-disk-full]\n", problem="exit status 1"), 1, "stored: cp-1"),
        (Answer(text="", problem="timed out"), 1, "stored: cp-1"),
    ],
)
def test_it_succeeds_only_if_a_snapshot_was_stored(
    answer: Answer,
    status: int,
    words: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: dict[str, str] = {}

    def run(tasks: Mapping[str, tuple[Login, str]], *, seconds: int) -> dict[str, Answer]:
        assert seconds >= 600
        asked.update({name: script for name, (_, script) in tasks.items()})
        return dict.fromkeys(tasks, answer)

    monkeypatch.setattr(command, "logins", lambda _stack, _script: {"cp-1": LOGIN})
    monkeypatch.setattr("components.remote.nodes_ssh.run", run)
    assert nordmesh(project, "backup", "now", "--stack", "dev") == status
    output, error = capsys.readouterr()
    assert list(asked) == ["cp-1"]
    assert "systemctl start nordmesh-backup.service" in asked["cp-1"]
    assert f"cp-1: {answer.text.strip() or answer.problem}" in output
    assert ("[backup-now-failed]" in error) == bool(status)
    assert words in error


def test_a_stack_without_the_section_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "Pulumi.dev.yaml"
    document = yaml.safe_load(path.read_text())
    del document["config"]["nordmesh:backup"]
    path.write_text(yaml.safe_dump(document))
    for name in ("now", "list", "check"):
        assert nordmesh(project, "backup", name, "--stack", "dev") == 1
        assert "[backup-not-configured]" in capsys.readouterr().err
