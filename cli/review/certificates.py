"""Certificates that end soon, in words."""

from collections.abc import Iterator
from datetime import datetime

from cli.certificates import Certificates, ends
from cli.review.markdown import Part, plain
from cli.review.preview import Preview
from components import admin_credentials
from components.remote import node_command


def part(preview: Preview, found: Certificates, now: datetime) -> Part | None:
    """Render one line for each certificate that this update renews or that ends soon, and for what
    is not known.
    """
    rows = [f"- {line}" for line in (*_renewed(preview), *_lines(found, now))]
    return Part(title="Certificates", rows=rows) if rows else None


def _renewed(preview: Preview) -> Iterator[str]:
    for step in preview.changes:
        if node_command.file(str(step.new.get("create"))) == admin_credentials.FILE:
            old, new = (
                node_command.settings_of(inputs).get(admin_credentials.SINCE)
                for inputs in (step.old, step.new)
            )
            if new and new != old:
                yield (
                    "**the kubeconfig in the stack's outputs gets a new certificate**: the one in "
                    f"it was due for renewal on {new}. Export it again; the old one works until "
                    "its end"
                )


def _lines(found: Certificates, now: datetime) -> Iterator[str]:
    for one in found.soon(now):
        yield f"**{plain(one.text)}** {ends(one, now)}; it is renewed {plain(one.renewed)}"
    yield from map(plain, found.unread)
