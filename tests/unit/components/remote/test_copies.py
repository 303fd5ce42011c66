"""The copies of scripts on the machines: which ones a resource needs, and which are still whole."""

from components.remote import copies
from components.remote.node_command import Script, digest, path_of


def command(file: str) -> str:
    return Script(file=file, node="cp-1", settings={"A": "1"}).command("root")


def test_the_scripts_of_each_phase_are_copied() -> None:
    """Otherwise an update, or the end of a node, would find no script on the machine."""
    phases = {"create": "kubeadm-init.sh", "update": "node-ready.sh", "delete": "node-reset.sh"}
    inputs = {phase: command(file) for phase, file in phases.items()}
    for phase, file in phases.items():
        expected = [(digest(inputs[phase]), file)]
        assert list(copies._wanted({phase: inputs[phase]})) == expected
    assert [file for _, file in copies._wanted(inputs)] == list(phases.values())
    assert list(copies._wanted({"create": "true", "update": None})) == []


def test_a_copy_is_whole_if_its_content_has_the_hash_in_its_name() -> None:
    sha256 = str(digest(command("node-ready.sh")))
    other = "0" * 64
    path = path_of("node-ready.sh", sha256)
    listing = f"{sha256}  {path}\n{other}  {path}\n{other}  /root/notes.sh\n"
    assert list(copies._unchanged(listing)) == [sha256]
