"""The documents: each command is tried or says why not, and what they name is there."""

import re
import subprocess
from urllib.parse import unquote

import pytest

from tests.support import documented
from tests.support.documented import PROJECT, Block

_LANGUAGES = {*documented.COMMANDS, "yaml", "text", "mermaid", "sql"}


def block(text: str, language: str = "sh") -> Block:
    return Block(document="x.md", line=1, language=language, text=text, how="", what=())


@pytest.fixture(params=documented.documents())
def document(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_each_command_is_tried_or_says_why_not(document: str) -> None:
    for found in documented.blocks(document):
        assert found.language in _LANGUAGES, f"{found}: name the language of the block"
        if not found.has_commands:
            wrong = re.findall(r"^(?:\$ |make |pulumi |kubectl ).*", found.text, re.M)
            assert not wrong, f"{found}: commands belong into a block of sh or console"
            continue
        assert found.how, f"{found}: no comment in the line above says how this is tried"
        if found.how == "tried":
            by, *how = found.what
            is_test = by.startswith("tests/") and (PROJECT / by).is_file()
            assert by in ("engine", "lab") or is_test, found
            assert set(how) <= {"fails", "meanwhile", "as shown"}, found
        else:
            assert len(" ".join(found.what)) > 20, f"{found}: say why it is not tried"


def test_what_commands_name_is_there(document: str) -> None:
    wrong = [
        f"{found}: {complaint}"
        for found in documented.blocks(document)
        if found.has_commands
        for complaint in documented.stale(found)
    ]
    assert not wrong


def test_what_sentences_name_is_there(document: str) -> None:
    text = (PROJECT / document).read_text()
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    assert targets <= documented.make_targets()
    folders = "ci|cli|components|config|docs|examples|lab|policy|schema|stacks|tests"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text))
    assert [name for name in sorted(named) if not (PROJECT / name).exists()] == []


def test_links_lead_somewhere(document: str) -> None:
    text = (PROJECT / document).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (PROJECT / document).parent / unquote(name) if name else PROJECT / document
        assert path.exists(), f"{document}: {target}"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{document}: {target}"


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_document_is_reached_from_the_readme() -> None:
    reached, left = set(), ["README.md"]
    while left:
        name = left.pop()
        if name in reached:
            continue
        reached.add(name)
        for target in re.findall(r"\]\(([^)#\s:]+\.md)", (PROJECT / name).read_text()):
            path = ((PROJECT / name).parent / target).resolve()
            if path.exists():
                left.append(str(path.relative_to(PROJECT)))
    assert set(documented.documents()) - reached == set()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("nordmesh review --stack prod\n", None),
        ("make statsu STACK=prod\n", "make statsu"),
        ("nordmesh report egress --stack prod\n", None),
        ("nordmesh report egress --stak prod\n", "nordmesh report egress --stak"),
        ("nordmesh reprot egress --stack prod\n", "nordmesh reprot"),
        (
            "nordmesh canary advance checkout --limit 5\n",
            "nordmesh canary advance checkout --limit",
        ),
        ("python -m stacks.reports egress\n", "python -m stacks.reports"),
        ("ci/preview.sh prod summary.md\n", None),
        ("ci/previews.sh prod summary.md\n", "ci/previews.sh"),
        ("umask 077; pulumi stack output kubeconfig > kubeconfig.yaml\n", None),
        ("kubctl get nodes\n", "kubctl"),
        ("if nordmesh review\n", "syntax error"),
    ],
)
def test_a_stale_command_is_found(text: str, complaint: str | None) -> None:
    found = list(documented.stale(block(text)))
    assert bool(found) == (complaint is not None), found
    assert complaint is None or complaint in found[0]


def test_the_commands_of_a_console() -> None:
    text = "$ nordmesh explain \\\n    STACK=prod\nmesh: ...\n$ pulumi preview\n"
    console = block(text, "console")
    assert console.commands == "nordmesh explain \\\n    STACK=prod\npulumi preview\n"
    assert console.shown == ["mesh: ..."]


# Hosts of package registries, in labels. Texts call them by their plain name: PyPI, the Go module
# proxy, npm.
_REGISTRIES = (
    ("proxy", "golang", "org"),
    ("sum", "golang", "org"),
    ("pypi", "org"),
    ("pythonhosted", "org"),
    ("registry", "npmjs", "org"),
    ("crates", "io"),
    ("rubygems", "org"),
    ("repo1", "maven", "org"),
    ("repo", "maven", "apache", "org"),
    ("deb", "debian", "org"),
)


def test_no_file_names_the_host_of_a_package_registry() -> None:
    # Fixed strings; a go.sum names modules, some of which are called after a proxy.
    hosts = [argument for labels in _REGISTRIES for argument in ("-e", ".".join(labels))]
    command = ["git", "grep", "-I", "-n", "-F", *hosts, "--", ".", ":!*/go.sum", ":!*/go.mod"]
    found = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert found.returncode in (0, 1), found.stderr
    assert found.stdout == ""
