"""Running a checked-in script on a node, and saying what to do when that fails."""

import functools
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi
from pulumi_command import remote

from components.failures import explaining_hooks
from components.packed import packed

_SCRIPTS = Path(__file__).parent / "scripts"
_LIBRARY = "lib.sh"
_USES = re.compile(r"^# Uses: (.+)$", re.MULTILINE)

LOCK_SECONDS = 600
"""How long a script waits for an earlier one on the same machine, in lib.sh."""

DIAL_ATTEMPTS = 5
DIAL_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """The key that logs in (secrets): the file's text, and its passphrase if it has one."""

    text: pulumi.Input[str]
    password: pulumi.Output[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An SSH login. The host key (one authorized_keys-style line) is not optional.

    owner: the resource that made the machine, None for one that was there before. What runs on
    the machine is gone with it. bastion: the machine that the connection goes through. patience: by
    what every script's time limit is multiplied there.
    """

    host: str
    user: str
    port: int
    private_key: PrivateKey
    host_key: pulumi.Input[str]
    owner: pulumi.Resource | None = None
    bastion: "Connection | None" = None
    patience: int = 1

    def to_args(self) -> remote.ConnectionArgs:
        """The connection in the command provider's form."""
        if self.bastion is None:
            return remote.ConnectionArgs(**self._endpoint())
        bastion = remote.ProxyConnectionArgs(**self.bastion._endpoint())
        return remote.ConnectionArgs(**self._endpoint(), proxy=bastion)

    def _endpoint(self) -> dict[str, Any]:
        key = self.private_key
        return {
            "host": self.host,
            "user": self.user,
            "port": self.port,
            "private_key": pulumi.Output.secret(key.text),
            "private_key_password": key.password,
            "host_key": self.host_key,
            "dial_error_limit": DIAL_ATTEMPTS,
            "per_dial_timeout": DIAL_TIMEOUT_SECONDS,
        }


@dataclass(frozen=True, kw_only=True)
class Script:
    """A script of components/scripts with its settings, ready to run on one node.

    settings: exported at the command's head, so they are on the node's command line and in state:
    never a secret. timeout: seconds until the script is ended, with ten more to clean up.
    """

    file: str
    node: str
    settings: Mapping[str, str]
    timeout: int = 300

    def command(self, user: str, *, patience: int = 1) -> str:
        """The command line that runs the script as root: settings in the clear, then the script."""
        settings = {"NODE_NAME": self.node, **self.settings}
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in sorted(settings.items())
        )
        as_root = "" if user == "root" else "sudo -n "
        text = shlex.quote(exports + _packed(self.file))
        return f"{as_root}timeout --kill-after=10 {self.timeout * patience} bash -c {text}"


class RemoteScript(remote.Command):
    """A script run on a node at create and again when it, a setting or the login changes.

    update: what a change runs instead, where the script has to know that it ran before.
    stdin: the one way in for secrets. secret_output: the result on stdout is a secret; nothing
    that the script prints is then logged. What a script prints on stderr is shown as progress, and
    what it warns of again at the end of the run.
    triggers: none but what makes another machine of it, since a changed one replaces. `delete` is
    not run when opts.deleted_with, or else the machine's own resource, goes as well. In a
    replacement it comes first: it would undo what `create` has done on the same machine.
    """

    def __init__(
        self,
        name: str,
        connection: Connection,
        script: Script,
        *,
        update: Script | None = None,
        delete: Script | None = None,
        stdin: pulumi.Input[str] | None = None,
        secret_output: bool = False,
        triggers: list[str] | None = None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        secrets = ["stdout", "stderr"] if secret_output else []
        telling = None if secret_output else _telling_hooks()

        def command(of: Script) -> str:
            return of.command(connection.user, patience=connection.patience)

        super().__init__(
            name,
            connection=connection.to_args(),
            create=command(script),
            update=command(update) if update else None,
            delete=command(delete) if delete else None,
            triggers=triggers,
            stdin=None if stdin is None else pulumi.Output.secret(stdin),
            logging=remote.Logging.NONE if secret_output else remote.Logging.STDERR,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    hooks=pulumi.ResourceHookBinding.merge(explaining_hooks(), telling),
                    additional_secret_outputs=secrets,
                    deleted_with=opts.deleted_with or connection.owner,
                    delete_before_replace=True if delete else None,
                ),
            ),
        )


@functools.cache
def _telling_hooks() -> pulumi.ResourceHookBinding:
    tell = pulumi.ResourceHook("tell a script's warnings", _tell)
    return pulumi.ResourceHookBinding(after_create=[tell], after_update=[tell])


def _tell(args: pulumi.ResourceHookArgs) -> None:
    for line in str((args.new_outputs or {}).get("stderr")).splitlines():
        node, mark, warning = line.partition(": WARNING: ")
        if mark:
            pulumi.log.warn(f"{node}: {warning}")


def text_of(file: str) -> str:
    """A script with the libraries before it: the one of all, and those that its head names."""
    text = text_alone(file)
    uses = _USES.search(text)
    libraries = [_LIBRARY, *(uses[1].split() if uses else ())]
    return "".join(map(text_alone, libraries)) + text


def text_alone(file: str) -> str:
    """A script without libraries: one that runs elsewhere, or is installed on nodes as it is."""
    return (_SCRIPTS / file).read_text()


@functools.cache
def _packed(file: str) -> str:
    """The shell line that runs the library and a script, which it holds compressed.

    Pulumi writes the whole state at each step, every command twice: with the scripts as text, they
    would be most of it, and a weight edit would take a quarter longer.
    """
    return f'eval "$(base64 -d <<<{packed(text_of(file))} | gunzip)" # {file}'
