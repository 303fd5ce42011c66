"""`nordmesh new`: write the file of a new stack of bought machines."""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from cli import host_keys
from cli.new_file import render
from cli.output import print_error
from cli.pulumi_cli import project
from config import SSH_KEY, Role, Ssh, stack_file
from config.errors import NordmeshError
from config.load import load_file
from config.scalars.names import DnsName, Label, NodeName, UserName
from config.scalars.networks import Ipv4
from config.scalars.numbers import Port
from config.scalars.refused import Refused
from config.scalars.ssh import HOST_KEY_REMEDY, HostKey

Ask = Callable[[str], str]

_USUAL = Ssh()
_PUBLIC_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
_CONSOLE = "ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub"
_NODE_FORM = (
    "--node NAME,role=worker,address=192.0.2.21,fingerprint=SHA256:... [,user=root] [,port=22], or "
    "hostKey=... in place of the fingerprint"
)
_BASTION_FORM = "--bastion ADDRESS,fingerprint=SHA256:... [,user=root] [,port=22], or hostKey=..."


@dataclass(frozen=True, kw_only=True)
class NewLogin:
    """A machine as it was given; host_key is what was confirmed."""

    address: str
    user: str
    port: int
    host_key: str

    def entry(self) -> dict[str, object]:
        """The machine's keys in the file, without default values."""
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
    """Read a --node option; raises NordmeshError.

    Where only a fingerprint is given, the host key is fetched and compared with it.
    """
    name, values = _given(f"--node {text.partition(',')[0]}", text, ("role", "address"), _NODE_FORM)
    if is_behind_bastion and "hostKey" not in values:
        raise NordmeshError(
            "there is no hostKey, and behind a bastion it cannot be fetched from here",
            code="no-host-key",
            path=f"--node {name}",
            fix=f"{HOST_KEY_REMEDY} as hostKey=",
        )
    name, role = _checked(NodeName, name), _checked(Role, values["role"])
    return NewNode(name=name, role=role, login=_given_login(name, values))


def given_bastion(text: str) -> NewLogin:
    """Read the --bastion option; raises NordmeshError."""
    address, values = _given("--bastion", text, (), _BASTION_FORM)
    return _given_login("the bastion", {**values, "address": address})


def _given(
    option: str, text: str, required: tuple[str, ...], form: str
) -> tuple[str, dict[str, str]]:
    """Split an option into its first word and its settings by name."""
    first, *pairs = text.split(",")
    values = dict(pair.partition("=")[::2] for pair in pairs)
    known = (*required, "user", "port", "hostKey", "fingerprint")
    wrong = [key for key in values if key not in known]
    missing = [key for key in required if not values.get(key)]
    fix = f"write {form}"
    if missing:
        raise NordmeshError(f"{missing[0]} is missing", code="bad-option", path=option, fix=fix)
    if wrong:
        raise NordmeshError(
            f"there is no setting {wrong[0]}", code="bad-option", path=option, fix=fix
        )
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
    """Ask for the nodes, and have each host key confirmed."""
    names: list[str] = []
    while True:
        role = "worker" if names else "control-plane"
        number = sum(name.startswith("worker-") for name in names) + 1
        print("\nA node." if not names else "\nAnother node. An empty name ends the list.")
        usual = "" if names else "cp-1"
        proposed = f" (such as worker-{number})" if names else ""
        name = _asked(ask, f"  name{proposed}", NodeName, usual, may_be_empty=bool(names))
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
            except NordmeshError as error:
                print(f"{error}\n  {name} is skipped; add it again when this is solved.")
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
    """Write a stack file, after the checks of a preview; raises NordmeshError."""
    path = stack_file.path_of(project, stack)
    by_name: dict[str, object] = {}
    for node in nodes:
        if node.name in by_name:
            raise NordmeshError(
                f"two nodes have the name {node.name}",
                code="duplicate-node",
                fix="give each node its own name",
            )
        by_name[node.name] = node.entry()
    text = render(
        stack,
        {
            "machines": {**_through(bastion), "nodes": by_name},
            "kubernetes": {"clusterName": stack, "endpoint": endpoint},
            "istio": {},
            # On in every new cluster: a running one may have callers that nobody listed.
            "mesh": {"networkPolicy": True},
        },
    )
    load_file(stack_file.parse(path, text), project).usable()
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise _exists(path) from None
    return path


def _through(bastion: NewLogin | None) -> dict[str, object]:
    return {} if bastion is None else {"ssh": {"bastion": bastion.entry()}}


def _checked(kind: Any, value: str) -> Any:
    """Return the value in the models' type; raises NordmeshError."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        (detail,) = error.errors()
        cause = detail.get("ctx", {}).get("error")
        if isinstance(cause, Refused):
            raise NordmeshError(cause.what, code=cause.code, why=cause.why, fix=cause.fix) from None
        raise NordmeshError(
            f"{value!r} is not valid: {detail['msg'].lower()}", code="bad-value"
        ) from None


def _asked(
    ask: Ask, question: str, kind: Any, usual: str = "", *, may_be_empty: bool = False
) -> Any:
    """Ask until the answer is valid."""
    while True:
        answer = ask(f"{question}{f' [{usual}]' if usual else ''}: ").strip() or usual
        if not answer and may_be_empty:
            return ""
        try:
            return _checked(kind, answer)
        except NordmeshError as error:
            print(error)


def _scanned(name: str, address: str, port: int) -> str:
    try:
        return str(_checked(HostKey, host_keys.scan(address, port)))
    except NordmeshError as error:
        raise NordmeshError(error.what, code=error.code, path=name, fix=error.fix) from None


def _compare(name: str, key: str, expected: str | None) -> None:
    shown = host_keys.fingerprint(key)
    where = _where(key)
    if expected is None:
        raise NordmeshError(
            f"the node shows {shown}, which nobody has compared yet",
            code="host-key-unconfirmed",
            path=name,
            why="anyone between this machine and the node could have sent it",
            fix=f"run `{where}` on the node, over your provider's console, and pass what it prints "
            "as fingerprint=",
        )
    if expected != shown:
        raise NordmeshError(
            f"the node shows {shown}, not {expected}",
            code="host-key-mismatch",
            path=name,
            why="another machine answers there, or the node has a new key",
            fix=f"run `{where}` on the node, over your provider's console, and compare",
        )


def _confirm(ask: Ask, name: str, key: str) -> None:
    """Ask a person to compare the fingerprint with the one on the machine's console."""
    shown = host_keys.fingerprint(key)
    print(f"  the machine that answers there shows the host key\n    {key.split()[0]} {shown}")
    print(f"  Run this on {name}, over your provider's console, and compare:\n    {_where(key)}")
    answer = ask("  Type yes if it is the same, or paste the fingerprint from the console: ")
    if answer.strip().lower() == "yes" or answer.strip() == shown:
        return
    raise NordmeshError(
        "the host key was not confirmed",
        code="host-key-unconfirmed",
        path=name,
        why="with a wrong host key, another machine would receive the cluster's keys",
        fix="find out which machine answers at that address",
    )


def _where(key: str) -> str:
    kind = key.split()[0].removeprefix("ssh-").split("-")[0]
    return _CONSOLE.format(kind)


def _exists(path: Path) -> NordmeshError:
    return NordmeshError(
        "the file exists already, and is not overwritten",
        code="stack-file-exists",
        path=path.name,
        fix="choose another name, or edit the file",
    )


def _next_steps(stack: str) -> str:
    return f"""
Next:
  pulumi stack init {stack}
  pulumi config set --stack {stack} --secret nordmesh:{SSH_KEY} < ~/.ssh/id_ed25519
  nordmesh lock                # once: fetches upstream's checksums; review and commit them
  nordmesh explain --stack {stack}
  nordmesh preflight --stack {stack}
  pulumi preview --stack {stack}"""


def command(
    stack: Annotated[
        str | None, typer.Argument(help="The stack's name; asked for if it is missing.")
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="The API server's name. Default: api.<stack>.internal.", show_default=False
        ),
    ] = None,
    node: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NODE",
            show_default=False,
            help="A node: NAME,role=...,address=...,fingerprint=SHA256:... and optionally user=... "
            "and port=...; or hostKey=... instead of the fingerprint. Repeat it for each node.",
        ),
    ] = None,
    bastion: Annotated[
        str | None,
        typer.Option(
            metavar="BASTION",
            show_default=False,
            help="The machine that SSH goes through: ADDRESS,fingerprint=SHA256:... and optionally "
            "user=... and port=...; or hostKey=... instead of the fingerprint.",
        ),
    ] = None,
) -> None:
    """Write the file of a new stack of bought machines.

    Asks for the nodes, fetches their SSH host keys and shows the fingerprints for you to compare
    with the machines' consoles. With --node it asks nothing: each node is passed with its host key
    or fingerprint. Behind a bastion no key can be fetched: paste the nodes' host keys from their
    consoles. An existing file is never overwritten.
    """
    try:
        path = _new_stack(stack, endpoint, node or [], bastion)
    except NordmeshError as error:
        print_error(str(error))
        code = 1
    except (EOFError, KeyboardInterrupt):
        print(file=sys.stderr)
        code = 130
    else:
        name = path.name.split(".")[1]
        print(f"\nwrote {path.name}\n{_next_steps(name)}")
        return
    print("nothing was written", file=sys.stderr)
    raise typer.Exit(code)


def _new_stack(
    name: str | None, endpoint: str | None, nodes: list[str], bastion: str | None
) -> Path:
    ask: Ask = input
    if nodes and name is None:
        raise NordmeshError(
            "the stack has no name",
            code="no-stack-name",
            fix="pass the name before --node, for example nordmesh new prod --node ...",
        )
    stack = _checked(Label, name) if name else _asked(ask, "stack's name", Label)
    path = stack_file.path_of(project(), stack)
    if path.exists():
        raise _exists(path)
    default = f"api.{stack}.internal"
    if endpoint is None:
        endpoint = (
            default if nodes else _asked(ask, "name of the API server, for good", DnsName, default)
        )
    login = given_bastion(bastion) if bastion else None
    is_behind = login is not None
    entries = (
        (given_node(text, is_behind_bastion=is_behind) for text in nodes)
        if nodes
        else asked_nodes(ask, is_behind_bastion=is_behind)
    )
    return write(project(), stack, _checked(DnsName, endpoint), entries, bastion=login)
