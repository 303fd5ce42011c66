"""Invalid settings of backups: each edit gives one error."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from config import warnings
from config.load import read_stack
from tests.unit.config.test_errors import GONE, Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

KEY = "age1tlfdsyt7vk7ru5fdq4fqnphq434xr8pz3wpmkuhra0jjrjzg5qnqmv6wa4"
OTHER_KEY = "age1jrst84g7qyqpucrj7fz3ye46pc4hwweal7xemqnr4j4xg8ysccys06ahps"
S3 = {
    "host": "s3.example.no",
    "region": "no-oslo-1",
    "bucket": "prod-snapshots",
    "accessKeyId": "prod-writer",
}
SECRET = "t0p-s3cr3t"  # noqa: S105

ALL = [
    Wrong(
        "no place",
        {"backup.s3": GONE, "backupSecretKey": GONE},
        "backup",
        "backup-place",
        ("neither s3 nor directory is set", "no snapshot is stored"),
    ),
    Wrong(
        "two places",
        {"backup.directory": "/srv/backup"},
        "backup",
        "backup-place",
        ("both s3 and directory are set",),
    ),
    Wrong(
        "a bucket without a login",
        {"backupSecretKey": GONE},
        "backupSecretKey",
        "backup-secret-missing",
        ("pulumi config set --secret nordmesh:backupSecretKey",),
    ),
    Wrong(
        "a login without a bucket",
        {"backup.s3": GONE, "backup.directory": "/srv/backup"},
        "backupSecretKey",
        "backup-secret-unneeded",
        ("backup.s3 is not", "pulumi config rm nordmesh:backupSecretKey"),
    ),
    Wrong(
        "a login of two lines",
        {"backupSecretKey": f"{SECRET}\nacl = public-read"},
        "backupSecretKey",
        "backup-secret-format",
        ("not one word",),
    ),
    Wrong(
        "no keys",
        {"backup.keys": []},
        "backup.keys",
        "backup-keys-empty",
        ("always encrypted", "age-keygen"),
    ),
    Wrong(
        "the private half of a key",
        {"backup.keys": [KEY, "AGE-SECRET-KEY-1QQQQ"]},
        "backup.keys[1]",
        "age-key-private",
        ("no longer secret", "make another one"),
    ),
    Wrong(
        "an SSH key",
        {"backup.keys": ["ssh-ed25519 AAAA"]},
        "backup.keys[0]",
        "age-key-format",
        ("not a public key of age", "age-keygen"),
    ),
    Wrong(
        "a key with a typing error",
        {"backup.keys": [KEY.replace("tlfd", "tlfq")]},
        "backup.keys[0]",
        "age-key-checksum",
        ("typing error",),
    ),
    Wrong(
        "snapshots every minute",
        {"backup.every": "1m"},
        "backup.every",
        "backup-interval-range",
        ("5m to 24h",),
    ),
    Wrong(
        "a bucket that S3 does not allow",
        {"backup.s3.bucket": "Prod_Snapshots"},
        "backup.s3.bucket",
        "backup-bucket-format",
        ("lower-case",),
    ),
    Wrong(
        "a region of two lines",
        {"backup.s3.region": "no\nendpoint = https://evil.example"},
        "backup.s3.region",
        "backup-word-format",
        ("one word",),
    ),
    Wrong(
        "a path that leaves its directory",
        {"backup.s3": GONE, "backup.directory": "/srv/../etc", "backupSecretKey": GONE},
        "backup.directory",
        "backup-directory-format",
        ("use a path such as /srv/backup",),
    ),
]


@pytest.fixture
def stored(container_stack: Values) -> Values:
    """A stack with snapshots in a bucket."""
    backup: dict[str, Any] = {"keys": [KEY, OTHER_KEY], "s3": dict(S3)}
    return {**container_stack, "backup": backup, "backupSecretKey": SECRET}


@pytest.mark.parametrize("wrong", ALL, ids=[wrong.name for wrong in ALL])
def test_an_invalid_setting_is_refused(load: Load, stored: Values, wrong: Wrong) -> None:
    error = refusal(load, edited(stored, wrong.edit))
    expect(error, wrong)
    assert SECRET not in str(error)


@pytest.mark.parametrize("position", range(4, 62))
def test_a_wrong_letter_in_a_key_is_found(load: Load, stored: Values, position: int) -> None:
    letter = "q" if KEY[position] != "q" else "p"
    wrong = f"{KEY[:position]}{letter}{KEY[position + 1 :]}"
    error = refusal(load, edited(stored, {"backup.keys": [wrong]}))
    assert [problem.code for problem in error.problems] == ["age-key-checksum"]


def test_the_unedited_stack_is_valid_and_has_no_warning(load: Load, stored: Values) -> None:
    config = load(stored)
    assert config.backup is not None
    assert config.backup.every == "15m"
    assert not [line for line in warnings.warnings(config) if line.startswith("backup")]


def test_what_one_mistake_would_lose_is_a_warning(load: Load, container_stack: Values) -> None:
    backup = {"keys": [KEY], "directory": "/srv/backup"}
    lines = [
        line
        for line in warnings.warnings(load({**container_stack, "backup": backup}))
        if line.startswith("backup")
    ]
    assert "no snapshot can be decrypted" in lines[0]
    assert "lost with the control plane" in lines[1]
    assert len(lines) == 2


def test_tools_read_a_stack_without_optional_sections(
    project: Path, container_stack: Values
) -> None:
    sections = {name: container_stack[name] for name in ("machines", "kubernetes", "artifacts")}
    config = {f"nordmesh:{name}": section for name, section in sections.items()}
    (project / "Pulumi.small.yaml").write_text(yaml.safe_dump({"config": config}))
    loaded = read_stack(project, "small").usable()
    assert loaded.istio is None
    assert loaded.backup is None
