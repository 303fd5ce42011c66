"""A real `pulumi up` at a real API server with RBAC: in its own role, beside others' objects."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.manifests import hardening, people, pipeline
from components.taken_objects import ADOPT
from lab import toolchain
from tests.engine.rbac_server import ApiServer, Authority, api_server
from tests.engine.test_pipeline import definition
from tests.support.program import copy_program

Values = dict[str, Any]
STACK = "acting"
# As stacks/platform.py connects: `acting` is whether the stack file has the section access.
PROGRAM = """
import json
from pathlib import Path

import pulumi
import pulumi_kubernetes as k8s

from components.objects import Cluster
from components.pipeline import Pipeline, PipelineArgs
from components.taken_objects import TakenObjects

planted = json.loads(Path("planted.json").read_text())
existence = pulumi.ComponentResource("test:index:Existence", "existence")
kubeconfig = pulumi.Output.secret(planted["kubeconfig"])
taken = TakenObjects(kubeconfig, first=kubeconfig)


def connected(name, kubeconfig):
    provider = k8s.Provider(name, kubeconfig=kubeconfig, cluster_identifier="test")
    return Cluster(provider=provider, existence=existence, taken=taken)


used = kubeconfig
if planted["acting"]:
    args = PipelineArgs(administrator=connected("administrator", kubeconfig), kubeconfig=kubeconfig)
    used = Pipeline("pipeline", args).kubeconfig
cluster = connected("cluster", used)
namespaces = []
for manifest in planted["manifests"]:
    made = cluster.apply(manifest, parent=existence, after=namespaces)
    if manifest["kind"] == "Namespace":
        namespaces.append(made)
taken.refuse_at_preview()
"""
ROUTE = ("networking.istio.io", "v1beta1", "VirtualService", "virtualservices")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    folder = tmp_path_factory.mktemp("server")
    (folder / "policy.yaml").write_text(hardening.audit_policy())
    flags = ("--audit-policy-file=policy.yaml", "--audit-log-path=audit.log")
    with api_server(folder, authority, *flags) as server:
        assert server.apply(definition(*ROUTE))[0] == 201
        yield server


class Program:
    """A project with PROGRAM, whose stack has the server's cluster."""

    def __init__(self, directory: Path, server: ApiServer) -> None:
        self._directory, self._server = directory, server
        directory.mkdir()
        copy_program(directory)
        (directory / "__main__.py").write_text(PROGRAM)
        (directory / "backend").mkdir()
        (directory / f"Pulumi.{STACK}.yaml").write_text("config: {}\n")
        self._environment = {
            **toolchain.environment(),
            "PULUMI_BACKEND_URL": (directory / "backend").as_uri(),
            "PULUMI_CONFIG_PASSPHRASE": "only for this test",
        }
        self._environment.pop("PULUMI_CONFIG_PASSPHRASE_FILE", None)
        self.pulumi("stack", "init", STACK)

    def up(self, manifests: list[Values], *, acting: bool, ok: bool = True) -> str:
        self.plant(manifests, acting=acting)
        return self.pulumi("up", "--yes", "--skip-preview", "--stack", STACK, ok=ok)

    def plant(self, manifests: list[Values], *, acting: bool) -> None:
        planted = {
            "kubeconfig": self._server.administrator,
            "acting": acting,
            "manifests": manifests,
        }
        (self._directory / "planted.json").write_text(json.dumps(planted))

    def pulumi(self, *arguments: str, ok: bool = True) -> str:
        result = subprocess.run(
            ["pulumi", *arguments, "--non-interactive", "--color=never"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (result.returncode == 0) == ok, result.stdout
        return result.stdout


def manifests(weight: int) -> list[Values]:
    """A namespace with a route and a workload, and a role of a program that nordmesh installs."""
    shop = {"namespace": "shop"}
    no_wait = {"pulumi.com/skipAwait": "true"}  # nothing runs pods here
    container = {"name": "flannel", "image": "flannel"}
    pod = {"metadata": {"labels": {"app": "flannel"}}, "spec": {"containers": [container]}}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
        {
            "apiVersion": "networking.istio.io/v1beta1",
            "kind": "VirtualService",
            "metadata": {"name": "checkout", **shop},
            "spec": {"weight": weight},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"name": "flannel", **shop, "annotations": no_wait},
            "spec": {"selector": {"matchLabels": {"app": "flannel"}}, "template": pod},
        },
        people.role("flannel", [people.rule(["patch"], "", "nodes/status")]),
        people.binding("flannel", [people.subject("User", "flannel")]),
    ]


SECRET = {
    "apiVersion": "v1",
    "kind": "Secret",
    "metadata": {"name": "stolen", "namespace": "shop"},
}


def route(server: ApiServer) -> Values:
    path = "/apis/networking.istio.io/v1beta1/namespaces/shop/virtualservices/checkout"
    return server.ok("GET", path)


def acted(server: ApiServer) -> set[tuple[str, str]]:
    """The verbs and kinds of the requests in the role."""
    events = map(json.loads, (server.folder / "audit.log").read_text().splitlines())
    return {
        (event["verb"], event["objectRef"]["resource"])
        for event in events
        if event.get("impersonatedUser", {}).get("username") == pipeline.USER
        and "objectRef" in event
    }


def test_an_up_takes_its_role_and_gives_it_back(server: ApiServer, tmp_path: Path) -> None:
    program = Program(tmp_path / "program", server)
    program.up(manifests(10), acting=False)
    before = route(server)["metadata"]["uid"]
    assert not acted(server)
    # The section is added to a running stack, with an edit.
    program.plant(manifests(20), acting=True)
    program.pulumi("preview", "--stack", STACK)
    text = program.up(manifests(20), acting=True)
    assert "replace" not in text
    assert route(server)["spec"] == {"weight": 20}
    assert route(server)["metadata"]["uid"] == before
    assert ("patch", "virtualservices") in acted(server)
    assert "unchanged" in program.pulumi("preview", "--stack", STACK, "--expect-no-changes")
    # A new object, and one that the role does not have.
    with_role = [*manifests(20), people.role("nordmesh-kiali", [people.rule(["get"], "", "pods")])]
    program.up(with_role, acting=True)
    text = program.up([*with_role, SECRET], acting=True, ok=False)
    assert f'User "{pipeline.USER}" cannot' in text
    assert server.request("GET", "/api/v1/namespaces/shop/secrets/stolen")[0] == 404
    # The section is removed.
    program.up(manifests(30), acting=False)
    assert route(server)["spec"] == {"weight": 30}
    assert route(server)["metadata"]["uid"] == before
    path = f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{pipeline.NAME}"
    assert server.request("GET", path)[0] == 404


def as_manager(server: ApiServer, manifest: Values, manager: str) -> None:
    """Create an object as a program of this name does."""
    path = f"{server.path_of(manifest)}?fieldManager={manager}"
    apply = "application/apply-patch+yaml"
    assert server.request("PATCH", path, manifest, content_type=apply)[0] in (200, 201)


OTHERS = [
    {**manifest, "metadata": {**manifest["metadata"], "name": "ledger", "labels": {"a": "b"}}}
    for manifest in manifests(5)[:2]
]


def test_a_preview_names_all_objects_of_others(server: ApiServer, tmp_path: Path) -> None:
    program = Program(tmp_path / "program", server)
    program.up(manifests(5), acting=False)
    program.plant([*manifests(5), *OTHERS], acting=False)
    for manifest in OTHERS:
        as_manager(server, manifest, "helm")
    up = ("up", "--yes")
    for command in (("preview",), up):
        _, _, text = program.pulumi(*command, "--stack", STACK, ok=False).partition("Diagnostics:")
        assert text.count("[object-exists]") == 1
        assert "Namespace ledger already exists, written by helm" in text
        assert "VirtualService ledger in namespace shop already exists, written by helm" in text
        assert "checkout already exists" not in text
        assert "Traceback" not in text
    # Of a run that was killed before it wrote the state, and handed over by its owner.
    as_manager(server, OTHERS[0], "nordmesh")
    handed_over = {**OTHERS[1], "metadata": {**OTHERS[1]["metadata"], "annotations": {ADOPT: "x"}}}
    as_manager(server, handed_over, "helm")
    assert "2 created" in program.pulumi(*up, "--stack", STACK)


@pytest.mark.long
def test_a_lost_role_is_made_again_before_the_rest(server: ApiServer, tmp_path: Path) -> None:
    """As after the restore of a snapshot from before the role."""
    program = Program(tmp_path / "program", server)
    spare = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "spare"}}
    program.up([spare], acting=True)
    for manifest in reversed(pipeline.objects()):
        server.ok("DELETE", server.path_of(manifest))
    up = ("up", "--yes", "--skip-preview", "--stack", STACK, "--refresh")
    assert f'User "{pipeline.USER}" cannot' in program.pulumi(*up, ok=False)
    # As in docs/backup.md and docs/people.md.
    program.pulumi(*up, "--target", f"**::{pipeline.NAME}")
    assert "unchanged" in program.pulumi(*up, "--expect-no-changes")
