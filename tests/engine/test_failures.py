"""Messages for scripts that die and nodes that are unreachable, over real SSH."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import paths
from lab.ports import reserved_port
from tests.engine.conftest import REMOTE_SCRIPTS, Project, Sshd

Projects = Callable[..., Project]
SECRET = "a-secret-of-standard-input"  # noqa: S105

# Each node runs the script of its name. `lib.sh` of the program would change this machine.
PROGRAM = (
    REMOTE_SCRIPTS
    + """
for name, login in settings["nodes"].items():
    RemoteScript(
        name,
        ssh_to(login),
        node_command.Script(
            file=f"{name}.sh", node=name, settings={"WORDS": "connection refused"},
            timeout=2 if name == "slow" else 60,
        ),
        stdin=settings["secret"],
        opts=pulumi.ResourceOptions(),
    )
"""
)
LIBRARY = "set -euo pipefail\nexport LC_ALL=C\n"
DEAD = {
    "unexplained": (
        "for line in $(seq 9); do echo line $line; done; cat >/dev/null\n"
        "echo 'sed: connection refused, timeout' >&2; exit 1\n"
    ),
    "slow": "echo 'before the wait' >&2; sleep 600\n",
    "killed": "echo 'before the end' >&2; kill -KILL $$\n",
    "missing": "no-such-program\n",
    "explained": (
        "printf '\\nERROR on node explained: it is full [full]\\n    why   x\\n    fix   y\\n'\n"
        "exit 1\n"
    ),
}


@pytest.fixture
def nodes(sshd: Sshd, start_sshd: Callable[..., Sshd]) -> Iterator[dict[str, dict[str, object]]]:
    """Connection arguments by node."""
    other = start_sshd()
    with reserved_port() as closed:
        yield {
            **dict.fromkeys(DEAD, sshd.connection()),
            "impostor": sshd.connection(host_key=other.host_key),
            "silent": sshd.connection(port=closed),
            "stranger": sshd.connection(private_key=other.private_key),
        }


@pytest.fixture
def explanations(
    project: Projects, nodes: dict[str, dict[str, object]], tmp_path: Path
) -> dict[str, str]:
    """Return the explanation of `pulumi up` for each node."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for name, text in {"lib": LIBRARY, **dict.fromkeys(nodes, "true\n"), **DEAD}.items():
        (scripts / f"{name}.sh").write_text(text)
    stack = project(
        PROGRAM,
        checkout=str(paths.PROJECT),
        scripts=str(scripts),
        copies=str(tmp_path / "copies"),
        nodes=nodes,
        secret=SECRET,
    )
    output = stack.up("--continue-on-error").failed().output
    assert SECRET not in output
    assert "KeyboardInterrupt" not in output
    # Everything before that is truncated to one line.
    diagnostics = output.partition("\nDiagnostics:")[2]
    messages = re.findall(r"error: node (\S+): (.*?`pulumi up` again)", diagnostics, re.DOTALL)
    return dict(messages)


def test_every_failure_is_explained_by_its_cause(explanations: dict[str, str]) -> None:
    for name in ("unexplained", "slow", "killed", "missing"):
        assert explanations[name].startswith(f"{name}.sh "), explanations
        assert "SSH" not in explanations[name]
        assert "/var/log/nordmesh" in explanations[name]
    assert "exit status 1" in explanations["unexplained"]
    assert "line 1\n" in explanations["unexplained"]
    assert "sed: connection refused, timeout" in explanations["unexplained"]
    assert "124" in explanations["slow"]
    assert "2 s" in explanations["slow"]
    assert "before the wait" in explanations["slow"]
    assert "SIGKILL" in explanations["killed"]
    assert "137" in explanations["killed"]
    assert "before the end" in explanations["killed"]
    assert "127" in explanations["missing"]
    assert "no-such-program: command not found" in explanations["missing"]
    assert "another SSH host key" in explanations["impostor"]
    assert "does not answer over SSH" in explanations["silent"]
    assert "refused the login" in explanations["stranger"]
    assert "explained" not in explanations
