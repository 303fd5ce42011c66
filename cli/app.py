"""The command line `nordmesh`: its commands, its exit codes, and how it reports an error."""

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

import typer
from typer.main import get_command

from cli import (
    canary,
    dashboard,
    explain,
    kubeconfig,
    lock,
    mirror,
    new,
    preflight,
    report,
    schema,
    status,
)
from cli.backup import command as backup
from cli.ci import affected, comment, offline
from cli.drift import command as drift
from cli.output import print_error
from cli.pulumi_cli import PulumiError
from cli.restore import command as restore
from cli.review import command as review
from cli.review.preview import UnreadableError
from config.errors import NordmeshError

_EXIT_CODES = """\
Exit status: 0 success; 1 a check found something, or nordmesh refused; 2 wrong usage; 3 something
could not be measured; 128 and the number of a signal that ended it: 130 for Ctrl-C."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich" if sys.stdout.isatty() else None,
    pretty_exceptions_enable=False,
    help="Work on the stacks of nordmesh; `pulumi up` deploys them.",
    epilog=_EXIT_CODES,
)

_COMMANDS: Sequence[tuple[str, Callable[..., None], str]] = (
    ("new", new.command, "nordmesh new prod"),
    ("explain", explain.command, "nordmesh explain --stack prod"),
    ("preflight", preflight.command, "nordmesh preflight --stack prod"),
    ("review", review.command, "nordmesh review --stack prod --policy-pack policy"),
    ("drift", drift.command, "nordmesh drift --stack prod"),
    ("status", status.command, "nordmesh status --stack prod"),
    ("kubeconfig", kubeconfig.command, "nordmesh kubeconfig --stack prod --for kari -o kari.yaml"),
    (
        "restore",
        restore.command,
        "nordmesh restore 20261130T012058Z-cp-1 --stack prod --identity key.txt",
    ),
    ("dashboard", dashboard.command, "nordmesh dashboard --stack prod"),
    ("lock", lock.command, "nordmesh lock"),
    ("mirror", mirror.command, "nordmesh mirror --stack prod --dir /srv/mirror"),
    ("schema", schema.command, "nordmesh schema --check"),
)
_CI_COMMANDS: Sequence[tuple[str, Callable[..., None], str]] = (
    ("affected", affected.affected_command, "nordmesh ci affected origin/main"),
    ("kind", affected.kind_command, "nordmesh ci kind prod"),
    ("comment", comment.command, "nordmesh ci comment prod summary.md"),
    ("strip-secrets", offline.strip_command, "nordmesh ci strip-secrets Pulumi.prod.yaml"),
    ("new-key", offline.key_command, "nordmesh ci new-key"),
)
ci = typer.Typer(no_args_is_help=True)
for _app, _commands in ((app, _COMMANDS), (ci, _CI_COMMANDS)):
    for _name, _command, _example in _commands:
        _app.command(_name, epilog=f"Example: {_example}")(_command)
app.add_typer(ci, name="ci", help="What pipelines run.")
canary.app.command("status", epilog="Example: nordmesh canary status --stack prod")(
    status.canary_command
)
app.add_typer(backup.app, name="backup", help="Store, list and prove snapshots of the cluster.")
app.add_typer(canary.app, name="canary", help="Advance or abort a canary, or measure its split.")
app.add_typer(report.app, name="report", help="Report what a stack file allows, as Markdown.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status; an error is one message, without a traceback."""
    try:
        get_command(app)(args=arguments, prog_name="nordmesh")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (PulumiError, UnreadableError) as error:
        return _report(error, 3)
    except NordmeshError as error:
        return _report(error, 1)
    return 0


def run() -> None:
    """Run as a program; a signal that ends it lets a command clean up first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    sys.exit(main())


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _report(error: NordmeshError, status: int) -> int:
    print_error(str(error))
    return status
