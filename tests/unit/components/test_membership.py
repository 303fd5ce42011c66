"""The order to a machine that becomes a control plane, by what the other control planes answer."""

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import pytest
import yaml

from components.handover import ERROR, Line
from components.join_token import tokens
from components.membership import INIT, answers
from components.peers import Asked
from components.remote.node_command import text_of
from components.remote.nodes_ssh import Answer, Login

ENDPOINT = "api.prod.example.internal"
TOKEN, KEY, CA = "abcdef.0123456789abcdef", "0f" * 32, "Y2E="
KEYS = "a2V5cw=="
OFFER = f"{TOKEN} {KEY} {CA} {KEYS}\n"
SILENT = Answer(text="", problem="root@192.0.2.13 port 22: timed out")


def login(name: str) -> Login:
    return Login(host=name, user="root", port=22, host_key="key", private_key="key")


class Machines:
    """Machines that answer over SSH, as Sessions. offers: what a member makes for another one."""

    def __init__(
        self, states: Mapping[str, str | Answer], offers: Mapping[str, str | Answer]
    ) -> None:
        self._answers = {"cluster-member.sh": states, "cluster-offer.sh": offers}
        self.ran: list[tuple[str, str]] = []

    async def run(self, login: Login, command: str, *, stdin: str, seconds: int) -> Answer:
        assert (command, seconds > 0) == ("bash -s", True)
        (file,) = (name for name in self._answers if stdin.endswith(text_of(name)))
        exports = stdin.removesuffix(text_of(file)).splitlines()
        assert exports == [f"export ENDPOINT={ENDPOINT}", f"export NODE_NAME={login.host}"]
        self.ran.append((login.host, file))
        answer = self._answers[file][login.host]
        return answer if isinstance(answer, Answer) else Answer(text=answer)


def handed(line: Line, sessions: Any) -> str:
    """The line that is handed over."""

    async def made() -> str:
        return await line(sessions)

    return asyncio.run(made())


def line(machines: Machines, *names: str) -> str:
    """What is handed over if these are the other control planes of the stack file."""
    others = {
        name: Asked(address=f"192.0.2.1{number}", login=login(name))
        for number, name in enumerate(names, 1)
    }
    return handed(answers(others, endpoint=ENDPOINT), machines)


def told(states: Mapping[str, str | Answer], **offers: str | Answer) -> str:
    return line(Machines(states, offers), *states)


def test_the_first_of_all_creates_the_cluster() -> None:
    assert told({}) == INIT
    assert told({"cp-2": "none\n", "cp-3": "none\n"}) == INIT


def test_a_machine_joins_the_cluster_of_another_one() -> None:
    machines = Machines({"cp-2": "none\n", "cp-3": "some warning\nmember\n"}, {"cp-3": OFFER})
    word, address, token, key, discovery, keys = line(machines, "cp-2", "cp-3").split()
    assert (word, address, token, key, keys) == ("join", "192.0.2.12", TOKEN, KEY, KEYS)
    (cluster,) = yaml.safe_load(base64.b64decode(discovery))["clusters"]
    assert cluster["cluster"]["certificate-authority-data"] == CA
    assert ENDPOINT in cluster["cluster"]["server"]
    assert machines.ran[2:] == [("cp-3", "cluster-offer.sh")]


@pytest.mark.parametrize(
    "offer", [SILENT, "no token\n", f"{TOKEN} {KEY} {CA}\n", OFFER.replace(KEY, KEY[1:])]
)
def test_the_next_member_is_asked_if_one_offers_nothing(offer: str | Answer) -> None:
    members = {"cp-2": "member\n", "cp-3": "member\n"}
    assert told(members, **{"cp-2": offer, "cp-3": OFFER}).startswith("join 192.0.2.12 ")
    text = told(members, **{"cp-2": offer, "cp-3": SILENT})
    problem = SILENT.problem if offer is SILENT else "it printed no credentials to join with"
    assert text == f"{ERROR}cp-2: {problem}; cp-3: {SILENT.problem}"


@pytest.mark.parametrize("other", [SILENT, "started\n", "joining\n", "remains\n"])
def test_a_machine_joins_whatever_state_a_third_one_is_in(other: str | Answer) -> None:
    states: dict[str, str | Answer] = {"cp-2": other, "cp-3": "member\n"}
    assert told(states, **{"cp-3": OFFER}).startswith("join 192.0.2.12 ")


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (SILENT, "root@192.0.2.13 port 22: timed out"),
        # What it printed before the connection was lost is not its answer.
        (Answer(text="none\n", problem="connection\nlost"), "connection lost"),
        ("started\n", "it was interrupted while it created the cluster"),
        ("joining\n", "it was interrupted while it joined the cluster"),
        ("remains\n", "it has files of an unknown cluster"),
        ("other cp-9 of the cluster at api.x\n", "it is node cp-9 of the cluster at api.x"),
        ("", "it is node unknown"),
    ],
)
def test_nobody_creates_a_cluster_beside_one_that_there_may_be(
    state: str | Answer, problem: str
) -> None:
    assert told({"cp-2": "none\n", "cp-3": state}) == f"{ERROR}cp-3: {problem}"
    both = told({"cp-2": state, "cp-3": state})
    assert both == f"{ERROR}cp-2: {problem}; cp-3: {problem}"


# --- the token of a worker ------------------------------------------------------------------------


class Planes:
    """Control planes that answer over SSH, as Sessions."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    async def run(self, login: Login, command: str, *, stdin: str, seconds: int) -> Answer:
        assert (command, seconds > 0) == ("bash -s", True)
        assert "kubeadm token create --ttl 10m" in stdin
        return self._answers[login.host]


def token(*answers: Answer) -> str:
    """What a worker is handed by control planes with these answers."""
    names = [f"cp-{number}" for number in range(1, len(answers) + 1)]
    planes = Planes(dict(zip(names, answers, strict=True)))
    return handed(tokens({name: login(name) for name in names}), planes)


def test_a_worker_gets_the_token_of_the_first_control_plane_that_makes_one() -> None:
    made = Answer(text=f"a warning\n{TOKEN}\nserver=192.0.2.11\nserver=192.0.2.12\n")
    assert token(made, SILENT) == f"{TOKEN} 192.0.2.11 192.0.2.12"
    assert token(SILENT, made) == f"{TOKEN} 192.0.2.11 192.0.2.12"


def test_a_worker_learns_why_there_is_no_token() -> None:
    assert token(SILENT, Answer(text=""), Answer(text=f"{TOKEN}\nserver=\n")) == (
        f"{ERROR}cp-1: {SILENT.problem}; cp-2: kubeadm printed no token; "
        "cp-3: kubectl printed no control plane"
    )
