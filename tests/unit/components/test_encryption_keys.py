"""The steps of a rotation as resources, and what control planes hand over to another one."""

import asyncio
from collections.abc import Mapping

from components import encryption_keys
from components.encryption_keys import RETIRE, USE
from components.peers import Asked
from components.remote import node_command
from components.remote.nodes_ssh import Answer, Login
from tests.support.mocked import Recorder, config, node, run

PLANES = {f"cp-{number}": f"192.0.2.1{number}" for number in (1, 2, 3)}


def recorded(**kubernetes: object) -> Recorder:
    nodes = {name: node("control-plane", address) for name, address in PLANES.items()}
    section = config().kubernetes.model_dump(by_alias=True) | kubernetes
    recorder, _ = run(config(machines={"nodes": nodes}, kubernetes=section))
    return recorder


def test_each_step_is_done_everywhere_before_the_next_one() -> None:
    recorder = recorded()
    after = {
        name: set(recorder.options[f"Command {name}"]["depends_on"])
        for plane in PLANES
        for name in (f"{plane}-key-use", f"{plane}-key-retire")
    }
    for plane in PLANES:
        assert after[f"{plane}-key-use"] >= {f"Command {one}-init" for one in PLANES}
        assert after[f"{plane}-key-retire"] >= {f"Command {one}-key-use" for one in PLANES}
    # One API server restarts at a time.
    for before, name in (("cp-1", "cp-2"), ("cp-2", "cp-3")):
        for step in ("key-use", "key-retire"):
            assert f"Command {before}-{step}" in after[f"{name}-{step}"]


def test_an_edit_of_the_number_runs_the_steps_and_nothing_else() -> None:
    before, after = recorded(), recorded(encryptionKey=2)
    changed = {
        name
        for kind, name in before.resources
        if before.resources[kind, name].inputs != after.resources[kind, name].inputs
    }
    steps = ("init", "key-use", "key-retire")
    assert changed == {f"{plane}-{step}" for plane in PLANES for step in steps}
    for plane in PLANES:
        for step, file in zip(steps, ("kubeadm-init.sh", USE, RETIRE), strict=True):
            command = after.inputs("remote:Command", f"{plane}-{step}")["create"]
            assert node_command.file(command) == file
            assert node_command.settings(command)["ENCRYPTION_KEY"] == "2"


class FakeSessions:
    """Answers as nodes do. answers: by host."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    async def run(self, login: Login, *_: object, **__: object) -> Answer:
        return self._answers[login.host]


def handed(answers: Mapping[str, Answer]) -> str:
    others = {
        name: Asked(
            address="192.0.2.1",
            login=Login(host=name, user="root", port=22, host_key="", private_key=""),
        )
        for name in answers
    }
    line = encryption_keys.answers(others, endpoint="api.example.internal")
    return asyncio.run(_made(line, FakeSessions(answers)))


async def _made(line: object, sessions: object) -> str:
    return str(await line(sessions))  # type: ignore[operator]


def test_the_files_of_the_others_are_handed_over() -> None:
    answers = {"cp-2": Answer(text="keys YQ==\n"), "cp-3": Answer(text="a login shell\nkeys -\n")}
    assert handed(answers) == "keys YQ== -"
    assert handed({}) == "keys"
    # Two with the same file.
    assert handed({"cp-2": Answer(text="keys YQ==\n"), "cp-3": Answer(text="keys YQ==\n")}) == (
        "keys YQ=="
    )


def test_a_silent_control_plane_is_named_after_the_files() -> None:
    answers = {
        "cp-2": Answer(text="keys YQ==\n"),
        "cp-3": Answer(text="", problem="timed out\nafter 30 s"),
        "cp-4": Answer(text="nothing"),
    }
    assert handed(answers) == (
        "keys YQ== error: cp-3: timed out after 30 s; cp-4: it printed no keys"
    )
