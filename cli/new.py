"""`python -m cli.new`: writes the file of a new stack of bought machines.

Asks for the nodes, fetches their SSH host keys and shows the fingerprints to compare with what the
machines' consoles say. With --node it asks nothing: a node is then given with the host key or the
fingerprint that it must have. Behind a bastion no key can be fetched: the nodes' host keys are then
pasted from their consoles. An existing file is never written over.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from cli import host_keys
from cli.new_file import render
from config import SSH_KEY, Role, Ssh
from config.errors import ConfigError, Problem
from config.load import load
from config.scalars.names import DnsName, Label, UserName
from config.scalars.networks import Ipv4
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.ssh import HOST_KEY_REMEDY, HostKey

PROJECT = Path(__file__).resolve().parents[1]

Ask = Callable[[str], str]

_USUAL = Ssh()
_PUBLIC_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
_CONSOLE = "ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub"
_NODE_FORM = (
    "--node NAME,role=worker,address=192.0.2.21,fingerprint=SHA256:... [,user=root] [,port=22], or "
    "hostKey=... in place of the fingerprint"
)
_BASTION_FORM = "--bastion ADDRESS,fingerprint=SHA256:... [,user=root] [,port=22], or hostKey=..."
# What the file cannot have yet: the next steps set them.
_LATER = ((SSH_KEY,), ("artifacts", "lock"))


class Stopped(Exception):
    """The reason why no file was written."""


@dataclass(frozen=True, kw_only=True)
class NewLogin:
    """A machine as it was given; host_key is what was confirmed."""

    address: str
    user: str
    port: int
    host_key: str

    def entry(self) -> dict[str, object]:
        """The machine's keys in the file, without what is the default."""
        entry: dict[str, object] = {"address": self.address, "hostKey": self.host_key}
        if self.user != _USUAL.user:
            entry["user"] = self.user
        if self.port != _USUAL.port:
            entry["port"] = self.port
        return entry


@dataclass(frozen=True, kw_only=True)
class NewNode:
    """A node as it was given."""

    name: str
    role: str
    login: NewLogin

    def entry(self) -> dict[str, object]:
        """The node's entry in machines.nodes."""
        return {"role": self.role, "provider": "existing", **self.login.entry()}


def given_node(text: str, *, is_behind_bastion: bool = False) -> NewNode:
    """The node of a --node option; raises Stopped.

    Where only a fingerprint is given, the host key is fetched and compared with it.
    """
    name, values = _given(f"--node {text.partition(',')[0]}", text, ("role", "address"), _NODE_FORM)
    if is_behind_bastion and "hostKey" not in values:
        raise Stopped(
            f"--node {name} has no hostKey; behind a bastion it cannot be fetched from here. "
            f"{HOST_KEY_REMEDY[0].upper()}{HOST_KEY_REMEDY[1:]} as hostKey="
        )
    name, role = _checked(Label, name), _checked(Role, values["role"])
    return NewNode(name=name, role=role, login=_given_login(name, values))


def given_bastion(text: str) -> NewLogin:
    """The machine of the --bastion option, as a node's; raises Stopped."""
    address, values = _given("--bastion", text, (), _BASTION_FORM)
    return _given_login("the bastion", {**values, "address": address})


def _given(
    option: str, text: str, required: tuple[str, ...], form: str
) -> tuple[str, dict[str, str]]:
    """What an option begins with, and its parts by name."""
    first, *pairs = text.split(",")
    values = dict(pair.partition("=")[::2] for pair in pairs)
    known = (*required, "user", "port", "hostKey", "fingerprint")
    wrong = [key for key in values if key not in known]
    missing = [key for key in required if not values.get(key)]
    if wrong or missing:
        problem = f"has no {missing[0]}" if missing else f"has an unknown part {wrong[0]}"
        raise Stopped(f"{option} {problem}; write {form}")
    return first, values


def _given_login(name: str, values: Mapping[str, str]) -> NewLogin:
    address = _checked(Ipv4, values["address"])
    user = _checked(UserName, values.get("user", _USUAL.user))
    port = _checked(Port, values.get("port", str(_USUAL.port)))
    if "hostKey" in values:
        key = _checked(HostKey, values["hostKey"])
    else:
        key = _scanned(name, address, port)
        _compare(name, key, values.get("fingerprint"))
    return NewLogin(address=address, user=user, port=port, host_key=key)


def asked_nodes(ask: Ask, *, is_behind_bastion: bool = False) -> Iterable[NewNode]:
    """Nodes as they are typed in, each with its host key confirmed."""
    names: list[str] = []
    while True:
        role = "worker" if names else "control-plane"
        number = sum(name.startswith("worker-") for name in names) + 1
        print("\nA node." if not names else "\nAnother node. An empty name ends the list.")
        usual = "" if names else "cp-1"
        proposed = f" (such as worker-{number})" if names else ""
        name = _asked(ask, f"  name{proposed}", Label, usual, may_be_empty=bool(names))
        if not name:
            return
        role = _asked(ask, "  role, control-plane or worker", Role, role)
        address = _asked(ask, "  IPv4 address", Ipv4)
        user = _asked(ask, "  user that SSH logs in as", UserName, _USUAL.user)
        port = _asked(ask, "  port of sshd", Port, str(_USUAL.port))
        if is_behind_bastion:
            print(f"  On {name}, over your provider's console: cat {_PUBLIC_KEY}")
            key = _asked(ask, "  what it prints", HostKey)
        else:
            try:
                key = _scanned(name, address, port)
                _confirm(ask, name, key)
            except Stopped as reason:
                print(f"  {reason}.\n  {name} is left out; give it again when that is clear.")
                continue
        names.append(name)
        login = NewLogin(address=address, user=user, port=port, host_key=key)
        yield NewNode(name=name, role=role, login=login)


def write(
    project: Path,
    stack: str,
    endpoint: str,
    nodes: Iterable[NewNode],
    *,
    bastion: NewLogin | None = None,
) -> Path:
    """Write the stack's file, checked as a preview checks it; raises Stopped and ConfigError."""
    path = project / f"Pulumi.{stack}.yaml"
    by_name: dict[str, object] = {}
    for node in nodes:
        if node.name in by_name:
            raise Stopped(f"two nodes have the name {node.name}; give each its own")
        by_name[node.name] = node.entry()
    text = render(
        stack,
        {
            "machines": {**_through(bastion), "nodes": by_name},
            "kubernetes": {"clusterName": stack, "endpoint": endpoint},
            "istio": {},
        },
    )
    _check(text, project)
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise Stopped(_there_already(path)) from None
    return path


def _through(bastion: NewLogin | None) -> dict[str, object]:
    return {} if bastion is None else {"ssh": {"bastion": bastion.entry()}}


def _check(text: str, project: Path) -> None:
    """Refuse what a preview would refuse, but for what only the next steps set."""
    config: dict[str, object] = yaml.safe_load(text)["config"]
    values = {key.partition(":")[2]: value for key, value in config.items()}
    found: list[Problem] = []
    try:
        load(values, project_dir=project)
    except ConfigError as error:
        found = [problem for problem in error.problems if problem.path not in _LATER]
    if found:
        raise ConfigError(found)


def _checked(kind: Any, value: str) -> Any:
    """The value as the models take it; raises Stopped with what is wrong and the remedy."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        (detail,) = error.errors()
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, Refused):
            raise Stopped(f"{cause.what}: {cause.why}; {cause.fix}") from None
        raise Stopped(f"{value!r} does not fit; {detail['msg'].lower()}") from None


def _asked(
    ask: Ask, question: str, kind: Any, usual: str = "", *, may_be_empty: bool = False
) -> Any:
    """An answer that fits, asked for again until it does."""
    while True:
        answer = ask(f"{question}{f' [{usual}]' if usual else ''}: ").strip() or usual
        if not answer and may_be_empty:
            return ""
        try:
            return _checked(kind, answer)
        except Stopped as wrong:
            print(f"    {wrong}")


def _scanned(name: str, address: str, port: int) -> str:
    try:
        return host_keys.scan(address, port)
    except host_keys.NotShown as reason:
        raise Stopped(f"{name}: {reason}") from None


def _compare(name: str, key: str, wanted: str | None) -> None:
    shown = host_keys.fingerprint(key)
    where = _where(key)
    if wanted is None:
        raise Stopped(
            f"{name} shows {shown}, which nobody has compared yet; anyone on the way could have "
            f"sent it. Run `{where}` on the node, over your provider's console, and give what it "
            "prints as fingerprint="
        )
    if wanted != shown:
        raise Stopped(
            f"{name} shows {shown}, not {wanted}: another machine answers there, or its key was "
            f"made anew. Run `{where}` on the node, over your provider's console"
        )


def _confirm(ask: Ask, name: str, key: str) -> None:
    """Let a person compare the fingerprint with what the machine's console says."""
    shown = host_keys.fingerprint(key)
    print(f"  whoever answers there shows the host key\n    {key.split()[0]} {shown}")
    print(f"  Run this on {name}, over your provider's console, and compare:\n    {_where(key)}")
    answer = ask("  Type yes if it is the same, or paste the fingerprint from the console: ")
    if answer.strip().lower() == "yes" or answer.strip() == shown:
        return
    raise Stopped(
        f"the host key of {name} was not confirmed; with a wrong one, somebody else's machine "
        "would get the cluster's keys. Find out who answers at that address"
    )


def _where(key: str) -> str:
    kind = key.split()[0].removeprefix("ssh-").split("-")[0]
    return _CONSOLE.format(kind)


def _there_already(path: Path) -> str:
    return f"{path.name} is there already and stays as it is; choose another name, or edit it"


def _next_steps(stack: str) -> str:
    return f"""
Next:
  pulumi stack init {stack}
  pulumi config set --stack {stack} --secret nordmesh:{SSH_KEY} < ~/.ssh/id_ed25519
  make lock                    # once: fetches upstream's checksums; review and commit them
  make explain STACK={stack}
  make preflight STACK={stack}
  pulumi preview --stack {stack}"""


def _run(options: argparse.Namespace, project: Path, ask: Ask) -> None:
    asks = not options.node
    if not asks and options.stack is None:
        raise Stopped("give the stack's name before --node")
    stack = _checked(Label, options.stack) if options.stack else _asked(ask, "stack's name", Label)
    path = project / f"Pulumi.{stack}.yaml"
    if path.exists():
        raise Stopped(_there_already(path))
    endpoint = options.endpoint or f"api.{stack}.internal"
    if asks and options.endpoint is None:
        endpoint = _asked(ask, "name of the API server, yours for ever", DnsName, endpoint)
    bastion = given_bastion(options.bastion) if options.bastion else None
    is_behind = bastion is not None
    nodes = (
        asked_nodes(ask, is_behind_bastion=is_behind)
        if asks
        else (given_node(text, is_behind_bastion=is_behind) for text in options.node)
    )
    written = write(project, stack, _checked(DnsName, endpoint), nodes, bastion=bastion)
    print(f"\nwrote {written.name}\n{_next_steps(stack)}")


def main(arguments: list[str] | None = None, *, project: Path = PROJECT, ask: Ask = input) -> int:
    """The command; returns its exit code: 1 if no file was written."""
    parser = argparse.ArgumentParser(
        prog="python -m cli.new",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stack", nargs="?", help="the stack's name; asked for if it is not given")
    parser.add_argument("--endpoint", help="the API server's name; default: api.<stack>.internal")
    parser.add_argument(
        "--node",
        action="append",
        default=[],
        metavar="NODE",
        help="a node: NAME,role=...,address=...,fingerprint=SHA256:... and, if need be, user=... "
        "and port=...; hostKey=... in place of the fingerprint. Once for each node",
    )
    parser.add_argument(
        "--bastion",
        metavar="BASTION",
        help="the machine that SSH goes through: ADDRESS,fingerprint=SHA256:... and, if need be, "
        "user=... and port=...; hostKey=... in place of the fingerprint",
    )
    try:
        _run(parser.parse_args(arguments), project, ask)
    except (Stopped, ConfigError) as error:
        print(f"{error}\nnothing was written", file=sys.stderr)
        return 1
    except (EOFError, KeyboardInterrupt):
        print("\nnothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
