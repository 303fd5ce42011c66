"""Commands for nodes: parsing undoes rendering."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.remote import node_command
from components.remote.node_command import Script

_NAMES = st.from_regex(r"[A-Z][A-Z_]{0,20}", fullmatch=True).filter(lambda it: it != "NODE_NAME")
_CHECK = f'sha256sum)" = "{"0" * 64}  -" # x.sh\''
_FILES = st.sampled_from(["node-prepare.sh", "kubeadm-join.sh", "istio-install.sh"])
# Texts with characters that a shell or the parser could misread.
_VALUES = st.lists(
    st.one_of(
        st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        st.sampled_from(
            ["'", '"', "'\"'\"'", "\n", "export A=b\n", "# x.sh", "bash -c ", "$(id)", _CHECK]
        ),
    )
).map("".join)


@given(
    file=_FILES,
    node=st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True),
    settings=st.dictionaries(_NAMES, _VALUES),
    timeout=st.integers(1, 4000),
    user=st.sampled_from(["root", "debian"]),
    patience=st.integers(1, 12),
)
def test_parsing_undoes_rendering(
    file: str, node: str, settings: dict[str, str], timeout: int, user: str, patience: int
) -> None:
    script = Script(file=file, node=node, settings=settings, timeout=timeout)
    command = script.command(user, patience=patience)
    assert node_command.settings(command) == {"NODE_NAME": node, **settings}
    assert node_command.file(command) == file
    assert node_command.time_limit(command) == script.seconds(patience=patience)
    text = node_command.text_of(file)
    assert node_command.digest(command) == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("command", ["", "true", "None", "apt-get update # backup.txt"])
def test_other_commands_parse_as_no_script(command: str) -> None:
    assert node_command.settings(command) == {}
    assert node_command.file(command) is None
    assert node_command.time_limit(command) is None
    assert node_command.digest(command) is None


def test_the_wait_for_another_script_takes_no_time_from_a_script() -> None:
    """Otherwise a script is ended in the middle of its work, or before its lock's error."""
    folder = Path(node_command.__file__).parents[1] / "scripts"
    waiting = {path.name for path in folder.glob("*.sh") if "\nsingle_run\n" in path.read_text()}
    assert {"kubeadm-init.sh", "node-reset.sh", "istio-uninstall.sh", "restore-mark.sh"} <= waiting
    for path in folder.glob("*.sh"):
        seconds = Script(file=path.name, node="cp-1", settings={}, timeout=10).seconds(patience=3)
        assert seconds == 30 + (node_command.LOCK_SECONDS if path.name in waiting else 0), path
    library = (folder / "lib.sh").read_text()
    assert f"wait_for_lock {node_command.LOCK_SECONDS} " in library
