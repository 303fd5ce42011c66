"""Mutants of shell scripts, by line.

Comments, here-documents and quoted text are not changed.
"""

import re
import subprocess
from collections.abc import Callable, Iterator

from tests.mutate.mutant import Mutant, shorten

# The end of a command.
_END = rb"(?=\s*(?:$|;|\)|\}))"
_COMMAND = re.compile(rb"[a-z_][a-z_0-9-]*(?=\s|$)")
_KEYWORDS = frozenset(
    b"if then else elif fi for do done while until case esac in function local readonly export "
    b"return exit break continue set shift declare".split()
)
_TESTS = {
    b"=": b"!=",
    b"==": b"!=",
    b"!=": b"=",
    b"-lt": b"-le",
    b"-le": b"-lt",
    b"-gt": b"-ge",
    b"-ge": b"-gt",
    b"-eq": b"-ne",
    b"-ne": b"-eq",
    b"-z": b"-n",
    b"-n": b"-z",
}
_MODES = {b"600": b"644", b"700": b"755", b"077": b"022"}


def mutants(source: bytes) -> list[Mutant]:
    """Return the mutants of a script; `is_valid` excludes those with a syntax error."""
    code = _masked(source)
    return [*_guards(source, code), *_commands(source, code), *_edits(source, code)]


def is_valid(source: bytes, mutant: Mutant) -> bool:
    """Return whether bash parses a mutant without a syntax error."""
    script = mutant.apply(source)
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, check=False)
    return read.returncode == 0 and script != source


def _masked(source: bytes) -> bytes:
    """Return the script with quoted text, comments and here-documents blanked out.

    Offsets stay. Newlines in quotes become blanks, so that a statement is one line.
    """
    code = bytearray(source)
    quote = 0
    here_documents: list[bytes] = []
    at = 0
    while at < len(code):
        char = code[at : at + 1]
        if char == b"\\" and quote != ord("'"):
            code[at : at + 2] = b"  " if source[at + 1 : at + 2] == b"\n" or quote else b"xx"
            at += 2
            continue
        if quote:
            if code[at] == quote:
                quote = 0
            code[at] = ord("x")
        elif chr(code[at]) in "'\"":
            quote = code[at]
            code[at] = ord("x")
        elif char == b"#" and (at == 0 or code[at - 1 : at].isspace()):
            comment = re.compile(rb".*").match(source, at)
            assert comment
            at = _blank(code, *comment.span())
            continue
        elif here := re.compile(rb"(?<!<)<<-?\s*(['\"]?)(\w+)\1").match(source, at):
            here_documents.append(here[2])
            at = here.end()
            continue
        elif char == b"\n" and here_documents:
            end = re.compile(rb"^\t*" + here_documents.pop(0) + rb"$", re.M).search(source, at)
            at = _blank(code, at + 1, end.end() if end else len(code))
            continue
        at += 1
    return bytes(code)


def _blank(code: bytearray, start: int, end: int) -> int:
    code[start:end] = b" " * (end - start)
    return end


def _statements(code: bytes) -> list[tuple[int, int]]:
    """Return where each line of code begins, without its indentation, and ends."""
    return [match.span() for match in re.finditer(rb"[^\s].*", code)]


def _guards(source: bytes, code: bytes) -> Iterator[Mutant]:
    """Drop the handling of a failed command, or the whole line if it is only a test."""
    pattern = re.compile(rb"\s*\|\|\s+(?:fail|return|exit|continue|true|:)(?:\s.*|(?=$|\)|;))")
    for start, end in _statements(code):
        match = pattern.search(code, start, end)
        if not match:
            continue
        if code[start : start + 2] in (b"[ ", b"[["):
            what = f"drop guard `{shorten(source[start:end])}`"
            yield Mutant(kind="guard", what=what, start=start, end=end, replacement=b":")
            continue
        span = match.span()
        what = f"drop `{shorten(source[slice(*span)])}`"
        yield Mutant(kind="guard", what=what, start=span[0], end=span[1], replacement=b"")


def _commands(source: bytes, code: bytes) -> Iterator[Mutant]:
    """Drop a line that is a complete command."""
    for start, end in _statements(code):
        word = _COMMAND.match(code, start, end)
        text = code[start:end].rstrip()
        before = code[:start].rstrip(b" ")
        if not word or word[0] in _KEYWORDS or before[-1:] not in (b"", b"\n"):
            continue
        continues = re.search(rb"(\||&&|;;|\{|\\)$|\(\)|;\s*(then|do)$", text)
        if not continues and not re.search(rb"\|\||[<]<", text) and not _is_inside(before):
            what = f"drop command `{shorten(source[start : start + len(text)])}`"
            yield Mutant(
                kind="command", what=what, start=start, end=start + len(text), replacement=b":"
            )


def _is_inside(before: bytes) -> bool:
    """Return whether the previous line continues in this one."""
    return re.search(rb"(\||&&|\()\s*$", before) is not None


def _edits(source: bytes, code: bytes) -> Iterator[Mutant]:
    """Yield replacements within a line."""
    for kind, pattern, group, replace in _EDITS:
        for match in pattern.finditer(code):
            start, end = match.span(group)
            old, new = source[start:end], replace(match[group])
            what = f"`{shorten(old)}` to `{shorten(new)}`" if new else f"drop `{shorten(old)}`"
            yield Mutant(kind=kind, what=what, start=start, end=end, replacement=new)


_EDITS: list[tuple[str, re.Pattern[bytes], int, Callable[[bytes], bytes]]] = [
    ("sequence", re.compile(rb"\s*&&(?=\s)"), 0, lambda _: b";"),
    ("atomic", re.compile(rb"\bmv (?:-[fT] )?(?=\S)"), 0, lambda _: b"cp "),
    ("test", re.compile(rb"(?<!\S)\[\[? (?!! )"), 0, lambda old: old + b"! "),
    ("test", re.compile(rb"(?<!\S)\[\[? (! )"), 1, lambda _: b""),
    ("test", re.compile(rb"\b(?:if|elif|while|until) (?!! |\[)"), 0, lambda old: old + b"! "),
    ("test", re.compile(rb"\b(?:if|elif|while|until) (! )"), 1, lambda _: b""),
    (
        "test",
        re.compile(rb"(?<!\S)\[\[? [^\]\n]*?(?<=\s)(!?==?|-(?:lt|le|gt|ge|eq|ne|z|n))(?=\s)"),
        1,
        lambda old: _TESTS[old],
    ),
    (
        "option",
        re.compile(rb"(?<=\S)[ ]--[a-z][a-z-]*(?:=\S+|[ ]\d+[a-z]*)?(?=\s|\)|\Z)"),
        0,
        lambda _: b"",
    ),
    ("option", re.compile(rb"\b(?:rm|mkdir|grep|ln|cp)( -[a-zA-Z]+)(?=\s)"), 1, lambda _: b""),
    ("mode", re.compile(rb"(?<=[\s0])(?:600|700|077)(?=\s|\))"), 0, lambda old: _MODES[old]),
    ("exit", re.compile(rb"\b(?:exit|return)(?: \d+)?" + _END, re.M), 0, lambda _: b":"),
]
