"""Run a checked-in script on a node over SSH, and explain its failure."""

import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import pulumi
from pulumi_command import remote

from components.remote import copies
from components.remote.failures import explaining_hooks
from components.remote.node_command import Script, settings_of
from components.remote.nodes_ssh import Login

T = TypeVar("T")

DIAL_ATTEMPTS = 5
DIAL_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class PrivateKey:
    """The SSH key to log in with: its text and its passphrase, both secret."""

    text: pulumi.Input[str]
    password: pulumi.Output[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Connection:
    """An SSH login. host_key: one line in the format of authorized_keys, always required.

    owner: the resource that created the machine, None for a bought one; scripts on the machine are
    deleted with it. bastion: the jump host. patience: a factor for the time limit of each script.
    pinned: host_key for a machine that runs already: it does not wait until the owner has changed.
    """

    host: str
    user: str
    port: int
    private_key: PrivateKey
    host_key: pulumi.Input[str]
    owner: pulumi.Resource | None = None
    bastion: "Connection | None" = None
    patience: int = 1
    pinned: pulumi.Input[str] | None = None

    def command(self, script: Script) -> str:
        """The command line that runs a script there."""
        return script.command(self.user, patience=self.patience)

    def to_args(self) -> remote.ConnectionArgs:
        """The connection in the format of the command provider."""
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


class Place(Protocol):
    """Where a script runs: a connection, or one that is chosen among several."""

    @property
    def owner(self) -> pulumi.Resource | None:
        """The resource that created the machine, if scripts on it are deleted with it."""

    def command(self, script: Script) -> pulumi.Input[str]:
        """The command line that runs a script there."""

    def to_args(self) -> pulumi.Input[remote.ConnectionArgs]:
        """The connection in the format of the command provider."""


async def login(connection: Connection) -> Login:
    """The login of a connection, for commands outside Pulumi's resources; for use in a hook.

    The machine must run already.
    """
    key, pinned = connection.private_key, connection.pinned
    return Login(
        host=connection.host,
        user=connection.user,
        port=connection.port,
        host_key=str(await _value(connection.host_key if pinned is None else pinned)),
        private_key=str(await _value(key.text)),
        password=None if key.password is None else str(await _value(key.password)),
        bastion=None if connection.bastion is None else await login(connection.bastion),
    )


async def _value(given: pulumi.Input[str]) -> str | None:
    return await pulumi.Output.from_input(given).future()


class RemoteScript(remote.Command):
    """Run a script on a node at creation, and again when it, a setting or the login changes.

    script: an output if a setting is known only after another resource. update: the script to run
    for a change, if it is another one. stdin: the only way to pass a secret. secret_output: whether
    the result on stdout is a secret; then no output is logged. Otherwise stderr is shown as
    progress, and its warnings are repeated at the end of the run. renewed_by: the setting whose
    change lets the script print another secret.
    triggers: values that identify the machine; a changed one replaces the resource. `delete` does
    not run if opts.deleted_with, or else the machine's own resource, is deleted too. In a
    replacement it runs first, because it would undo what `create` did on the same machine.
    turn: awaited before the resource is registered; see components.rollout.
    """

    def __init__(
        self,
        name: str,
        connection: Place,
        script: Script | pulumi.Output[Script],
        *,
        update: Script | None = None,
        delete: Script | None = None,
        stdin: pulumi.Input[str] | None = None,
        secret_output: bool = False,
        renewed_by: str | None = None,
        triggers: list[str] | None = None,
        turn: Awaitable[None] | None = None,
        opts: pulumi.ResourceOptions,
    ) -> None:
        secrets = ["stdout", "stderr"] if secret_output else []
        own = self._keeping_hooks(name, renewed_by) if secret_output else _warning_hooks()
        command = connection.command
        self._kept: pulumi.Input[str] | None = None

        super().__init__(
            name,
            connection=connection.to_args(),
            create=_create(script, command, turn),
            update=command(update) if update else None,
            delete=command(delete) if delete else None,
            triggers=triggers,
            stdin=None if stdin is None else pulumi.Output.secret(stdin),
            logging=remote.Logging.NONE if secret_output else remote.Logging.STDERR,
            add_previous_output_in_env=False,
            opts=pulumi.ResourceOptions.merge(
                opts,
                pulumi.ResourceOptions(
                    hooks=functools.reduce(
                        pulumi.ResourceHookBinding.merge,
                        (own, copies.hooks(), explaining_hooks()),
                    ),
                    additional_secret_outputs=secrets,
                    deleted_with=opts.deleted_with or connection.owner,
                    delete_before_replace=True if delete else None,
                ),
            ),
        )

    def read(self, parse: Callable[[str], T]) -> pulumi.Output[T]:
        """Parse what the script printed; in a run that updates it, what it printed before.

        A preview knows that, and otherwise would name whatever needs the result.
        """
        new: pulumi.Output[T] = self.stdout.apply(parse)

        def known(_new: object) -> pulumi.Output[T]:
            kept = self._kept
            return new if kept is None else pulumi.Output.from_input(kept).apply(parse)

        return new.apply(known, run_with_unknowns=True)

    def _keeping_hooks(self, name: str, renewed_by: str | None) -> pulumi.ResourceHookBinding:
        def keep(args: pulumi.ResourceHookArgs) -> None:
            old, new = (settings_of(inputs) for inputs in (args.old_inputs, args.new_inputs))
            if renewed_by is None or old.get(renewed_by) == new.get(renewed_by):
                self._kept = (args.old_outputs or {}).get("stdout")

        options = pulumi.ResourceHookOptions(on_dry_run=True)
        hook = pulumi.ResourceHook(f"{name}: keep what it printed", keep, options)
        return pulumi.ResourceHookBinding(before_update=[hook])


def _create(
    script: Script | pulumi.Output[Script],
    command: Callable[[Script], pulumi.Input[str]],
    turn: Awaitable[None] | None,
) -> pulumi.Input[str]:
    if isinstance(script, pulumi.Output):
        return script.apply(command)
    return command(script) if turn is None else _after(turn, command(script))


async def _after(turn: Awaitable[None], command: pulumi.Input[str]) -> str:
    await turn
    # A script that has a turn runs on a given machine, so its command is known.
    return str(await pulumi.Output.from_input(command).future())


@functools.cache
def _warning_hooks() -> pulumi.ResourceHookBinding:
    repeat = pulumi.ResourceHook("repeat-warnings", _repeat_warnings)
    return pulumi.ResourceHookBinding(after_create=[repeat], after_update=[repeat])


def _repeat_warnings(args: pulumi.ResourceHookArgs) -> None:
    for line in str((args.new_outputs or {}).get("stderr")).splitlines():
        node, mark, warning = line.partition(": WARNING: ")
        if mark:
            pulumi.log.warn(f"{node}: {warning}")
