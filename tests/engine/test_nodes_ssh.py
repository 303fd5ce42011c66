"""Scripts on nodes from the command line, over a real SSH server."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from stacks.nodes_ssh import Answer, Login, run
from tests.engine.conftest import Sshd, free_port, make_key


@pytest.fixture
def login(sshd: Sshd) -> Login:
    facts = sshd.connection()
    return Login.of(
        {
            "host": facts["host"],
            "user": facts["user"],
            "port": facts["port"],
            "hostKey": facts["host_key"],
            "privateKey": facts["private_key"],
        }
    )


def test_scripts_run_at_once_each_with_its_own_answer(login: Login) -> None:
    started = time.monotonic()
    tasks = {name: (login, f"sleep 1; echo it is {name}") for name in ("one", "two", "three")}
    answers = run(tasks, seconds=20)
    assert answers == {name: Answer(text=f"it is {name}\n") for name in tasks}
    assert time.monotonic() - started < 3


def test_a_long_script_is_on_no_command_line(login: Login) -> None:
    script = f"# {'x' * 300_000}\ntr '\\0' ' ' </proc/$$/cmdline; tr '\\0' ' ' </proc/$PPID/cmdline"
    answer = run({"node": (login, script)}, seconds=20)["node"]
    assert answer.problem is None
    assert "bash -s" in answer.text
    assert "xxx" not in answer.text


def test_another_host_key_is_refused_before_anything_is_sent(login: Login, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other").removesuffix(" test")
    mark = tmp_path / "mark"
    answers = run({"node": (replace(login, host_key=other), f"touch {mark}")}, seconds=20)
    problem = answers["node"].problem
    assert problem == "it shows another host key than the pinned one; nothing was asked of it"
    assert not mark.exists()


def test_nobody_there_and_somebody_there(login: Login) -> None:
    away = replace(login, port=free_port())
    answers = run({"away": (away, "true"), "here": (login, "echo yes")}, seconds=20)
    assert "Connection refused" in str(answers["away"].problem)
    assert answers["here"] == Answer(text="yes\n")


def test_another_key_is_refused(login: Login, tmp_path: Path) -> None:
    make_key(tmp_path / "other")
    stranger = replace(login, private_key=(tmp_path / "other").read_text())
    answer = run({"node": (stranger, "echo yes")}, seconds=20)["node"]
    assert answer.text == ""
    assert "Permission denied" in str(answer.problem)


def test_a_script_that_takes_too_long_is_ended(login: Login) -> None:
    answer = run({"node": (login, "echo first; exec sleep 60")}, seconds=1)["node"]
    assert answer == Answer(text="first\n", problem="its script was ended after 1 s")


def test_a_failing_script_says_why(login: Login) -> None:
    answer = run({"node": (login, "echo no such thing >&2; exit 3")}, seconds=20)["node"]
    assert answer.problem == "no such thing"


def test_no_key_is_left_behind(
    login: Login, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run({"node": (login, "true")}, seconds=20)
    assert list(tmp_path.iterdir()) == []
