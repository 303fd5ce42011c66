"""`nordmesh review`: what `pulumi up` would do, in Markdown for a pull request."""

import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from cli import certificates
from cli.certificates import Certificates
from cli.options import AsJson, OptionalStack
from cli.output import print_json, print_markdown
from cli.pulumi_cli import PulumiError, kubeconfig, output, project, run, selected_stack
from cli.review import certificates as ending
from cli.review.markdown import LIMIT, Document
from cli.review.preview import Preview, UnreadableError, Values, deployed, parse
from cli.review.summary import summary, unreadable
from config.errors import NordmeshError
from config.load import read_stack

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
    as_json: AsJson = False,
) -> None:
    """Show what `pulumi up` would do, in Markdown for a pull request.

    Exit status: 0 the preview succeeded, 1 it failed or a policy pack refused it, and the summary
    says how; 3 there was no preview to read.
    """
    if file is None:
        review = _of_stack(stack or selected_stack(), policy_pack or [])
    elif policy_pack:
        raise typer.BadParameter("a FILE is already a preview", param_hint="--policy-pack")
    else:
        review = _of_file(file)
    if as_json:
        print_json(review.as_json())
    else:
        print_markdown(review.document.render(limit))
    if review.failed:
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True)
class _Review:
    """A preview and its summary. preview: None if pulumi printed none, but a message."""

    preview: Preview | None
    document: Document
    failed: bool

    def as_json(self) -> dict[str, object]:
        if self.preview is None:
            return {"failed": self.failed, "summary": self.document.render()}
        return {
            "stack": self.preview.stack,
            "failed": self.failed,
            "unchanged": self.preview.unchanged,
            "changes": [
                {"op": step.op, "type": step.type, "name": step.name, "fields": step.fields}
                for step in self.preview.changes
                if not step.is_component
            ],
            "violations": list(map(asdict, self.preview.violations)),
            "messages": list(map(asdict, self.preview.messages)),
        }


def _of_file(file: str) -> _Review:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(
            f"the file cannot be read: {error}", code="preview-unreadable", path=file
        ) from None
    preview = parse(text)
    failed = bool(preview.errors) or preview.is_refused
    return _Review(preview=preview, document=summary(preview), failed=failed)


def _of_stack(stack: str, packs: list[str]) -> _Review:
    packs = [part for pack in packs for part in ("--policy-pack", pack)]
    result = run(*_PREVIEW, *packs, stack=stack, streaming=True)
    try:
        preview = parse(result.stdout, stack=stack)
    except UnreadableError:
        message = result.stderr.strip() or result.stdout
        return _Review(preview=None, document=unreadable(stack, message), failed=True)
    failed = result.returncode != 0 or bool(preview.errors)
    asks = not failed and not preview.is_first
    document = summary(
        replace(preview, deployed=_deployed(stack)),
        ending.part(preview, _certificates(stack), datetime.now(UTC)) if asks else None,
    )
    if failed and not preview.errors and not preview.is_refused:
        document = unreadable(stack, result.stderr or f"pulumi ended with {result.returncode}")
    return _Review(preview=preview, document=document, failed=failed)


def _deployed(stack: str) -> Values | None:
    try:
        return deployed(output(*_HISTORY, stack=stack))
    except PulumiError as error:
        print(f"The summary does not list the changed settings: {error.what}", file=sys.stderr)
        return None


def _certificates(stack: str) -> Certificates:
    """The certificates of the cluster; without its API server, those in the state."""
    from components.gates.api import connect  # 0.1 s, which no other command needs

    try:
        login = kubeconfig(stack)
    except NordmeshError as error:
        return Certificates(read=[], unread=[f"The certificates were not checked: {error.what}"])
    try:
        config = read_stack(project(), stack).usable()
        with connect(login) as api:
            return certificates.read(api, config, login, api.items("/api/v1/nodes"))
    except NordmeshError as error:
        return Certificates(
            read=list(certificates.of_kubeconfig(login)),
            unread=[f"Only the certificate in the state was checked: {error.what}"],
        )
