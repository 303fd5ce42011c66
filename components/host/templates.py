"""Load a template below files/ and render it."""

import functools
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

ROOT = Path(__file__).parent / "files"
_SUFFIX = ".j2"


def render(path: str, **values: object) -> str:
    """Render the file of a path below files/, without a newline at the end.

    A file without the suffix .j2 is used unchanged. In a template whose name ends in .xml, values
    are escaped.
    """
    if (ROOT / path).is_file():
        return (ROOT / path).read_text().rstrip("\n")
    return _environment().get_template(f"{path}{_SUFFIX}").render(values)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(ROOT),
        undefined=StrictUndefined,
        autoescape=select_autoescape(enabled_extensions=(f"xml{_SUFFIX}",)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
