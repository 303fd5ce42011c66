"""Documents: commands are tried or explain why not, and named files and targets exist."""

import re
import subprocess
from urllib.parse import unquote

import pytest

from tests.support import documented
from tests.support.documented import Block
from tests.support.paths import PROJECT

_LANGUAGES = {*documented.COMMANDS, "yaml", "text", "mermaid", "sql"}


def block(text: str, language: str = "sh") -> Block:
    return Block(document="x.md", line=1, language=language, text=text, how="", what=())


@pytest.fixture(params=documented.documents())
def document(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def test_each_command_is_tried_or_explains_why_not(document: str) -> None:
    for command_block in documented.blocks(document):
        assert command_block.language in _LANGUAGES, (
            f"{command_block}: name the language of the block"
        )
        if not command_block.has_commands:
            wrong = re.findall(r"^(?:\$ |make |pulumi |kubectl ).*", command_block.text, re.M)
            assert not wrong, f"{command_block}: put commands into a block of sh or console"
            continue
        assert command_block.how, (
            f"{command_block}: no comment in the line above says how this is tried"
        )
        if command_block.how == "tried":
            runner, *how = command_block.what
            is_test = runner.startswith("tests/") and (PROJECT / runner).is_file()
            assert runner in ("engine", "lab") or is_test, command_block
            assert set(how) <= {"fails", "meanwhile", "as shown"}, command_block
        else:
            assert len(" ".join(command_block.what)) > 20, (
                f"{command_block}: say why it is not tried"
            )


def test_commands_in_documents_exist(document: str) -> None:
    wrong = [
        f"{command_block}: {complaint}"
        for command_block in documented.blocks(document)
        if command_block.has_commands
        for complaint in documented.stale(command_block)
    ]
    assert not wrong


def test_files_and_targets_in_prose_exist(document: str) -> None:
    text = (PROJECT / document).read_text()
    targets = set(re.findall(r"`make ([a-z-]+)", text))
    assert targets <= documented.make_targets()
    folders = "ci|cli|components|config|docs|examples|lab|policy|schema|stacks|tests"
    paths = set(re.findall(rf"`((?:{folders})/[\w./-]+)`", text))
    assert [name for name in sorted(paths) if not (PROJECT / name).exists()] == []


def test_named_tests_exist(document: str) -> None:
    text = (PROJECT / document).read_text()
    for file, test in re.findall(r"`(tests/[\w/.]+\.py)::(\w+)", text):
        assert f"\ndef {test}(" in (PROJECT / file).read_text(), f"{document}: {file}::{test}"


def test_links_resolve(document: str) -> None:
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
    """The anchors that GitHub generates from headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exit_statuses(name: str) -> dict[str, str]:
    """The meanings in a document's tables of exit statuses."""
    text = (PROJECT / name).read_text()
    tables = re.findall(r"^\| exit status \| meaning \|\n\|---\|---\|\n((?:\|.+\n)+)", text, re.M)
    return dict(re.findall(r"^\| (\d+) \| (.+) \|$", "".join(tables), re.M))


def test_an_exit_status_is_used_as_the_page_of_commands_says() -> None:
    usual = exit_statuses("docs/commands.md")
    assert usual.keys() == {"0", "1", "2", "3", "130"}
    for name in documented.documents():
        of_page = exit_statuses(name)
        assert of_page.keys() <= usual.keys(), name
        assert of_page.get("2", usual["2"]) == usual["2"], name


def test_every_document_is_linked_from_the_readme() -> None:
    reached, queue = set(), ["README.md"]
    while queue:
        name = queue.pop()
        if name in reached:
            continue
        reached.add(name)
        for target in re.findall(r"\]\(([^)#\s:]+\.md)", (PROJECT / name).read_text()):
            path = ((PROJECT / name).parent / target).resolve()
            if path.exists():
                queue.append(str(path.relative_to(PROJECT)))
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
def test_a_stale_command_is_reported(text: str, complaint: str | None) -> None:
    complaints = list(documented.stale(block(text)))
    assert bool(complaints) == (complaint is not None), complaints
    assert complaint is None or complaint in complaints[0]


def test_commands_in_a_console_block() -> None:
    text = "$ nordmesh explain \\\n    --stack prod\nmesh: ...\n$ pulumi preview\n"
    console = block(text, "console")
    assert console.commands == "nordmesh explain \\\n    --stack prod\npulumi preview\n"
    assert console.shown == ["mesh: ..."]


# Hosts of package registries, split into labels. Prose uses their names: PyPI, the Go module
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
    # go.sum and go.mod list modules, and some module names contain these hosts.
    hosts = [argument for labels in _REGISTRIES for argument in ("-e", ".".join(labels))]
    command = ["git", "grep", "-I", "-n", "-F", *hosts, "--", ".", ":!*/go.sum", ":!*/go.mod"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode in (0, 1), result.stderr
    assert result.stdout == ""
