"""`nordmesh backup check --identity`: signed snapshots whose contents restore nothing."""

import hashlib
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli.backup import proof, scratch_etcd
from cli.backup.snapshots import Manifest, time_of
from config.errors import NordmeshError

NAME = "20261130T010203Z-cp-1"
KEYS = ("ca.key", "sa.key", "etcd/ca.key", "front-proxy-ca.key")
STORED = {"/registry/configmaps/shop/a": scratch_etcd.Revisions(created=3, changed=5)}
PAGES = bytes(range(256)) * 8
DATABASE = PAGES + hashlib.sha256(PAGES).digest()
CA = b"the certificate of the CA\n"


@pytest.fixture(autouse=True)
def no_etcd(monkeypatch: pytest.MonkeyPatch) -> None:
    """The PKI is text, so no etcd can start with it: tests/engine/test_backup.py starts one."""
    monkeypatch.setattr(scratch_etcd, "PROGRAMS", ("no-such-program",))


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("team") / "identity"
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    return path


@pytest.fixture
def contents(tmp_path: Path) -> Path:
    """What a good snapshot has in it."""
    folder = tmp_path / "contents"
    (folder / "pki" / "etcd").mkdir(parents=True)
    (folder / "etcd.db").write_bytes(DATABASE)
    (folder / "pki" / "ca.crt").write_bytes(CA)
    for key in KEYS:
        (folder / "pki" / key).write_text(f"the text of {key}\n")
    return folder


def packed(contents: Path) -> bytes:
    tar = ["tar", "--create", "--directory", str(contents), *(p.name for p in contents.iterdir())]
    archive = subprocess.run(tar, check=True, capture_output=True).stdout
    return subprocess.run(["zstd", "-qc"], input=archive, check=True, capture_output=True).stdout


def proved(compressed: bytes, identity: Path, folder: Path) -> proof.Contents | None:
    """Encrypt an archive as a snapshot, and check its contents."""
    folder.mkdir()
    key = subprocess.run(["age-keygen", "-y", identity], check=True, capture_output=True).stdout
    encrypt = ["age", "--encrypt", "--recipient", key.decode().strip()]
    data = subprocess.run(encrypt, input=compressed, check=True, capture_output=True).stdout
    (folder / f"{NAME}.age").write_bytes(data)
    time = time_of(NAME)
    assert time is not None
    manifest = Manifest(
        cluster="prod",
        node="cp-1",
        time=time,
        revision=42,
        etcd="3.5.6",
        ca=hashlib.sha256(CA).hexdigest(),
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
    )
    return proof.prove(folder, NAME, manifest, identity)


def problem(compressed: bytes, identity: Path, folder: Path) -> str:
    """What is wrong with the contents."""
    with pytest.raises(NordmeshError) as caught:
        proved(compressed, identity, folder)
    assert (caught.value.code, caught.value.path) == ("backup-broken", NAME)
    return caught.value.what


def test_good_contents(contents: Path, identity: Path, tmp_path: Path) -> None:
    folder = tmp_path / "unpacked"
    assert proved(packed(contents), identity, folder) is None
    assert (folder / "etcd.db").read_bytes() == DATABASE


@pytest.mark.parametrize(
    ("name", "change", "what"),
    [
        ("etcd.db", Path.unlink, "the database or the CA is not in it"),
        ("pki/ca.crt", Path.unlink, "the database or the CA is not in it"),
        (
            "pki/ca.crt",
            lambda path: path.write_bytes(CA.upper()),
            "its CA is not the one in the manifest",
        ),
        *((f"pki/{key}", Path.unlink, f"{key} of the PKI is not in it") for key in KEYS),
        *(
            ("etcd.db", lambda path, data=data: path.write_bytes(data), "cut short or altered")
            for data in (
                b"",
                DATABASE[:31],
                DATABASE[:-1],
                DATABASE[:-32],
                DATABASE + b"\0",
                b"x" + DATABASE[1:],
            )
        ),
    ],
)
def test_contents_that_restore_nothing(
    contents: Path,
    identity: Path,
    tmp_path: Path,
    name: str,
    change: Callable[[Path], object],
    what: str,
) -> None:
    change(contents / name)
    assert what in problem(packed(contents), identity, tmp_path / "unpacked")


def test_an_archive_that_cannot_be_opened(contents: Path, identity: Path, tmp_path: Path) -> None:
    assert "cannot be decompressed" in problem(packed(contents)[:-9], identity, tmp_path / "a")
    (contents / "text").write_bytes(b"no archive" * 200)
    no_archive = subprocess.run(
        ["zstd", "-qc", contents / "text"], check=True, capture_output=True
    ).stdout
    assert "cannot be unpacked" in problem(no_archive, identity, tmp_path / "b")


def test_files_outside_the_folder_are_not_written(identity: Path, tmp_path: Path) -> None:
    """The keys of the team are public, so anyone may have encrypted an archive to them."""
    (tmp_path / "outside").write_text("mine\n")
    tar = ["tar", "--create", "--absolute-names", str(tmp_path / "outside")]
    archive = subprocess.run(tar, check=True, capture_output=True).stdout
    (tmp_path / "outside").write_text("yours\n")
    compressed = subprocess.run(
        ["zstd", "-qc"], input=archive, check=True, capture_output=True
    ).stdout
    problem(compressed, identity, tmp_path / "unpacked")
    assert (tmp_path / "outside").read_text() == "yours\n"


@pytest.mark.parametrize(("revision", "is_good"), [(41, False), (42, True), (43, True)])
def test_an_etcd_that_lacks_writes_is_not_a_proof(
    contents: Path,
    identity: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    revision: int,
    is_good: bool,
) -> None:
    """The revision in the manifest is from before the snapshot: its etcd has at least that one."""

    @contextmanager
    def started(folder: Path, name: str) -> Iterator[SimpleNamespace]:
        assert (folder / "etcd.db", name) == (tmp_path / "unpacked" / "etcd.db", NAME)
        yield SimpleNamespace(
            keys=lambda: STORED, count=lambda: (7, revision), objects=lambda _: {}
        )

    monkeypatch.setattr(scratch_etcd, "PROGRAMS", ("true",))
    monkeypatch.setattr(scratch_etcd, "started", started)
    if is_good:
        found = proved(packed(contents), identity, tmp_path / "unpacked")
        assert found == proof.Contents(keys=STORED, revision=revision)
    else:
        what = problem(packed(contents), identity, tmp_path / "unpacked")
        assert what == "its etcd is at revision 41, not 42"


def test_without_age_the_missing_program_is_named(
    contents: Path, identity: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compressed = packed(contents)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("age-keygen", "zstd"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "unpacked").mkdir()
    (tmp_path / "unpacked" / f"{NAME}.age").write_bytes(compressed)
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(NordmeshError) as caught:
        proof._unpack(tmp_path / "unpacked", NAME, identity)
    assert caught.value.code == "backup-program-missing"
    assert "install it: Debian's package is age" in str(caught.value)
