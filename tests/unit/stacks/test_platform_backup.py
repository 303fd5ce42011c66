"""The resources of backups: on control planes only, with the login's secret on stdin only."""

from components.remote.node_command import settings_of
from tests.support.mocked import changed, config, run

KEY = "age1tlfdsyt7vk7ru5fdq4fqnphq434xr8pz3wpmkuhra0jjrjzg5qnqmv6wa4"
S3 = {"host": "s3.example.no", "region": "no", "bucket": "snaps", "accessKeyId": "writer"}
SECRET = "the-secret-key"  # noqa: S105
COMMAND = "command:remote:Command"


def test_each_control_plane_gets_the_timer_and_the_secret_on_stdin() -> None:
    recorded, _ = run(config(backup={"keys": [KEY], "s3": S3}), backup_secret_key=SECRET)
    names = [name for kind, name in recorded.resources if kind == COMMAND]
    assert [name for name in names if name.endswith("-backup")] == ["cp-1-backup"]
    inputs = dict(recorded.resources[COMMAND, "cp-1-backup"].inputs)
    assert SECRET in str(inputs.pop("stdin"))
    assert "stdin" in recorded.secrets("remote:Command", "cp-1-backup")
    assert SECRET not in str(inputs)
    values = settings_of(inputs)
    assert "access_key_id = writer" in values["RCLONE"]
    assert KEY in values["FILES"]


def test_a_stack_without_the_section_stores_nothing() -> None:
    recorded, _ = run(config())
    assert not [name for _, name in recorded.resources if name.endswith("-backup")]


def test_prometheus_gets_the_alerts_about_snapshots() -> None:
    observability = {"prometheus": {"enabled": True}}
    before, _ = run(config(observability=observability))
    after, _ = run(
        config(observability=observability, backup={"keys": [KEY], "s3": S3, "every": "30m"}),
        backup_secret_key=SECRET,
    )
    names = ("monitoring/prometheus-config", "monitoring/prometheus-rules")
    assert set(names) <= set(changed(before, after))
    (kind,) = (kind for kind, name in after.resources if name == names[1])
    assert "offset 7200s" in str(after.resources[kind, names[1]].inputs)
