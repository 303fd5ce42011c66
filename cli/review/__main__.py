"""`python -m cli.review`: what `pulumi up` would do, in Markdown for a pull request."""

import argparse
import sys
from pathlib import Path

from cli.pulumi_cli import PulumiError, run
from cli.review.markdown import LIMIT, Document
from cli.review.preview import UnreadableError, parse
from cli.review.summary import summary, unreadable

_EPILOG = """\
exit status: 0 a summary of a preview; 1 the preview failed or a policy pack refused it, and the
summary says how; 2 there was nothing that could be read.
"""
_PREVIEW = ("preview", "--json", "--show-sames")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cli.review", description=__doc__, epilog=_EPILOG
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--stack", help="run `pulumi preview` of this stack")
    source.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="what `pulumi preview --json --show-sames` printed; - for standard input",
    )
    parser.add_argument(
        "--limit", type=int, default=LIMIT, help="the most characters (default: %(default)s)"
    )
    parser.add_argument(
        "--policy-pack", action="append", default=[], metavar="DIR", help="run it in the preview"
    )
    options = parser.parse_args(arguments)
    if options.limit < 1000:
        parser.error("--limit below 1000 leaves no room for a summary")
    if options.policy_pack and not options.stack:
        parser.error("--policy-pack goes with --stack: a file has been previewed already")
    try:
        if options.stack:
            return _of_stack(options.stack, options.policy_pack, options.limit)
        return _of_file(options.file, options.limit)
    except (OSError, UnicodeDecodeError, UnreadableError, PulumiError) as error:
        print(f"python -m cli.review: {error}", file=sys.stderr)
        return 2


def _of_file(file: str, limit: int) -> int:
    text = sys.stdin.read() if file == "-" else Path(file).read_text()
    preview = parse(text)
    return _print(summary(preview), limit, failed=bool(preview.errors) or preview.is_refused)


def _of_stack(stack: str, packs: list[str], limit: int) -> int:
    packs = [part for pack in packs for part in ("--policy-pack", pack)]
    result = run(*_PREVIEW, *packs, stack=stack, streaming=True)
    try:
        preview = parse(result.stdout, stack=stack)
    except UnreadableError:
        message = result.stderr.strip() or result.stdout
        return _print(unreadable(stack, message), limit, failed=True)
    failed = result.returncode != 0 or bool(preview.errors)
    document = summary(preview)
    if failed and not preview.errors and not preview.is_refused:
        document = unreadable(stack, result.stderr or f"pulumi ended with {result.returncode}")
    return _print(document, limit, failed=failed)


def _print(document: Document, limit: int, *, failed: bool) -> int:
    sys.stdout.write(document.render(limit))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
