"""`nordmesh backup check --compare`: the objects of a snapshot and those of the cluster."""

from collections.abc import Mapping

import pytest

from cli.backup import comparison
from cli.backup.comparison import compare
from cli.backup.scratch_etcd import OBJECTS, Revisions, keys_below
from components.remote.nodes_ssh import Answer, Login
from config.errors import NordmeshError
from tests.unit.machine import Machine

REVISION = 100
STORED = {
    "/registry/pods/shop/a": Revisions(10, 20),
    "/registry/pods/shop/b": Revisions(11, 30),
    "/registry/pods/shop/c": Revisions(12, 40),
}
LOGIN = Login(host="192.0.2.11", user="root", port=22, host_key="k", private_key="p")


def test_what_happened_since_is_no_difference() -> None:
    live = {
        "/registry/pods/shop/a": Revisions(10, 20),
        "/registry/pods/shop/b": Revisions(11, 130),
        "/registry/pods/shop/d": Revisions(120, 120),
    }
    found = compare(STORED, live, revision=REVISION)
    assert (found.same, found.changed, found.new, found.deleted) == (1, 1, 1, 1)
    assert not found.differences
    comparison.refuse("20261130T012058Z-cp-1", found)


@pytest.mark.parametrize(
    ("live", "text"),
    [
        ({"/registry/pods/shop/x": Revisions(50, 60)}, "shop/x: created at revision 50"),
        ({"/registry/pods/shop/x": Revisions(50, 160)}, "shop/x: created at revision 50"),
        ({"/registry/pods/shop/x": Revisions(REVISION, 160)}, "created at revision 100"),
        (
            {"/registry/pods/shop/a": Revisions(10, 50)},
            "changed at revision 50, in the snapshot 20",
        ),
    ],
)
def test_what_the_snapshot_should_have_and_does_not_is_a_difference(
    live: Mapping[str, Revisions], text: str
) -> None:
    found = compare(STORED, {**STORED, **live}, revision=REVISION)
    (difference,) = found.differences
    assert text in difference
    with pytest.raises(NordmeshError) as caught:
        comparison.refuse("20261130T012058Z-cp-1", found)
    assert caught.value.code == "backup-differs"
    assert difference in str(caught.value)


def test_an_object_that_was_created_again_is_new() -> None:
    live = {**STORED, "/registry/pods/shop/a": Revisions(150, 150)}
    found = compare(STORED, live, revision=REVISION)
    assert (found.same, found.new, found.deleted, found.differences) == (2, 1, 1, ())


def test_the_next_control_plane_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(tasks: Mapping[str, tuple[Login, str]], *, seconds: int) -> dict[str, Answer]:
        del seconds
        (name,) = tasks
        if name == "cp-1":
            return {name: Answer(text="", problem="timed out")}
        kv = '{"key":"L3JlZ2lzdHJ5L2E=","create_revision":"3","mod_revision":"4","version":"2"}'
        return {name: Answer(text=f'{{"header":{{}},"kvs":[{kv}]}}')}

    monkeypatch.setattr("components.remote.nodes_ssh.run", run)
    logins = {"cp-1": LOGIN, "cp-2": LOGIN}
    assert comparison.live(logins) == {"/registry/a": Revisions(3, 4)}
    with pytest.raises(NordmeshError) as caught:
        comparison.live({"cp-1": LOGIN})
    assert caught.value.code == "backup-not-compared"
    assert "cp-1: timed out" in caught.value.what


def test_only_keys_leave_the_control_plane(machine: Machine) -> None:
    machine.fake("curl", "printf '{\"kvs\":[]}'")
    key, end = keys_below(OBJECTS)
    settings = {"KEY": key, "RANGE_END": end}
    result = machine.run("etcd-keys.sh", settings, node="cp-1")
    assert (result.status, result.stdout) == (0, '{"kvs":[]}')
    (call,) = machine.calls("curl")
    assert f'{{"key":"{key}","range_end":"{end}","keys_only":true}}' in call
    machine.fake("curl", "exit 22")
    result = machine.run("etcd-keys.sh", settings, node="cp-1")
    assert result.status == 1
    assert "[etcd-keys-unread]" in result.stderr
