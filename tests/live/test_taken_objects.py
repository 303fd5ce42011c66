"""Objects that exist before nordmesh creates them: of another team, and of a killed run."""

import json

import pytest

from components.taken_objects import ADOPT
from lab.screen import Cluster
from tests.live.harness import Project

OTHERS = "ledger"
"""A namespace that another team has made."""


def forget(project: Project, end: str) -> None:
    """Take a resource out of the state, as if the run had been killed before it wrote it."""
    state = json.loads(project.pulumi("stack", "export").text)
    resources = state["deployment"]["resources"]
    (urn,) = (one["urn"] for one in resources if one["urn"].endswith(end))
    state["deployment"]["resources"] = [one for one in resources if one["urn"] != urn]
    for one in resources:
        one["dependencies"] = [name for name in one.get("dependencies") or [] if name != urn]
    project.pulumi("stack", "import", stdin=json.dumps(state))


def test_an_object_of_a_run_killed_before_it_wrote_the_state_is_created_again(
    project: Project, cluster: Cluster
) -> None:
    """The state has never heard of it."""
    before = cluster.items("virtualservices", "-n", "shop")
    forget(project, "VirtualService::shop/checkout")
    text = project.up().text
    assert "+ 1 created" in text, text
    after = cluster.items("virtualservices", "-n", "shop")
    assert [one["spec"] for one in after] == [one["spec"] for one in before]
    assert [one["metadata"]["uid"] for one in after] == [one["metadata"]["uid"] for one in before]


@pytest.mark.usefixtures("stack_file")
def test_a_namespace_of_another_team_is_not_taken_over(project: Project, cluster: Cluster) -> None:
    cluster.kubectl("create", "namespace", OTHERS)

    def namespace() -> dict[str, dict[str, str]]:
        (found,) = (one for one in cluster.items("ns") if one["metadata"]["name"] == OTHERS)
        return dict(found["metadata"])

    before = namespace()
    with project.config() as config:
        config["nordmesh:mesh"]["namespaces"][OTHERS] = {}
    print(project.fails("[object-exists]", f"Namespace {OTHERS} already exists"))
    assert namespace() == before

    cluster.kubectl("annotate", "namespace", OTHERS, f"{ADOPT}=joins the mesh")
    assert "+ 1 created" in project.up().text
    assert namespace()["uid"] == before["uid"]
    assert namespace()["labels"]["istio-injection"] == "enabled"
