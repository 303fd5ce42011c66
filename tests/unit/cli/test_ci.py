"""CI: the stacks that a commit affects, the pull request comment, and the pipeline files."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml

from cli.ci import affected
from config.errors import NordmeshError
from lab import paths, programs
from tests.unit.commands import nordmesh

WORKFLOWS = sorted((paths.PROJECT / ".github").rglob("*.yaml"))
TOKEN = "s3cret-token"  # noqa: S105


# --- affected stacks ---------------------------------------------------------------------------


def git(directory: Path, *arguments: str) -> str:
    author = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    result = subprocess.run(
        ["git", *author, *arguments], cwd=directory, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def stack(provider: str) -> str:
    nodes = {"cp-1": {"role": "control-plane", "provider": provider}}
    return yaml.safe_dump({"config": {"nordmesh:machines": {"nodes": nodes}}})


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit: a lab and two stacks of bought machines."""
    for name, provider in (("local", "container"), ("staging", "existing"), ("prod", "existing")):
        (tmp_path / f"Pulumi.{name}.yaml").write_text(stack(provider))
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "begin")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "stacks"),
    [
        ("Pulumi.prod.yaml", ["prod"]),
        ("Pulumi.local.yaml", []),
        ("docs/new.md", []),
        ("components/new.py", ["prod", "staging"]),
        ("config/new.py", ["prod", "staging"]),
        ("cli/new.py", []),
        ("stacks/artifacts.lock.json", ["prod", "staging"]),
        ("policy/pack.py", ["prod", "staging"]),
        ("Pulumi.yaml", ["prod", "staging"]),
        ("tests/cli/new.py", []),
    ],
)
def test_stacks_that_a_commit_affects(
    repository: Path, changed: str, stacks: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    base = git(repository, "rev-parse", "HEAD")
    path = repository / changed
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write("# changed\n")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "--message", "change")
    assert nordmesh(repository, "ci", "affected", base) == 0
    assert json.loads(capsys.readouterr().out) == stacks


@pytest.mark.parametrize("mark", [True, "true"])
def test_an_example_stack_is_never_deployed(
    repository: Path, mark: object, capsys: pytest.CaptureFixture[str]
) -> None:
    path = repository / "Pulumi.prod.yaml"
    document = yaml.safe_load(stack("existing"))
    document["config"]["nordmesh-ci:example"] = mark
    path.write_text(yaml.safe_dump(document))
    assert nordmesh(repository, "ci", "affected") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == ["staging"]
    assert "Pulumi.prod.yaml" in captured.err
    assert affected.affected(repository, ["Pulumi.prod.yaml", "Pulumi.yaml"]) == ["staging"]


def test_shipped_stacks_are_examples_or_the_lab(capsys: pytest.CaptureFixture[str]) -> None:
    files = git(paths.PROJECT, "ls-files", "Pulumi.*.yaml").splitlines()
    shipped = {name.split(".")[1] for name in files}
    assert not shipped & set(affected.deployed(paths.PROJECT))
    for name, kind in (("prod", "example"), ("staging", "example"), ("local", "lab")):
        assert nordmesh(paths.PROJECT, "ci", "kind", name) == 0
        assert capsys.readouterr().out == f"{kind}\n"


def test_a_stack_with_a_pulumi_environment_is_deployed(tmp_path: Path) -> None:
    (tmp_path / "Pulumi.prod.yaml").write_text("environment: [mesh-prod]\n")
    assert affected.deployed(tmp_path) == ["prod"]


def test_an_unknown_stack_has_no_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert nordmesh(paths.PROJECT, "ci", "kind", "nope") == 1
    assert capsys.readouterr().out == ""


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A checkout with the pipelines' scripts and fake programs that record their calls."""
    shutil.copytree(paths.PROJECT / "ci", tmp_path / "ci")
    for name in ("prod", "staging"):
        shutil.copy2(paths.PROJECT / f"Pulumi.{name}.yaml", tmp_path)
    for name, text in (
        ("lab/bootstrap.sh", "#!/bin/sh\n"),
        ("bin/pulumi", '#!/bin/sh\necho "pulumi $*" >>"$RUN"\n'),
        (
            ".venv/bin/python",
            "#!/bin/sh\n"
            f'[ "$3" = ci ] && exec {sys.executable} "$@"\n'
            'echo "python $*" | tee -a "$RUN"\n',
        ),
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return tmp_path


def run_step(pipeline: Path, *command: str) -> tuple[int, str, str]:
    """Run a script of ci/; return its exit status, its output and the recorded calls."""
    log = pipeline / "run.log"
    log.write_text("")
    environment = {
        "PATH": f"{pipeline}/bin:{os.environ['PATH']}",
        "PYTHONPATH": f"{pipeline}:{paths.PROJECT}",
        "RUN": str(log),
        "BACKUP_KEY": "AGE-SECRET-KEY-1",
    }
    result = subprocess.run(
        command, cwd=pipeline, env=environment, capture_output=True, text=True, check=False
    )
    return result.returncode, result.stdout + result.stderr, log.read_text()


STEPS = [
    ("ci/up.sh", "prod"),
    *((f"ci/{name}.sh", "prod", "r.md") for name in ("preview", "drift", "backup")),
]


@pytest.mark.parametrize("step", STEPS, ids=[step[0] for step in STEPS])
def test_a_step_skips_an_example(pipeline: Path, step: tuple[str, ...]) -> None:
    status, output, calls = run_step(pipeline, *step)
    assert (status, calls) == (0, "")
    assert "nordmesh-ci:example" in output
    if len(step) > 2:
        assert "is an example" in (pipeline / step[2]).read_text()


@pytest.mark.parametrize("step", STEPS, ids=[step[0] for step in STEPS])
def test_a_step_runs_after_the_example_mark_is_removed(
    pipeline: Path, step: tuple[str, ...]
) -> None:
    path = pipeline / "Pulumi.prod.yaml"
    path.write_text(path.read_text().replace("nordmesh-ci:example: true", ""))
    status, output, calls = run_step(pipeline, *step)
    assert status == 0, output
    assert "--stack prod" in calls


def test_the_nightly_proof_has_the_key_in_a_file_of_its_own(pipeline: Path) -> None:
    path = pipeline / "Pulumi.prod.yaml"
    text = path.read_text().replace("nordmesh-ci:example: true", "")
    path.write_text(text)
    status, output, calls = run_step(pipeline, "ci/backup.sh", "prod", "r.txt")
    assert status == 0, output
    (call,) = (line for line in calls.splitlines() if " backup check " in line)
    assert call.endswith(" --compare")
    identity = Path(call.partition("--identity ")[2].split()[0])
    assert not identity.exists()
    assert "AGE-SECRET-KEY" not in output + calls
    path.write_text(text.replace("nordmesh:backup:", "nordmesh:other:"))
    status, output, calls = run_step(pipeline, "ci/backup.sh", "prod", "r.txt")
    assert (status, calls) == (0, "")
    assert "no snapshot is stored" in output


def test_a_step_on_an_unknown_stack_fails(pipeline: Path) -> None:
    status, output, calls = run_step(pipeline, "ci/up.sh", "nope")
    assert status != 0
    assert calls == ""
    assert "Pulumi.nope.yaml" in output


def test_commits_merged_meanwhile_affect_no_stack(repository: Path) -> None:
    base = git(repository, "rev-parse", "HEAD")
    git(repository, "checkout", "--quiet", "-b", "other")
    (repository / "Pulumi.prod.yaml").write_text(stack("existing") + "# changed\n")
    git(repository, "commit", "--quiet", "--all", "--message", "other")
    assert affected.changed_since(repository, base) == ["Pulumi.prod.yaml"]
    git(repository, "checkout", "--quiet", "-b", "mine", base)
    assert affected.changed_since(repository, "other") == []


@pytest.mark.parametrize("base", [[], [""], ["0" * 40]])
def test_all_stacks_are_affected_without_a_base_commit(
    repository: Path,
    base: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    assert nordmesh(repository, "ci", "affected", *base) == 0
    assert capsys.readouterr().out == '["prod", "staging"]\n'
    assert (tmp_path / "output").read_text() == 'stacks=["prod", "staging"]\n'


def test_an_unknown_base_commit_is_an_error(repository: Path) -> None:
    with pytest.raises(NordmeshError, match="fetch the whole history"):
        affected.changed_since(repository, "1" * 40)


# --- the comment -------------------------------------------------------------------------------


class Forge(HTTPServer):
    """A fake GitHub and GitLab API that stores comments."""

    def __init__(self, comments: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments = comments
        self.requests: list[str] = []
        self.status = 200


class Handler(BaseHTTPRequestHandler):
    server: Forge

    def _answer(self, content: object) -> None:
        if TOKEN not in f"{self.headers['Authorization']} {self.headers['PRIVATE-TOKEN']}":
            self.server.status = 401
        self.send_response(self.server.status)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def _note(self) -> dict[str, Any]:
        self.server.requests.append(f"{self.command} {self.path}")
        length = int(self.headers["Content-Length"] or 0)
        body: dict[str, Any] = json.loads(self.rfile.read(length) or "{}")
        return body

    def do_GET(self) -> None:
        self._note()
        page = int(self.path.rpartition("page=")[2])
        self._answer(self.server.comments[(page - 1) * 100 : page * 100])

    def do_POST(self) -> None:
        body = {"id": len(self.server.comments), "user": {"type": "Bot"}, **self._note()}
        self.server.comments.append(body)
        self._answer(body)

    def do_PATCH(self) -> None:
        body = self._note()
        self.server.comments[int(self.path.rpartition("/")[2])] |= body
        self._answer(body)

    do_PUT = do_PATCH

    def log_message(self, *_: object) -> None:
        """Keep the test output clean."""


@pytest.fixture
def forge() -> Iterator[Forge]:
    talk = [
        {"id": number, "user": {"type": "User"}, "body": f"talk {number}"} for number in range(150)
    ]
    talk[3]["body"] = "<!-- nordmesh preview of prod -->\nnot ours"
    server = Forge(talk)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def github(forge: Forge) -> dict[str, str]:
    return {
        "GITHUB_API_URL": f"http://127.0.0.1:{forge.server_port}",
        "GITHUB_REPOSITORY": "team/mesh",
        "GITHUB_TOKEN": TOKEN,
        "PULL_REQUEST": "7",
    }


def gitlab(forge: Forge) -> dict[str, str]:
    return {
        "CI_API_V4_URL": f"http://127.0.0.1:{forge.server_port}",
        "CI_PROJECT_ID": "12",
        "CI_MERGE_REQUEST_IID": "7",
        "GITLAB_TOKEN": TOKEN,
    }


@pytest.mark.parametrize(
    ("environment", "new", "old"),
    [
        (
            github,
            "POST /repos/team/mesh/issues/7/comments",
            "PATCH /repos/team/mesh/issues/comments/150",
        ),
        (
            gitlab,
            "POST /projects/12/merge_requests/7/notes",
            "PUT /projects/12/merge_requests/7/notes/150",
        ),
    ],
)
def test_each_stack_has_one_comment_that_is_updated(
    forge: Forge, tmp_path: Path, environment: Any, new: str, old: str
) -> None:
    if environment is gitlab:
        forge.comments[3]["body"] = "talk 3"
    summary = tmp_path / "summary.md"
    for text, name in (("first", "prod"), ("second", "prod"), ("other", "staging")):
        summary.write_text(text)
        assert post(name, summary, environment(forge)) == 0
    writes = [request for request in forge.requests if not request.startswith("GET")]
    assert writes == [new, old, new]
    assert [note["body"].partition("\n")[2] for note in forge.comments[150:]] == ["second", "other"]
    assert forge.comments[3]["body"] != "second"


def post(stack: str, summary: Path, environment: Mapping[str, str]) -> int:
    """Post a summary to the pull request that the environment names."""
    with patch.dict(os.environ, environment, clear=True):
        return nordmesh(summary.parent, "ci", "comment", stack, str(summary))


def test_a_refused_comment_is_reported_without_the_token(
    forge: Forge, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("text")
    forge.status = 403
    assert post("prod", summary, github(forge)) == 1
    error = capsys.readouterr().err
    assert "answers 403" in error
    assert TOKEN not in error
    assert post("prod", summary, {"CI_API_V4_URL": "x"}) == 1
    assert "has no CI_PROJECT_ID" in capsys.readouterr().err


# --- previews without secrets -----------------------------------------------------------------


def test_strip_secrets_removes_encrypted_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "Pulumi.prod.yaml"
    config = {
        "nordmesh:mesh": {"mtls": "STRICT"},
        "nordmesh:istio": {"version": "1.16.5", "values": {"token": {"secure": "v1:x"}}},
        "nordmesh:sshPrivateKey": {"secure": "v1:y"},
        "other:token": {"secure": "v1:z"},
    }
    path.write_text(yaml.safe_dump({"config": config, "encryptionsalt": "v1:s"}))
    assert nordmesh(tmp_path, "ci", "strip-secrets", str(path)) == 0
    assert yaml.safe_load(path.read_text()) == {
        "config": {
            "nordmesh:istio": {"version": "1.16.5", "values": {}},
            "nordmesh:mesh": {"mtls": "STRICT"},
        }
    }
    assert "nordmesh:istio.values.token" in capsys.readouterr().err


def test_each_new_key_is_different(capsys: pytest.CaptureFixture[str]) -> None:
    assert nordmesh(paths.PROJECT, "ci", "new-key") == 0
    first = capsys.readouterr().out
    assert first.startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    nordmesh(paths.PROJECT, "ci", "new-key")
    assert capsys.readouterr().out != first


# --- pipeline files ---------------------------------------------------------------------------


def used_files(text: str) -> set[str]:
    """The files of the checkout that a pipeline runs."""
    modules = {f"{name.replace('.', '/')}.py" for name in re.findall(r"-m (ci\.\w+)", text)}
    return modules | set(re.findall(r"\b(?:ci|lab)/[\w-]+\.sh", text))


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_actions_are_pinned_and_scripts_exist(path: Path) -> None:
    text = path.read_text()
    for use in re.findall(r"uses: (.*)", text):
        assert use.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", use), use
    for name in used_files(text):
        assert (paths.PROJECT / name).is_file(), name
    assert "pull_request_target" not in text


def test_each_action_has_one_version() -> None:
    uses = {use for path in WORKFLOWS for use in re.findall(r"uses: (.*@.*)", path.read_text())}
    assert len({use.partition("@")[0] for use in uses}) == len(uses)


def test_workflows_have_read_permissions_only() -> None:
    for path in (paths.PROJECT / ".github" / "workflows").glob("*.yaml"):
        workflow = yaml.safe_load(path.read_text())
        assert workflow["permissions"] == {"contents": "read"}
        for name, job in workflow["jobs"].items():
            assert job["timeout-minutes"] <= 120
            checkout = job["steps"][0]
            assert checkout["uses"].startswith("actions/checkout@")
            assert checkout["with"]["persist-credentials"] is False
            if "environment" not in job:
                assert "secrets." not in json.dumps(job), f"{path.name} {name}"
                assert "permissions" not in job


def test_strip_secrets_replaces_those_that_a_preview_checks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver = {"webhook": {"host": "a.example.no"}, "heartbeat": {"host": "b.no", "port": 8443}}
    names = ("alertWebhookUrl", "alertHeartbeatUrl", "alertSmtpPassword", "sshPrivateKey")
    secrets = {f"nordmesh:{name}": {"secure": "v1:x"} for name in names}
    observability = {"nordmesh:observability": {"alertmanager": receiver}}
    path = tmp_path / "Pulumi.prod.yaml"
    path.write_text(yaml.safe_dump({"config": {**secrets, **observability}}))
    assert nordmesh(tmp_path, "ci", "strip-secrets", str(path)) == 0
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "nordmesh:alertHeartbeatUrl https://b.no:8443/",
        "nordmesh:alertSmtpPassword unused",
        "nordmesh:alertWebhookUrl https://a.example.no:443/",
    ]
    assert yaml.safe_load(path.read_text()) == {"config": observability}


def test_a_fork_gets_no_secrets_and_no_private_runner() -> None:
    path = paths.PROJECT / ".github" / "workflows" / "preview.yaml"
    jobs = yaml.safe_load(path.read_text())["jobs"]
    assert "head.repo.full_name == github.repository" in jobs["preview"]["if"]
    assert "head.repo.full_name != github.repository" in jobs["fork"]["if"]
    for words in ("secrets", "vars", "environment", "token"):
        assert words not in json.dumps(jobs["fork"])
    assert jobs["fork"]["runs-on"] == "ubuntu-24.04"


def test_up_has_a_concurrency_group_and_a_protected_environment() -> None:
    path = paths.PROJECT / ".github" / "workflows" / "up.yaml"
    up = yaml.safe_load(path.read_text())["jobs"]["up"]
    assert up["environment"] == "${{ matrix.stack }}"
    assert up["concurrency"] == {"group": "up-${{ matrix.stack }}", "cancel-in-progress": False}


def test_pipelines_use_the_pinned_pulumi() -> None:
    action = (paths.PROJECT / ".github/actions/tools/action.yaml").read_text()
    assert f"pulumi-version: {programs.PULUMI}\n" in action
    gitlab_file = (paths.PROJECT / ".gitlab-ci.yml").read_text()
    assert f"image: pulumi/pulumi-python:{programs.PULUMI}\n" in gitlab_file


def test_gitlab_has_jobs_for_each_stack(tmp_path: Path) -> None:
    # A team removes the example mark from its own stacks. The rest of a file makes no difference.
    for path in paths.PROJECT.glob("Pulumi.*.yaml"):
        machines = yaml.safe_load(path.read_text())["config"]["nordmesh:machines"]
        content = {"config": {"nordmesh:machines": machines}}
        (tmp_path / path.name).write_text(yaml.safe_dump(content))
    text = (paths.PROJECT / ".gitlab-ci.yml").read_text()
    pipeline = yaml.safe_load(text)
    for name in used_files(text):
        assert (paths.PROJECT / name).is_file(), name
    assert {"prod", "staging"} <= set(affected.deployed(tmp_path))
    for name in affected.deployed(tmp_path):
        for kind in ("preview", "fork", "up", "drift", "backup"):
            job = pipeline[f"{kind} {name}"]
            assert job["extends"] == f".{kind}"
            assert job["variables"] == {"STACK": name}
            assert pipeline[f".{kind}"]["stage"] in pipeline["stages"]
            for rule in job.get("rules", ()):
                assert affected.affected(tmp_path, [rule["changes"][0]]) == [name]
                for pattern in rule["changes"][1:]:
                    file = pattern.replace("**/*", "any")
                    assert name in affected.affected(tmp_path, [file])
    assert pipeline[".up"]["resource_group"] == "up-$STACK"
    assert (
        "$CI_MERGE_REQUEST_SOURCE_PROJECT_ID != $CI_MERGE_REQUEST_PROJECT_ID"
        in (pipeline["fork prod"]["rules"][0]["if"])
    )
