"""Documented commands that need no cluster, run with a real engine, and their options."""

import json
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from config import catalogue
from lab import paths, toolchain
from tests.support import documented
from tests.support.documented import Shell

_STACKS = ("prod", "staging")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a user with an SSH key, the tools on PATH, and an empty state."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir(mode=0o700)
    key = asyncssh.generate_private_key("ssh-ed25519")
    key.write_private_key(home / ".ssh" / "id_ed25519")
    pulumi = toolchain.environment()
    pulumi.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
    return pulumi | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(paths.cache().root.parent),
        "PULUMI_CONFIG_PASSPHRASE": "only for this test",
    }


@pytest.fixture
def shell(environment: dict[str, str], tmp_path: Path) -> Iterator[Shell]:
    """Shell in a copy of the checkout with a complete lock file and empty stacks."""
    directory, state = tmp_path / "nordmesh", tmp_path / "state"
    state.mkdir()
    documented.copy_checkout(directory)
    keys = [download.key for download in catalogue.all_downloads()]
    lock = {"binaries": dict.fromkeys(keys, "0" * 64)}
    (directory / "stacks" / "artifacts.lock.json").write_text(json.dumps(lock))
    documented.commit(directory)
    with Shell(directory, environment | {"PULUMI_BACKEND_URL": state.as_uri()}) as shell:
        for stack in _STACKS:
            shell.do(
                f"pulumi stack init --no-select {stack}\n"
                f"pulumi config set --stack {stack} --secret nordmesh:sshPrivateKey"
                " < ~/.ssh/id_ed25519\n"
            )
        yield shell


@pytest.mark.parametrize("document", documented.tried_with("engine"))
def test_documented_commands_work_without_a_cluster(document: str, shell: Shell) -> None:
    for block in documented.blocks(document):
        if block.is_tried_with("engine"):
            shell.run(block)


@pytest.mark.parametrize("document", documented.documents())
def test_documented_pulumi_options_exist(document: str, environment: dict[str, str]) -> None:
    wrong = [
        f"{block}: {complaint}"
        for block in documented.blocks(document)
        if block.has_commands
        for complaint in documented.stale_for_pulumi(block, environment)
    ]
    assert not wrong


def test_an_unknown_option_is_reported(environment: dict[str, str]) -> None:
    def complaints(text: str) -> list[str]:
        block = documented.Block(document="x.md", line=1, language="sh", text=text, how="", what=())
        return list(documented.stale_for_pulumi(block, environment))

    assert complaints("pulumi preview --diff --stack prod\n") == []
    assert complaints("pulumi preview --dif --stack prod\n")
    assert complaints("pulumi previews --stack prod\n")
