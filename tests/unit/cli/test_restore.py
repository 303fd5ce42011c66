"""`nordmesh restore`: what it refuses, and what it says before it changes anything."""

import datetime

import pytest

from cli.backup import snapshots
from cli.restore import command
from cli.restore.machines import Machine, choose
from components.remote.nodes_ssh import Login
from config.errors import NordmeshError

SNAPSHOT = "20261130T012058Z-cp-1"
LOGIN = Login(host="192.0.2.11", user="root", port=22, host_key="k", private_key="p")


def machine(name: str, **values: object) -> Machine:
    empty: dict[str, object] = {"owner": "", "etcd": "none", "restoring": "", "missing": ""}
    empty |= {"cluster": False, "placed": False}
    return Machine(name=name, login=LOGIN, **{**empty, **values})  # type: ignore[arg-type]


def looks(*machines: Machine, **silent: str) -> dict[str, Machine | str]:
    return {one.name: one for one in machines} | {
        name.replace("_", "-"): why for name, why in silent.items()
    }


def refused(looks: dict[str, Machine | str], **options: object) -> NordmeshError:
    defaults = {"lost": (), "discard": False}
    with pytest.raises(NordmeshError) as caught:
        choose(looks, SNAPSHOT, **{**defaults, **options})  # type: ignore[arg-type]
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def test_the_first_control_plane_gets_the_data_and_the_others_join() -> None:
    planes = choose(looks(*map(machine, ("cp-1", "cp-2"))), SNAPSHOT, lost=(), discard=False)
    assert planes.target.name == "cp-1"
    assert [one.name for one in planes.others] == ["cp-2"]
    assert not planes.cleared
    assert not planes.kept


@pytest.mark.parametrize("etcd", ["running", "stopped"])
def test_etcd_data_anywhere_is_kept_unless_the_user_says_otherwise(etcd: str) -> None:
    full = looks(machine("cp-1"), machine("cp-2", etcd=etcd, cluster=True))
    error = refused(full)
    assert error.code == "restore-etcd-exists"
    assert "cp-2" in error.what
    planes = choose(full, SNAPSHOT, lost=(), discard=True)
    assert [one.name for one in planes.cleared] == ["cp-2"]


def test_a_cluster_without_etcd_data_is_cleared() -> None:
    """Its disk of etcd is gone."""
    planes = choose(looks(machine("cp-1", cluster=True)), SNAPSHOT, lost=(), discard=False)
    assert [one.name for one in planes.cleared] == ["cp-1"]


def test_an_unfinished_restore_of_the_same_snapshot_continues() -> None:
    begun = {"restoring": SNAPSHOT, "cluster": True}
    planes = choose(
        looks(
            machine("cp-1", etcd="running", placed=True, **begun),
            machine("cp-2", etcd="running", **begun),
            machine("cp-3", restoring=SNAPSHOT),
        ),
        SNAPSHOT,
        lost=(),
        discard=False,
    )
    assert planes.kept == {"cp-1", "cp-2", "cp-3"}
    assert not planes.cleared


def test_an_unfinished_restore_of_another_snapshot_is_data() -> None:
    other = machine("cp-1", restoring="20250101T000000Z-cp-1", etcd="running", placed=True)
    assert refused(looks(other)).code == "restore-etcd-exists"


def test_a_mark_that_was_left_behind_does_not_give_data_away() -> None:
    """The first control plane was lost again later, and another one still has an old mark."""
    old = machine("cp-2", restoring=SNAPSHOT, etcd="stopped", cluster=True)
    assert refused(looks(machine("cp-1"), old)).code == "restore-etcd-exists"


def test_a_silent_machine_is_refused_unless_it_is_lost() -> None:
    silent = looks(machine("cp-1"), cp_2="timed out")
    error = refused(silent)
    assert (error.code, "cp-2: timed out" in error.what) == ("restore-machine-refused", True)
    planes = choose(silent, SNAPSHOT, lost=("cp-2",), discard=False)
    assert [one.name for one in planes.all] == ["cp-1"]


def test_a_directory_for_snapshots_that_is_not_mounted_is_refused_first() -> None:
    """The script that starts the timer runs last, and refuses it."""
    bare = looks(machine("cp-1", etcd="running"), machine("cp-2", missing="/srv/backup"))
    error = refused(bare, discard=True)
    assert error.code == "restore-directory-missing"
    assert error.path == "nordmesh:backup.directory"
    assert "/srv/backup on cp-2" in error.what


def test_the_first_control_plane_that_answers_gets_the_data() -> None:
    planes = choose(
        {"cp-1": "timed out", "cp-2": machine("cp-2")}, SNAPSHOT, lost=("cp-1",), discard=False
    )
    assert planes.target.name == "cp-2"


@pytest.mark.parametrize(
    ("found", "options", "code"),
    [
        (looks(machine("cp-1", owner="cp-9 of another")), {}, "restore-machine-refused"),
        (looks(machine("cp-1")), {"lost": ("cp-1",)}, "restore-machine-refused"),
        (looks(cp_1="timed out"), {"lost": ("cp-1",)}, "restore-no-machine"),
    ],
)
def test_wrong_machines_are_refused(
    found: dict[str, Machine | str], options: dict[str, object], code: str
) -> None:
    assert refused(found, **options).code == code


def test_a_lost_control_plane_that_the_file_does_not_have_is_refused() -> None:
    with pytest.raises(NordmeshError) as caught:
        choose(looks(machine("cp-1")), SNAPSHOT, lost=("cp-7",), discard=True)
    assert caught.value.code == "restore-lost-unknown"
    assert "cp-7" in caught.value.what


def test_it_says_what_is_lost_and_since_when() -> None:
    manifest = snapshots.Manifest(
        cluster="prod",
        node="cp-1",
        time=datetime.datetime(2026, 11, 30, 1, 20, 58, tzinfo=datetime.UTC),
        revision=42,
        etcd="3.5.6",
        ca="",
        size=1,
        sha256="",
    )
    found = looks(machine("cp-1"), machine("cp-2", etcd="stopped"), cp_3="timed out")
    planes = choose(found, SNAPSHOT, lost=("cp-3",), discard=True)
    names = ["20261130T012058Z-cp-1", "20261130T013558Z-cp-2"]
    lines = command._losses(SNAPSHOT, manifest, None, names, found, planes)
    text = "\n".join(lines)
    print(text)
    for part in (
        "prod goes back to 2026-11-30 01:20:58 UTC, revision 42",
        "no volume is in a snapshot",
        "etcd's data on cp-2",
        "Not restored: 1 newer snapshot, up to 20261130T013558Z-cp-2",
        "cp-1 gets the data",
        "cp-2 joins it",
        "cp-3 is left out: timed out",
    ):
        assert part in text


@pytest.mark.parametrize(("answer", "goes_on"), [("prod", True), ("yes", False), (None, False)])
def test_only_the_name_of_the_cluster_confirms(
    answer: str | None, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(_: str) -> str:
        if answer is None:
            raise EOFError
        return answer

    monkeypatch.setattr("builtins.input", ask)
    if goes_on:
        command._confirm("prod")
        return
    with pytest.raises(NordmeshError) as caught:
        command._confirm("prod")
    assert caught.value.code == "restore-not-confirmed"


def test_an_old_snapshot_needs_a_longer_limit() -> None:
    with pytest.raises(NordmeshError) as caught:
        command._refuse_older("20200101T000000Z-cp-1", command._limit("24h"))
    assert caught.value.code == "restore-too-old"
    command._refuse_older("20200101T000000Z-cp-1", command._limit("999999h"))
