"""Unknown keys and unencrypted secrets: errors at preview and in the commands."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pulumi
import pytest
import yaml
from pulumi.runtime import set_all_config
from pulumi.runtime.config import CONFIG

from cli import logins
from config import SECRETS as SECRET_KEYS
from config import StackConfig, load, stack_file
from config.errors import ConfigError, Problem
from config.load import read_stack
from tests.support.paths import PROJECT
from tests.unit.commands import nordmesh
from tests.unit.config.test_errors import edited, refusal
from tests.unit.config.test_errors_backup import KEY as AGE_KEY

Values = dict[str, Any]
Load = Callable[[Values], StackConfig]

STACK = "prod"


def file_of(values: Values, *, clear: bool = False) -> Values:
    """The content of a stack file. clear: whether its secrets are unencrypted."""
    config = {f"nordmesh:{key}": value for key, value in values.items()}
    if not clear:
        for key in config.keys() & {f"nordmesh:{key}" for key in SECRET_KEYS}:
            config[key] = {"secure": "v1:abc:def"}
    return {"config": config, "encryptionsalt": "v1:abc"}


class Program:
    """The program at preview, with the configuration from the engine and a stack file."""

    def __init__(self, project: Path) -> None:
        self.file = project / f"Pulumi.{STACK}.yaml"
        self.project = project

    def problems(
        self, config: Values, *, secrets: tuple[str, ...] = (), text: str | None = None
    ) -> list[Problem]:
        """The problems at preview of a configuration with full keys."""
        engine_config = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in config.items()
        }
        set_all_config(engine_config, list(secrets))
        if text is not None:
            self.file.write_text(text)
        overlooked = load.overlooked(self.project)
        try:
            load.load(load.read(), project_dir=self.project, problems=overlooked)
        except ConfigError as error:
            return list(error.problems)
        return []


@pytest.fixture
def program(project: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.delenv("PULUMI_CONFIG", raising=False)
    monkeypatch.delenv("PULUMI_CONFIG_SECRET_KEYS", raising=False)
    monkeypatch.setattr(pulumi, "get_stack", lambda: STACK)
    before = CONFIG.get()
    yield Program(project)
    set_all_config(before, [])


@pytest.fixture
def config(existing_stack: Values) -> Values:
    """A valid configuration with full keys and decrypted secrets."""
    return {f"nordmesh:{key}": value for key, value in existing_stack.items()}


SECRETS = ("nordmesh:sshPrivateKey",)


def test_known_keys_of_other_namespaces_are_accepted(program: Program, config: Values) -> None:
    other_keys = {
        "nordmesh-policy:environment": "test",
        "nordmesh-policy:accept": {"docker.io": "public software"},
        "kubernetes:context": "x",
        "pulumi:tags": {"a": "b"},
    }
    text = yaml.safe_dump({"config": {}, "environment": ["base"], "secretsprovider": "x"})
    assert program.problems({**config, **other_keys}, secrets=SECRETS, text=text) == []


# --- secrets


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_an_unencrypted_secret_is_refused_at_preview(
    program: Program, config: Values, key: str
) -> None:
    inside = "receiver.shop.svc.cluster.local"
    mail = {"to": ["a@example.no"], "sender": "b@example.no", "host": inside, "username": "c"}
    config["nordmesh:observability"] = {
        "prometheus": {"enabled": True},
        "alertmanager": {
            "enabled": True,
            "webhook": {"host": inside},
            "heartbeat": {"host": inside},
            "email": mail,
        },
    }
    config["nordmesh:backup"] = {
        "keys": [AGE_KEY],
        "s3": {
            "host": "s3.example.no",
            "region": "no",
            "bucket": "snapshots",
            "accessKeyId": "writer",
        },
    }
    config["nordmesh:backupSecretKey"] = "hunter2"
    config["nordmesh:alertWebhookUrl"] = f"https://{inside}/hunter2"
    config["nordmesh:alertHeartbeatUrl"] = f"https://{inside}/hunter2"
    config["nordmesh:alertSmtpPassword"] = "hunter2"
    config["nordmesh:sshPrivateKeyPassword"] = "hunter2"
    config["nordmesh:sshPrivateKey"] = LOCKED_KEY
    other_secrets = [f"nordmesh:{other}" for other in SECRET_KEYS if other != key]
    (problem,) = program.problems(config, secrets=tuple(other_secrets))
    assert problem.key == f"nordmesh:{key}"
    assert f"pulumi config set --secret nordmesh:{key}" in problem.fix
    assert "even if you delete it" in problem.fix
    assert "hunter2" not in str(problem)
    assert "BEGIN" not in str(problem)


def test_an_unencrypted_key_is_refused_by_commands(project: Path, existing_stack: Values) -> None:
    (project / f"Pulumi.{STACK}.yaml").write_text(
        yaml.safe_dump(file_of(existing_stack, clear=True))
    )
    (problem,) = read_stack(project, STACK).problems
    assert problem.key == "nordmesh:sshPrivateKey"
    with pytest.raises(ConfigError, match="ssh-key-unencrypted"):
        read_stack(project, STACK).usable()


def test_an_unencrypted_key_is_refused_in_an_example(project: Path, existing_stack: Values) -> None:
    """An example may lack the key, but an unencrypted key is an error."""
    file = file_of(existing_stack, clear=True)
    file["config"]["nordmesh-ci:example"] = True
    (project / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump(file))
    (problem,) = read_stack(project, STACK).problems
    assert problem.key == "nordmesh:sshPrivateKey"


def test_an_unencrypted_key_is_refused_by_the_preflight(
    project: Path,
    config: Values,
    existing_stack: Values,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (project / f"Pulumi.{STACK}.yaml").write_text(
        yaml.safe_dump(file_of(existing_stack, clear=True))
    )
    engine_config = {key: {"value": value, "secret": False} for key, value in config.items()}
    monkeypatch.setattr(logins, "output", lambda *_, **__: json.dumps(engine_config))
    assert nordmesh(project, "preflight", "--stack", STACK) == 1
    assert "--secret nordmesh:sshPrivateKey" in capsys.readouterr().err


def new_key(directory: Path, *arguments: str) -> str:
    path = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-N", "", "-f", str(path), *arguments], check=True)
    return path.read_text()


LOCKED_KEY = (
    "-----BEGIN OPENSSH PRIVATE KEY-----\n"
    "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDoR4ZT\n"
    "-----END OPENSSH PRIVATE KEY-----\n"
)


@pytest.mark.parametrize(
    "arguments", [("-t", "ed25519"), ("-t", "rsa"), ("-t", "rsa", "-m", "PEM")]
)
def test_keys_of_ssh_keygen_are_accepted(
    load: Load, existing_stack: Values, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    key = new_key(tmp_path, *arguments)
    assert load(edited(existing_stack, {"sshPrivateKey": key}))
    assert load(edited(existing_stack, {"sshPrivateKey": key.replace("\n", "\r\n")}))


def _one_line(key: str) -> str:
    return " ".join(key.split("\n"))


def _literal(key: str) -> str:
    return key.replace("\n", "\\n")


def _without_end(key: str) -> str:
    return "\n".join(key.split("\n")[:4])


def _without_middle(key: str) -> str:
    lines = key.strip().split("\n")
    return "\n".join([*lines[:-3], lines[-1]])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_one_line, "line breaks are missing"),
        (lambda key: key.replace("\n", ""), "line breaks are missing"),
        (_literal, "the two characters"),
        (_without_end, "END line is missing"),
        (_without_middle, "lines are missing"),
    ],
)
def test_a_damaged_key_is_refused_with_the_reason(
    load: Load,
    existing_stack: Values,
    tmp_path: Path,
    damage: Callable[[str], str],
    reason: str,
) -> None:
    key = new_key(tmp_path, "-t", "ed25519")
    error = refusal(load, edited(existing_stack, {"sshPrivateKey": damage(key)}))
    (problem,) = error.problems
    assert problem.key == "nordmesh:sshPrivateKey"
    assert reason in problem.what
    words = re.findall(r"[A-Za-z0-9+/]{12,}", key)
    assert [word for word in words if word in str(error)] == []


def test_a_dsa_key_is_refused(load: Load, existing_stack: Values) -> None:
    key = "-----BEGIN DSA PRIVATE KEY-----\nMIIBuwIBAAKBgQD\n-----END DSA PRIVATE KEY-----\n"
    (problem,) = refusal(load, edited(existing_stack, {"sshPrivateKey": key})).problems
    assert "DSA" in problem.what


# --- unknown keys


@pytest.mark.parametrize(
    ("key", "value", "expected", "words"),
    [
        (
            "nordmsh:mesh",
            {"services": {"checkout": {"canary": {"weight": 0}}}},
            "nordmsh:mesh.services.checkout.canary.weight",
            ("nordmesh:mesh", "pulumi config rm nordmsh:mesh"),
        ),
        ("nordmsh:host", {"timeSync": True}, "nordmsh:host.timeSync", ("nordmesh:host",)),
        ("Nordmesh:demo", {}, "Nordmesh:demo", ("nordmesh:demo",)),
        ("nordmesh-polcy:accept", {}, "nordmesh-polcy:accept", ("nordmesh-policy:accept",)),
        ("nordmesh:polcy", {}, "nordmesh:polcy", ()),
        ("nordmesh-policy:enviroment", "test", "nordmesh-policy:enviroment", ("environment",)),
        ("aws:region", "eu-north-1", "aws:region", ("pulumi config rm aws:region",)),
    ],
)
def test_an_unknown_key_is_refused(
    program: Program, config: Values, key: str, value: object, expected: str, words: tuple[str, ...]
) -> None:
    (problem,) = program.problems({**config, key: value}, secrets=SECRETS)
    assert problem.key == expected
    assert [word for word in words if word not in problem.fix] == []


def test_a_misspelt_prefix_is_reported_once(program: Program, config: Values) -> None:
    """The section is not also reported as missing."""
    config["nordmsh:kubernetes"] = config.pop("nordmesh:kubernetes")
    (problem,) = program.problems(config, secrets=SECRETS)
    assert problem.key.startswith("nordmsh:kubernetes")


def test_the_value_of_a_misspelt_prefix_is_hidden(program: Program, config: Values) -> None:
    config["nordmsh:sshPrivateKey"] = config.pop("nordmesh:sshPrivateKey")
    (problem,) = program.problems(config)
    assert "BEGIN" not in str(problem)


# --- parts of a file that Pulumi ignores


def _outdented(config: Values) -> str:
    indented = {key: value for key, value in config.items() if key != "nordmesh:kubernetes"}
    return yaml.safe_dump(
        {"config": indented, "nordmesh:kubernetes": config["nordmesh:kubernetes"]}
    )


def _two_documents(config: Values) -> str:
    return f"{yaml.safe_dump({'config': config})}---\nconfig:\n  nordmesh:demo: {{}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("config: {}\nnordmesh:host:\n  timeSync: false\n", ["nordmesh:host"]),
        ("config: {}\n'nordmesh:host': {timeSync: false}\n", ["nordmesh:host"]),
        ("config: {}\nhost:\n  timeSync: false\n", ["nordmesh:host"]),
        ("config: {}\nconfg: {}\n", ["confg"]),
        ("config: {}\nnordmesh-policy:accept: {}\n", ['["nordmesh-policy:accept"]']),
        ("config: {}\n---\nconfig: {}\n", ["Pulumi.prod.yaml"]),
        ("config: {}\n...\nconfig: {}\n", ["Pulumi.prod.yaml"]),
        ("---\n# a comment\nconfig: {}\n...\n", []),
        ("# --- a comment\nconfig:\n  nordmesh:host: {}\nencryptionsalt: v1:a:b\n", []),
        ("config:\n  nordmesh:x: |\n    ---\n    host: x\n", []),
        ("{config: {}}", []),
        ("", []),
    ],
)
def test_content_that_pulumi_ignores_is_refused(
    program: Program, config: Values, text: str, expected: list[str]
) -> None:
    problems = program.problems(config, secrets=SECRETS, text=text)
    assert [problem.key for problem in problems] == expected


@pytest.mark.parametrize("write", [_outdented, _two_documents])
def test_commands_refuse_ignored_content(
    project: Path, existing_stack: Values, write: Callable[[Values], str]
) -> None:
    (project / f"Pulumi.{STACK}.yaml").write_text(write(file_of(existing_stack)["config"]))
    (problem,) = read_stack(project, STACK).problems
    assert "Pulumi" in problem.why


def test_a_missing_or_unreadable_stack_file_is_no_error(program: Program, config: Values) -> None:
    assert program.problems(config, secrets=SECRETS) == []
    program.file.mkdir()
    assert program.problems(config, secrets=SECRETS) == []
    program.file.rmdir()
    program.file.write_bytes(b"\xff\xfe")
    assert program.problems(config, secrets=SECRETS) == []


def test_a_section_without_a_prefix_belongs_to_the_program(
    project: Path, existing_stack: Values
) -> None:
    """Pulumi adds the project's name as the prefix."""
    config = {**file_of(existing_stack)["config"], "host": {"timeSync": False}}
    (project / f"Pulumi.{STACK}.yaml").write_text(yaml.safe_dump({"config": config}))
    assert stack_file.read(project, STACK).values["host"] == {"timeSync": False}
    explained = read_stack(project, STACK)
    assert explained.config is not None
    assert not explained.config.host.time_sync
    assert explained.problems == ()


@pytest.mark.parametrize("stack", ["prod", "staging", "local"])
def test_shipped_files_have_no_problems(stack: str) -> None:
    assert stack_file.read(PROJECT, stack).problems == ()


# --- passwords in URLs


@pytest.mark.parametrize(
    "edit",
    [
        {"istio.hub": "robot:hunter2@registry.example/istio"},
        {"istio.hub": "https://robot:hunter2@registry.example/istio"},
        {"artifacts": {"mirror": "https://robot:hunter2@mirror.example"}},
        {"mesh": {"egress": {"hosts": {"x": {"host": "https://robot:hunter2@api.example/v1"}}}}},
        {"mesh": {"egress": {"hosts": {"x": {"host": "robot:hunter2@api.example"}}}}},
        {"host": {"timeServers": ["ntp://robot:hunter2@ntp.example"]}},
        {"kubernetes.endpoint": "https://robot:hunter2@api.example"},
        {"istio.tracing": {"collector": "http://robot:hunter2@zipkin.example:9411"}},
    ],
    ids=str,
)
def test_a_password_in_a_url_is_hidden(
    load: Load, existing_stack: Values, edit: dict[str, object]
) -> None:
    assert "hunter2" not in str(refusal(load, edited(existing_stack, edit)))
