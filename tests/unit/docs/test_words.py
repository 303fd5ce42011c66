"""Documents, code and tests are in plain English: their prose contains no phrase in `_PLAIN`.

The prose of Python is its comments, docstrings and messages; that of a shell script is all of it,
without what it substitutes. Code blocks, block quotes and words in backticks are left out: they
show what programs print.
"""

import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.paths import PROJECT

# Phrases, as regular expressions without anchors, and their replacements.
_PLAIN = {
    r"mend(s|ed|ing)?": "fix",
    r"figures?": "metric, number or value",
    r"whoever|whomever|whosoever": "anyone who",
    r"of (its|their) own": "its own, their own",
    r"as far as": "if, where",
    r"(let|lets|letting) through": "allow, waive",
    r"(let|lets) [a-z]+ in": "accept traffic from",
    r"(tell|tells|telling) of": "report",
    r"told": "report, print, or warning only",
    r"somebody|everybody": "someone, everyone",
    r"beneath": "below, under",
    r"(is|are|was|were|be) away": "unavailable",
    r"anew": "again, or new",
    r"there (is|are|was|were) none": "say what is missing",
    r"there is not here": "say what is missing",
    r"(write|writes|written|say|says) such as": "use a value such as",
    r"(this|that|it) is no(?! longer\b)": "is not a",
    r"(has|have) not(?=[\s|]*[.,;:)|]|$)": "does not have",
    r"nothing against|against (it|them)": "passed, objection",
    r"(held|holds) against": "check against, compare with",
    r"(be|is|are) (had|rid)( back| of)?": "get, restore, remove",
    r"not else": "not otherwise",
    r"all the same": "anyway",
    r"besides(?=\s*[.,;:)])": "in addition",
    r"at the (node|hypervisor)": "on the node, for the node",
    r"(go|goes|went) on (where|with|as|from|after)": "continue",
    r"plays? through|played through|play it through": "dry run, try",
    r"(seen|found) to differ": "drift",
    r"the guides": "say which guide",
    r"(there|here|where)(by|in|of|to|upon|with)": "a plain word",
    r"lest|hitherto|henceforth|nought|amongst|whilst|unto": "a plain word",
}
_PATTERNS = {
    re.compile(r"\b(?:" + phrase.replace(" ", r"\s+") + r")(?!\w)", re.I): instead
    for phrase, instead in _PLAIN.items()
}


def prose_of_markdown(text: str) -> str:
    """Blank out everything but prose, and keep the line numbers."""
    for code in (
        r"^(?P<quote>(?:> )? *)```.*?^(?P=quote)```$",
        r"^>.*?$",
        r"(?P<tick>`+)(?!`)(?:(?!\n\s*\n|\n\|).)+?(?<!`)(?P=tick)(?!`)",
        r"(?<=\])\([^)\s]+\)",
    ):
        text = re.sub(code, _blank, text, flags=re.M | re.S)
    return text


def prose_of_python(text: str) -> str:
    """Blank out everything but comments and strings, and keep the line numbers."""
    lines = [[" "] * len(line) for line in text.split("\n")]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.STRING):
            continue
        body = token.string
        if token.type == tokenize.STRING and "f" in body.partition(body[-1])[0].lower():
            body = re.sub(r"\{[^{}]*\}", _blank, body)
        for number, text_line in enumerate(body.split("\n")):
            start = token.start[1] if number == 0 else 0
            lines[token.start[0] - 1 + number][start : start + len(text_line)] = text_line
    joined = "\n".join("".join(line) for line in lines)
    return _without_marks(re.sub(r"`[^`]+`", _blank, joined))


def prose_of_shell(text: str) -> str:
    """Blank out what a script substitutes, and code in its comments; keep the line numbers."""
    return _without_marks(re.sub(r"`[^`\n]+`|\$\{[^}\n]*\}|\$\w+", _blank, text))


def _without_marks(text: str) -> str:
    """Blank out the # of comments: a phrase may go over two lines of them."""
    return re.sub(r"^( *)#", r"\1 ", text, flags=re.M)


def _blank(code: re.Match[str]) -> str:
    return re.sub(r"\S", "_", code[0])


_CODE = ("ci", "cli", "components", "config", "lab", "policy", "stacks", "tests")
# Files to check, and the function that extracts their prose.
_SOURCES: dict[str, Callable[[str], str]] = {
    "*.md": prose_of_markdown,
    "docs/**/*.md": prose_of_markdown,
    "*.py": prose_of_python,
    **{f"{folder}/**/*.py": prose_of_python for folder in _CODE},
    **{f"{folder}/**/*.sh": prose_of_shell for folder in _CODE},
}


def complaints(prose: str) -> Iterator[str]:
    """Yield a message for each phrase that is not plain, with its line number."""
    for pattern, instead in _PATTERNS.items():
        for match in pattern.finditer(prose):
            line = prose.count("\n", 0, match.start()) + 1
            phrase = " ".join(match[0].split())
            yield f'{line}: "{phrase}": instead: {instead}'


def sources() -> list[tuple[str, Callable[[str], str]]]:
    """List the files to check, relative to the project, each with the reader of its prose."""
    return [
        (str(path.relative_to(PROJECT)), prose_of)
        for pattern, prose_of in _SOURCES.items()
        for path in sorted(PROJECT.glob(pattern))
        if path != Path(__file__)
    ]


@pytest.mark.parametrize(("source", "prose_of"), sources())
def test_prose_is_plain(source: str, prose_of: Callable[[str], str]) -> None:
    prose = prose_of((PROJECT / source).read_text())
    messages = [f"{source}:{complaint}" for complaint in complaints(prose)]
    assert not messages, "\n".join(messages)


@pytest.mark.parametrize(
    "text",
    [
        "Then mend\nthem.",
        "An office of\nits own.",
        "| key | only told: more than 1 |",
        "A tool that the machine has not.",
        "Whoever reads [this](x.md).",
        "```sh\nmake\n```\nDo it anew.\n```sh\nmake\n```",
        "the `figures` and the figures",
        "a ` b\n\nmend it\n\nc ` d",
    ],
)
def test_a_phrase_that_is_not_plain_is_reported(text: str) -> None:
    assert len(list(complaints(prose_of_markdown(text)))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "```text\nmend it\n```",
        "> mend it\n> ```sh\n> mend\n> ```",
        "1. A list:\n   ```sh\n   mend\n   ```",
        "Run `mend\nit`.",
        "| ``a ` b`` | c |\n| `mend` | d |",
        "| a ` b |\n| `mend` | d |",
        "[a page](figures.md)",
        "A node that has not joined; an amendment; use it as it is.",
    ],
)
def test_code_and_plain_words_are_accepted(text: str) -> None:
    assert not list(complaints(prose_of_markdown(text)))


def test_a_phrase_is_reported_with_its_line() -> None:
    text = "```sh\nmake\n```\n\nThen fix\nor mend it.\n"
    assert [c.partition(":")[0] for c in complaints(prose_of_markdown(text))] == ["6"]


def test_comments_docstrings_and_messages_of_code_are_checked() -> None:
    text = (
        'def mend(found: str) -> None:\n    """Tell of it."""\n'
        '    figures = f"{found}: write such as {figures}"  # mend as far\n'
        '    # as it\n    """`anew`\n\n    anew"""\n'
    )
    lines = sorted(
        complaint.partition(": instead")[0] for complaint in complaints(prose_of_python(text))
    )
    expected = ['2: "Tell of"', '3: "as far as"', '3: "mend"', '3: "write such as"', '7: "anew"']
    assert lines == expected


def test_comments_and_messages_of_a_script_are_read() -> None:
    text = (
        '#!/bin/bash\n# Tell of it, not `anew`.\nfail no-file "mend $figures and ${figures}"\n'
        "cat <<END\nIt is no longer anew.\nEND\n"
    )
    lines = sorted(
        complaint.partition(": instead")[0] for complaint in complaints(prose_of_shell(text))
    )
    assert lines == ['2: "Tell of"', '3: "mend"', '5: "anew"']


@pytest.mark.parametrize("folder", ["cli", "components", "lab"])
def test_scripts_and_programs_of_every_folder_are_read(folder: str) -> None:
    endings = {
        source.rpartition(".")[2] for source, _ in sources() if source.startswith(f"{folder}/")
    }
    assert endings == {"py", "sh"}
