"""Hand each joining worker a bootstrap token, in the moment that it joins.

The token is made on a control plane and lives ten minutes. The addresses of all control planes come
with it: as settings of the node, they would change when a control plane is added.
"""

import re
from collections.abc import Mapping

import pulumi

from components.handover import ERROR, PIPE, Handovers, Line
from components.remote.nodes_ssh import Login, Sessions
from components.remote.script import Connection, login

TTL = "10m"

# Without the environment, to ask the API server directly: a machine's proxy is for downloads.
_MAKE = f"""PATH=/usr/local/bin:$PATH
env -i PATH="$PATH" kubeadm token create --ttl {TTL} --kubeconfig /etc/kubernetes/admin.conf
env -i PATH="$PATH" kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 10s \\
    --cache-dir /run/nordmesh/kubectl get nodes \\
    --selector node-role.kubernetes.io/control-plane --output 'jsonpath={{range .items[*]}}server=\
{{.status.addresses[?(@.type=="InternalIP")].address}}{{"\\n"}}{{end}}'"""
_TOKEN = re.compile(r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b")
_SERVER = re.compile(r"^server=([0-9.]+)$", re.MULTILINE)
_MAKE_SECONDS = 60


class JoinTokens:
    """Hands tokens to the nodes of a stack. control_planes: the logins by node."""

    def __init__(self, control_planes: Mapping[str, Connection]) -> None:
        self._control_planes = control_planes
        self._handovers = Handovers("a join token", PIPE)

    def hooks(
        self, node: str, connection: Connection, *, seconds: int
    ) -> pulumi.ResourceHookBinding:
        """The hooks of the script that joins a node. seconds: how long it may take."""

        async def line() -> Line:
            return tokens({name: await login(one) for name, one in self._control_planes.items()})

        return self._handovers.hooks(node, connection, line, seconds=seconds)


def tokens(control_planes: Mapping[str, Login]) -> Line:
    """Make a token on the first control plane that can, or say why none did."""

    async def token(sessions: Sessions) -> str:
        problems = []
        for name, plane in control_planes.items():
            answer = await sessions.run(plane, "bash -s", stdin=_MAKE, seconds=_MAKE_SECONDS)
            made, servers = _TOKEN.findall(answer.text), _SERVER.findall(answer.text)
            if made and servers:
                return " ".join((made[-1], *servers))
            missing = "kubectl printed no control plane" if made else "kubeadm printed no token"
            problems.append(f"{name}: {answer.problem or missing}")
        return ERROR + "; ".join(problems)

    return token
