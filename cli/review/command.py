"""`nordmesh review`: what `pulumi up` would do, in Markdown for a pull request."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from cli.options import OptionalStack
from cli.pulumi_cli import PulumiError, output, run, selected_stack
from cli.review.markdown import LIMIT, Document
from cli.review.preview import UnreadableError, Values, deployed, parse
from cli.review.summary import summary, unreadable

_PREVIEW = ("preview", "--json", "--show-sames")
_HISTORY = ("stack", "history", "--json", "--page-size", "20")


def command(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="Read this output of `pulumi preview --json --show-sames` (- for standard input) "
            "instead of running a preview.",
        ),
    ] = None,
    stack: OptionalStack = None,
    limit: Annotated[int, typer.Option(min=1000, help="The most characters to print.")] = LIMIT,
    policy_pack: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", show_default=False, help="Run this policy pack in the preview."
        ),
    ] = None,
) -> None:
    """Show what `pulumi up` would do, in Markdown for a pull request.

    Exit status: 0 the preview succeeded, 1 it failed or a policy pack refused it, and the summary
    says how; 3 there was no preview to read.
    """
    if file is None:
        failed = _of_stack(stack or selected_stack(), policy_pack or [], limit)
    elif policy_pack:
        raise typer.BadParameter("a FILE is already a preview", param_hint="--policy-pack")
    else:
        failed = _of_file(file, limit)
    if failed:
        raise typer.Exit(1)


def _of_file(file: str, limit: int) -> bool:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(
            f"the file cannot be read: {error}", code="preview-unreadable", path=file
        ) from None
    preview = parse(text)
    return _print(summary(preview), limit, failed=bool(preview.errors) or preview.is_refused)


def _of_stack(stack: str, packs: list[str], limit: int) -> bool:
    packs = [part for pack in packs for part in ("--policy-pack", pack)]
    result = run(*_PREVIEW, *packs, stack=stack, streaming=True)
    try:
        preview = parse(result.stdout, stack=stack)
    except UnreadableError:
        message = result.stderr.strip() or result.stdout
        return _print(unreadable(stack, message), limit, failed=True)
    failed = result.returncode != 0 or bool(preview.errors)
    document = summary(replace(preview, deployed=_deployed(stack)))
    if failed and not preview.errors and not preview.is_refused:
        document = unreadable(stack, result.stderr or f"pulumi ended with {result.returncode}")
    return _print(document, limit, failed=failed)


def _deployed(stack: str) -> Values | None:
    try:
        return deployed(output(*_HISTORY, stack=stack))
    except PulumiError as error:
        print(f"The summary does not list the changed settings: {error.what}", file=sys.stderr)
        return None


def _print(document: Document, limit: int, *, failed: bool) -> bool:
    sys.stdout.write(document.render(limit))
    return failed
