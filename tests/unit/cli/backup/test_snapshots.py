"""Snapshots: what a control plane stores, and what the command line accepts of it."""

import base64
import datetime
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cli.backup import age, choice, command, proof, scratch_etcd, snapshots
from cli.backup.storage import Storage
from components.backup import FILE
from components.host import backup
from components.remote.node_command import Script
from components.remote.nodes_ssh import Login
from config import Backup
from config.errors import NordmeshError
from tests.support.altered import alterations
from tests.unit.commands import nordmesh
from tests.unit.machine import Machine, Result

CLUSTER, NODE = "prod", "cp-1"
PAGES = random.Random(5).randbytes(96 * 512)  # noqa: S311
DATABASE = PAGES + hashlib.sha256(PAGES).digest()
PKI = {name: f"the text of {name}\n" for name in ("ca.crt", "ca.key", "sa.key", "etcd/ca.key")}
PKI |= {"encryption.yaml": "providers:\n- secretbox:\n    keys:\n    - name: key1\n"}
PKI |= {"front-proxy-ca.key": "the text of another key\n", "etcd/ca.crt": "a certificate\n"}
SECRET_KEY = "a-writing-login"  # noqa: S105
STORED = "/stored/prod"
ETCD = """
case "${@: -1}" in
*/status) cat /etcd/status ;;
*/snapshot) cat /etcd/snapshot ;;
esac
"""
RCLONE = """
words=("$@")
[ ! -e /full ] || [[ ${words[-1]} != *.sig ]] || exit 5
mkdir -p "$(dirname "${words[-1]}")"
cp "${words[-2]}" "${words[-1]}"
"""


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """The private key of the team."""
    path = tmp_path / "identity"
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    return path


def public(identity: Path) -> str:
    command = ["age-keygen", "-y", str(identity)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def settings(identity: Path) -> Backup:
    return Backup.model_validate({"keys": [public(identity)], "directory": "/stored"})


def answer(machine: Machine, database: bytes = DATABASE, **status: object) -> None:
    """Let etcd answer with this database, in pieces as its JSON API sends them."""
    facts = {
        "header": {"cluster_id": "1", "member_id": "77", "revision": "42", "raft_term": "2"},
        "version": "3.5.6",
        "dbSize": str(len(database)),
        "leader": "77",
        **status,
    }
    pieces = [database[start : start + 10_000] for start in range(0, len(database), 10_000)]
    lines = [json.dumps({"result": {"blob": base64.b64encode(piece).decode()}}) for piece in pieces]
    machine.write("/etcd/status", json.dumps(facts, separators=(",", ":")))
    machine.write("/etcd/snapshot", "".join(f"{line}\n".replace(" ", "") for line in lines))


@pytest.fixture
def plane(machine: Machine, identity: Path) -> Machine:
    """A control plane whose etcd leads."""
    for file in backup.node_files(NODE, settings(identity), cluster=CLUSTER):
        machine.write(file.path, f"{file.text}\n", mode=int(file.mode, 8))
    for name, text in PKI.items():
        machine.write(f"/etc/kubernetes/pki/{name}", text, mode=0o600)
    key = machine.path("/etc/ssh/ssh_host_ed25519_key")
    key.parent.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    machine.fake("curl", ETCD)
    machine.fake("rclone", RCLONE)
    machine.fake("kubectl")
    answer(machine)
    return machine


def run(plane: Machine) -> Result:
    return plane.shell(f"SPARE_MIB=1 bash {backup.RUNNER}")


def stored(plane: Machine) -> list[str]:
    folder = plane.path(STORED)
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def host_key(plane: Machine) -> str:
    return " ".join(plane.read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2])


@pytest.fixture
def snapshot(plane: Machine, tmp_path: Path) -> tuple[Path, str, dict[str, list[str]]]:
    """The files of a stored snapshot in a folder, its name, and who may have written it."""
    result = run(plane)
    assert result.status == 0, result
    (name,) = snapshots.complete(stored(plane))
    folder = tmp_path / "fetched"
    shutil.copytree(plane.path(STORED), folder)
    return folder, name, {NODE: [host_key(plane)]}


def test_a_stored_snapshot_has_the_database_and_the_keys(
    snapshot: tuple[Path, str, dict[str, list[str]]],
    identity: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The PKI here is text, so no etcd can start with it: tests/engine/test_backup.py starts one.
    monkeypatch.setattr(scratch_etcd, "PROGRAMS", ("no-such-program",))
    folder, name, signers = snapshot
    manifest = snapshots.verify(folder, name, cluster=CLUSTER, signers=signers)
    assert (manifest.revision, manifest.node, manifest.etcd) == (42, NODE, "3.5.6")
    assert proof.prove(folder, name, manifest, identity) is None
    assert (folder / "etcd.db").read_bytes() == DATABASE
    assert {key: (folder / "pki" / key).read_text() for key in PKI} == PKI


def encrypted_database(key: str) -> bytes:
    pages = PAGES + f"k8s:enc:secretbox:v1:{key}:".encode().ljust(512, b"x")
    return pages + hashlib.sha256(pages).digest()


def test_a_snapshot_without_the_keys_of_its_secrets_is_refused(
    plane: Machine, identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratch_etcd, "PROGRAMS", ("no-such-program",))
    plane.path("/etc/kubernetes/pki/encryption.yaml").unlink()
    for database, accepted in ((DATABASE, True), (encrypted_database("key1"), False)):
        answer(plane, database)
        assert run(plane).status == 0
        (name,) = snapshots.complete(stored(plane))
        folder = tmp_path / str(accepted)
        shutil.move(plane.path(STORED), folder)
        signers = {NODE: [host_key(plane)]}
        manifest = snapshots.verify(folder, name, cluster=CLUSTER, signers=signers)
        if accepted:
            proof.prove(folder, name, manifest, identity)
            continue
        with pytest.raises(NordmeshError) as caught:
            proof.prove(folder, name, manifest, identity)
        assert caught.value.code == "backup-broken"
        assert "pki/encryption.yaml" in str(caught.value)


@pytest.mark.parametrize(("rotations", "status"), [(1, 0), (2, 0), (3, 1)])
def test_a_snapshot_has_the_keys_of_the_moment_that_it_was_taken(
    plane: Machine, identity: Path, rotations: int, status: int
) -> None:
    """A rotation may change the keys while etcd sends its snapshot."""
    keys = "/etc/kubernetes/pki/encryption.yaml"
    is_done = f'[ "$(wc -l </rotated)" -ge {rotations} ]'
    rotate = f'{is_done} || echo "    - name: key" | tee -a {keys} >>/rotated'
    plane.write("/rotated", "")
    plane.fake("curl", ETCD.replace("cat /etcd/snapshot", f"cat /etcd/snapshot; {rotate}"))
    result = run(plane)
    assert result.status == status, result
    if status:
        assert "[backup-keys-changed]" in result.stderr
        assert stored(plane) == []
        return
    (name,) = snapshots.complete(stored(plane))
    command = "age --decrypt --identity $1 $2 | zstd -dqc | tar -xO pki/encryption.yaml"
    archive = str(plane.path(f"{STORED}/{name}.age"))
    shell = ["bash", "-o", "pipefail", "-c", command, "-", str(identity), archive]
    text = subprocess.run(shell, check=True, capture_output=True, text=True).stdout
    assert text == plane.read(keys)


def test_the_node_notes_what_it_has_stored(plane: Machine) -> None:
    assert run(plane).status == 0
    (name,) = snapshots.complete(stored(plane))
    (call,) = plane.calls("kubectl")
    assert call.endswith(f"annotate --overwrite node {NODE} {age.ANNOTATION}={name}")


def test_a_snapshot_is_stored_while_the_api_server_is_down(plane: Machine) -> None:
    plane.fake("kubectl", "exit 1")
    result = run(plane)
    assert (result.status, len(stored(plane))) == (0, 3)
    assert "WARNING" in result.stderr


def test_nothing_readable_is_stored_and_nothing_stays_on_the_node(
    plane: Machine, snapshot: tuple[Path, str, dict[str, list[str]]]
) -> None:
    folder, _, _ = snapshot
    texts = [text.encode() for text in PKI.values()] + [DATABASE[:64]]
    for path in folder.iterdir():
        content = path.read_bytes()
        assert not any(text in content for text in texts), path.name
    assert not plane.exists("/var/lib/nordmesh/backup")
    calls = plane.calls("rclone")
    assert len(calls) == len(snapshots.PARTS)
    # The login that may only write is in this file.
    assert all("--config /etc/nordmesh/rclone.conf" in call for call in calls)
    assert all("copyto" in call and "--no-check-dest" in call for call in calls)


def refused(folder: Path, name: str, signers: dict[str, list[str]], cluster: str = CLUSTER) -> str:
    """The code with which a snapshot is refused; empty if it is accepted."""
    try:
        snapshots.verify(folder, name, cluster=cluster, signers=signers)
    except NordmeshError as error:
        return error.code
    return ""


def files_of(folder: Path, name: str) -> dict[str, bytes]:
    """The files of a snapshot in a folder, by suffix."""
    return {part: (folder / f"{name}.{part}").read_bytes() for part in snapshots.PARTS}


def test_a_thousand_altered_snapshots_are_refused(
    plane: Machine, identity: Path, snapshot: tuple[Path, str, dict[str, list[str]]]
) -> None:
    folder, name, signers = snapshot
    original = files_of(folder, name)
    # The same node wrote an older one, and one of another cluster with the same name.
    older, *_ = store(plane, 2020)
    others = [files_of(plane.path(STORED), older)]
    plane.fake("date", f"echo {name.removesuffix(f'-{NODE}')}")
    for file in backup.node_files(NODE, settings(identity), cluster="staging"):
        plane.write(file.path, f"{file.text}\n", mode=int(file.mode, 8))
    assert run(plane).status == 0
    others.append(files_of(plane.path("/stored/staging"), name))
    accepted: list[str] = []
    codes: dict[str, set[str]] = {}
    for way, files in alterations(original, others, 1000):
        for part, data in files.items():
            (folder / f"{name}.{part}").write_bytes(data)
        code = refused(folder, name, signers)
        codes.setdefault(way, set()).add(code)
        if not code:
            accepted.append(way)
    print(f"\n{1000 - len(accepted)} of 1000 altered snapshots refused: {codes}")
    assert accepted == []
    for part, data in original.items():
        (folder / f"{name}.{part}").write_bytes(data)
    assert not refused(folder, name, signers)


def test_a_forged_snapshot_is_refused(
    snapshot: tuple[Path, str, dict[str, list[str]]], tmp_path: Path
) -> None:
    """Anyone can encrypt to a public key, and sign with their own key."""
    folder, name, signers = snapshot
    key = tmp_path / "own"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (folder / f"{name}.sig").unlink()
    manifest = folder / f"{name}.manifest"
    command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", "nordmesh-backup"]
    subprocess.run([*command, str(manifest)], check=True, capture_output=True)
    manifest.with_suffix(".manifest.sig").rename(folder / f"{name}.sig")
    assert refused(folder, name, signers) == "backup-altered"
    assert not refused(folder, name, {NODE: [key.with_suffix(".pub").read_text().strip()]})


def test_an_old_snapshot_does_not_pass_for_a_new_one(
    snapshot: tuple[Path, str, dict[str, list[str]]],
) -> None:
    folder, name, signers = snapshot
    later = f"20991231T235959Z-{NODE}"
    for part in snapshots.PARTS:
        (folder / f"{name}.{part}").rename(folder / f"{later}.{part}")
    assert refused(folder, later, signers) == "backup-altered"


def test_snapshots_of_others_are_refused(
    snapshot: tuple[Path, str, dict[str, list[str]]],
) -> None:
    folder, name, signers = snapshot
    assert refused(folder, name, signers, "staging") == "backup-of-another-cluster"
    assert refused(folder, name, {"cp-2": signers[NODE]}) == "backup-signer-unknown"


def test_another_key_cannot_decrypt(
    snapshot: tuple[Path, str, dict[str, list[str]]], tmp_path: Path
) -> None:
    folder, name, signers = snapshot
    other = tmp_path / "other"
    subprocess.run(["age-keygen", "-o", other], check=True, capture_output=True)
    manifest = snapshots.verify(folder, name, cluster=CLUSTER, signers=signers)
    with pytest.raises(NordmeshError) as caught:
        proof.prove(folder, name, manifest, other)
    assert caught.value.code == "backup-not-decrypted"


@pytest.mark.parametrize(
    ("status", "database", "code"),
    [
        ({"leader": "0"}, DATABASE, "backup-without-leader"),
        ({"errors": ["etcdserver: CORRUPT"]}, DATABASE, "backup-etcd-corrupt"),
        ({"dbSize": str(10**16)}, DATABASE, "backup-disk-full"),
        ({}, DATABASE[:-512], "backup-snapshot-incomplete"),
        ({}, DATABASE[:-1], "backup-snapshot-incomplete"),
        ({}, b"x" + DATABASE[1:], "backup-snapshot-incomplete"),
        ({}, b"", "backup-snapshot-incomplete"),
    ],
)
def test_a_bad_snapshot_is_not_stored(
    plane: Machine, status: dict[str, object], database: bytes, code: str
) -> None:
    answer(plane, database, **{"dbSize": str(len(DATABASE)), **status})
    result = run(plane)
    assert result.status == 1
    assert f"[{code}]" in result.stderr
    assert "why" in result.stderr
    assert stored(plane) == []


def test_an_archive_that_is_cut_short_is_not_stored(plane: Machine) -> None:
    plane.fake("tar", '/usr/bin/tar "$@" | head -c 4096; exit 2')
    assert run(plane).status != 0
    assert stored(plane) == []


def test_other_users_cannot_read_the_snapshot_before_it_is_encrypted(plane: Machine) -> None:
    plane.fake("zstd", 'stat -c %a /var/lib/nordmesh/backup >/mode; exec /usr/bin/zstd "$@"')
    assert run(plane).status == 0
    assert plane.read("/mode") == "700\n"


def test_an_etcd_that_does_not_answer_is_an_error(plane: Machine) -> None:
    plane.fake("curl", "echo 'connection refused' >&2; exit 7")
    result = run(plane)
    assert result.status == 1
    assert "[backup-etcd-silent]" in result.stderr


def test_only_the_leader_stores_a_snapshot(plane: Machine) -> None:
    answer(plane, leader="78")
    result = run(plane)
    assert (result.status, stored(plane)) == (0, [])
    assert "another node leads" in result.stdout


def test_an_interrupted_upload_leaves_no_snapshot(plane: Machine) -> None:
    plane.write("/full", "")
    result = run(plane)
    assert result.status == 1
    assert "[backup-not-stored]" in result.stderr
    assert len(stored(plane)) == 2
    assert snapshots.complete(stored(plane)) == []


def test_a_missing_host_key_is_an_error(plane: Machine) -> None:
    plane.path("/etc/ssh/ssh_host_ed25519_key").unlink()
    result = run(plane)
    assert result.status == 1
    assert "[backup-not-signed]" in result.stderr
    assert stored(plane) == []


def test_only_files_of_old_snapshots_are_deleted() -> None:
    def files(year: int, *parts: str) -> list[str]:
        return [f"{year}0101T000000Z-cp-1.{part}" for part in parts or snapshots.PARTS]

    limit = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    old, incomplete = files(2020), files(2021, "age")
    stored = [*old, *incomplete, *files(2026), "notes.txt", "20200101T000000Z-cp-1.txt"]
    assert snapshots.older(stored, limit) == [*old, *incomplete]
    # The newest complete one stays, whatever its age.
    assert snapshots.older([*old, *incomplete], limit) == incomplete
    assert snapshots.older(files(2026), limit) == []


def test_a_directory_without_snapshots_is_empty(tmp_path: Path, identity: Path) -> None:
    if shutil.which("rclone") is None:
        pytest.fail("rclone is missing: install Debian's rclone", pytrace=False)
    assert Storage.of(settings(identity), CLUSTER, tmp_path).files() == []


# --- the commands ---------------------------------------------------------------------------------

STACK = ("--stack", "dev")


@pytest.fixture
def team(
    plane: Machine,
    identity: Path,
    tmp_path: Path,
    container_stack: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., tuple[int, str]]:
    """Run `nordmesh backup` beside the directory of the snapshots: its status, what it prints."""
    project, backup = tmp_path / "project", {"keys": [public(identity)], "directory": "/stored"}
    project.mkdir()
    container_stack["kubernetes"]["clusterName"] = CLUSTER
    sections = {**container_stack, "backup": backup}
    config = {f"nordmesh:{key}": value for key, value in sections.items()}
    (project / "Pulumi.dev.yaml").write_text(yaml.safe_dump({"config": config}))
    login = Login(host="10.66.0.11", user="root", port=22, host_key=host_key(plane), private_key="")
    for module in (choice, command):
        monkeypatch.setattr(module, "logins", lambda _stack, _script: {NODE: login})
    monkeypatch.setattr(scratch_etcd, "PROGRAMS", ("no-such-program",))

    def run_command(name: str, *arguments: str) -> tuple[int, str]:
        place = ("--directory", str(plane.path("/stored")))
        status = nordmesh(project, "backup", name, *arguments, *STACK, *place)
        output, error = capsys.readouterr()
        return status, " ".join((output + error).split())

    return run_command


def store(plane: Machine, *years: int) -> list[str]:
    """Store snapshots, now or in January of some years; returns the names of all."""
    for year in years:
        plane.fake("date", f"echo {year}0101T000000Z")
        assert run(plane).status == 0
        plane.path("/usr/local/bin/date").unlink()
    if not years:
        assert run(plane).status == 0
    return snapshots.complete(stored(plane))


def test_a_check_proves_the_newest_snapshot(
    plane: Machine, identity: Path, team: Callable[..., tuple[int, str]]
) -> None:
    name = store(plane, 2020) and store(plane)[-1]
    status, text = team("check", "--identity", str(identity))
    assert status == 0, text
    assert f"{name}: signed by {NODE}, revision 42, unaltered" in text
    assert "decrypted: the database is whole" in text
    assert "no etcd was started from it" in text
    archive = plane.path(f"{STORED}/{name}.age")
    archive.write_bytes(archive.read_bytes()[:-1])
    status, text = team("check")
    assert status == 1
    assert "[backup-altered]" in text


def test_an_old_snapshot_is_refused_unless_it_is_asked_for(
    plane: Machine, identity: Path, team: Callable[..., tuple[int, str]]
) -> None:
    assert team("check")[1].count("[backup-none]") == 1
    (name,) = store(plane, 2020)
    status, text = team("check")
    assert status == 1
    assert "[backup-too-old]" in text
    # A comparison that fails, here without etcd, does not hide it.
    assert "[backup-too-old]" in team("check", "--identity", str(identity), "--compare")[1]
    assert team("check", name)[0] == 0
    assert team("check", "--max-age", "999999h")[0] == 0
    assert team("check", "--max-age", "1h")[0] == 1
    assert team("check", "--max-age", "often")[0] == 2
    status, text = team("check", f"20210101T000000Z-{NODE}")
    assert status == 1
    assert "[backup-not-found]" in text


def test_the_list_shows_whose_signature_is_good(
    plane: Machine, team: Callable[..., tuple[int, str]]
) -> None:
    assert team("list")[0] == 1
    names = store(plane, 2019, 2020, 2021)
    status, text = team("list")
    assert status == 0, text
    assert [word for word in text.split() if word in names] == names
    assert (text.count(" good"), text.count(" 42 ")) == (3, 3)
    status, text = team("list", "--last", "2")
    assert [word for word in text.split() if word in names] == names[1:]
    plane.path(f"{STORED}/{names[0]}.sig").write_bytes(b"forged")
    status, text = team("list")
    assert (status, text.count(" good"), text.count("[backup-altered]")) == (1, 2, 1)
    # Another machine had the name then; its key is given.
    machine_key = plane.path("/etc/ssh/ssh_host_ed25519_key")
    machine_key.unlink()
    generate = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(machine_key)]
    subprocess.run(generate, input=b"y\n", check=True)
    store(plane, 2022)
    assert team("list", "--last", "1")[0] == 1
    assert team("list", "--last", "1", "--signer", f"{NODE} {host_key(plane)}")[0] == 0


def test_pruning_deletes_only_what_is_old_and_only_if_told_to(
    plane: Machine, team: Callable[..., tuple[int, str]]
) -> None:
    old, _, newest = store(plane, 2019, 2020, 2021)
    status, text = team("prune", "--older-than", "720h")
    assert (status, "6 files would be deleted" in text, len(stored(plane))) == (0, True, 9)
    assert f"{old}.age" in text
    status, text = team("prune", "--older-than", "720h", "--yes")
    assert (status, "6 files deleted" in text) == (0, True)
    assert snapshots.complete(stored(plane)) == [newest]
    assert len(stored(plane)) == 3
    assert team("prune", "--older-than", "often")[0] == 2


# --- the script that installs the timer ----------------------------------------------------------


def installed(machine: Machine, values: dict[str, str], stdin: str = "") -> Result:
    machine.fake("systemctl", '[ "$1" != is-active ] || { echo inactive; exit 3; }')
    machine.fake("dpkg-query", "echo installed")
    script = Script(file=FILE, node=NODE, settings=values)
    return machine.shell(machine.command(script), stdin=stdin)


def in_bucket(identity: Path) -> Backup:
    s3 = {"host": "s3.example.no", "region": "no", "bucket": "snaps", "accessKeyId": "writer"}
    return Backup.model_validate({"keys": [public(identity)], "every": "20m", "s3": s3})


def test_the_timer_is_installed_with_a_login_that_only_root_can_read(
    machine: Machine, identity: Path
) -> None:
    values = backup.settings(NODE, in_bucket(identity), cluster=CLUSTER)
    assert SECRET_KEY not in str(values)
    result = installed(machine, values, SECRET_KEY)
    assert result.status == 0, result
    configuration = machine.path("/etc/nordmesh/rclone.conf")
    assert configuration.stat().st_mode & 0o077 == 0
    assert f"secret_access_key = {SECRET_KEY}\n" in configuration.read_text()
    assert "OnUnitActiveSec=1200\n" in machine.read(backup.TIMER)
    assert "PLACE='place:snaps/prod'" in machine.read(backup.CONFIGURATION)
    assert machine.read(backup.KEYS).split()[-1] == public(identity)
    assert "systemctl restart nordmesh-backup.timer" in machine.calls("systemctl")
    assert not [call for call in machine.calls() if SECRET_KEY in call]
    assert SECRET_KEY not in result.stdout + result.stderr


def test_a_directory_must_exist(machine: Machine, identity: Path) -> None:
    values = backup.settings(NODE, settings(identity), cluster=CLUSTER)
    result = installed(machine, values)
    assert result.status == 1
    assert "[backup-directory-missing]" in result.stderr
    assert not machine.exists(backup.TIMER)
    machine.path("/stored").mkdir()
    assert installed(machine, values).status == 0
    assert machine.exists(backup.TIMER)


def test_a_removal_leaves_no_login_and_no_timer(machine: Machine, identity: Path) -> None:
    assert (
        installed(
            machine, backup.settings(NODE, in_bucket(identity), cluster=CLUSTER), SECRET_KEY
        ).status
        == 0
    )
    result = installed(machine, {"DIRECTORY": "", "FILES": "", "RCLONE": ""})
    assert result.status == 0, result
    for folder in ("/etc/nordmesh", "/etc/systemd/system"):
        assert [path.name for path in machine.path(folder).iterdir()] == []
    assert not machine.exists(backup.RUNNER)
    assert "systemctl disable --quiet --now nordmesh-backup.timer nordmesh-backup.service" in (
        machine.calls("systemctl")
    )


def test_an_ecdsa_host_key_signs_where_the_stack_file_pins_one(identity: Path) -> None:
    files = backup.node_files(
        NODE, settings(identity), cluster=CLUSTER, host_key="ecdsa-sha2-nistp256 AAAA"
    )
    (text,) = (file.text for file in files if file.path == backup.CONFIGURATION)
    assert "SIGNER='/etc/ssh/ssh_host_ecdsa_key'" in text
