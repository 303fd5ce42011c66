"""The key of Secrets: the same on every control plane, and its rotation.

Each step is done on every control plane before the next one begins, in the order of Kubernetes's
guide: kubeadm-init.sh adds the new key, encryption-use.sh makes it the first, and
encryption-retire.sh writes every Secret again and removes the old key.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pulumi

from components.handover import Line
from components.peers import Asked, ask, problem
from components.remote.node_command import Script
from components.remote.nodes_ssh import Sessions
from components.remote.script import Connection, RemoteScript

PIPE = "/run/nordmesh/encryption-keys"
"""Where encryption-add.sh reads its line."""
USE, RETIRE = "encryption-use.sh", "encryption-retire.sh"

_OFFER = re.compile(r"^keys ([A-Za-z0-9+/=]+|-)$", re.MULTILINE)
_OFFER_SECONDS = 30
# The pods may take 300 s to become Ready, and 600 s more if the ones from before come back.
_SECONDS = 1200
# Up to five times, every Secret is written again.
_REWRITE_SECONDS = 1200


def answers(others: Mapping[str, Asked], *, endpoint: str) -> Line:
    """Make the line with the files of keys that other control planes have, each in base64.

    It ends with ERROR and the reasons if one of them did not answer: it could have the key.
    """

    async def answer(sessions: Sessions) -> str:
        offers = await asyncio.gather(
            *(
                ask(sessions, name, asked, "encryption-offer.sh", endpoint, _OFFER_SECONDS)
                for name, asked in others.items()
            )
        )
        files, problems = [], {}
        for name, offer in zip(others, offers, strict=True):
            if match := _OFFER.search(offer.text):
                files.append(match[1])
            else:
                problems[name] = offer.problem or "it printed no keys"
        reasons = [problem(problems)] if problems else []
        return " ".join(["keys", *dict.fromkeys(files), *reasons])

    return answer


@dataclass(frozen=True, kw_only=True)
class Plane:
    """A control plane. made: the script that makes it. parent: its component."""

    connection: Connection
    made: RemoteScript
    parent: pulumi.Resource


class KeyRotation:
    """The last two steps of a rotation. planes: by node. number: of the key.

    after: the scripts that take lost machines, which cannot get the key, out of the cluster.

    Each step takes one control plane after the other, so that one API server restarts at a time.
    """

    def __init__(
        self,
        planes: Mapping[str, Plane],
        *,
        number: int,
        endpoint: str,
        after: Sequence[RemoteScript],
    ) -> None:
        settings = {"ENCRYPTION_KEY": str(number), "ENDPOINT": endpoint}

        def step(
            suffix: str, file: str, seconds: int, before: Sequence[RemoteScript]
        ) -> list[RemoteScript]:
            scripts: list[RemoteScript] = []
            for name, plane in planes.items():
                script = RemoteScript(
                    f"{name}-{suffix}",
                    plane.connection,
                    Script(file=file, node=name, settings=settings, timeout=seconds),
                    opts=pulumi.ResourceOptions(
                        parent=plane.parent,
                        depends_on=[*before, *scripts[-1:]],
                        replace_with=[plane.made],
                    ),
                )
                scripts.append(script)
            return scripts

        made = [plane.made for plane in planes.values()]
        used = step("key-use", USE, _SECONDS, [*after, *made])
        step("key-retire", RETIRE, _SECONDS + _REWRITE_SECONDS, used)
