"""The documented commands that need a cluster, run on the shared lab and reverted."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import paths
from lab.screen import Cluster
from tests.live.harness import Project
from tests.support import documented
from tests.support.documented import Shell


@pytest.fixture
def shell(project: Project, cluster: Cluster, tmp_path: Path) -> Iterator[Shell]:
    """Shell in a second copy of the checkout, with the same stack, state and lab."""
    directory = tmp_path / "nordmesh"
    documented.copy_checkout(directory)
    shutil.copytree(project.directory / ".lab", directory / ".lab")
    shutil.copy2(project.stack_file, directory)
    documented.commit(directory)
    names = {"PULUMI_STACK": project.stack, "STACK": project.stack}
    kubeconfig = {"KUBECONFIG": str(cluster.kubeconfig)}
    tools = [str(paths.cache().bin / group) for group in ("kubernetes", "istio")]
    environment = project.environment() | names | kubeconfig
    environment["PATH"] = os.pathsep.join([*tools, environment["PATH"]])
    del environment["PYTHONPATH"]
    stacks = dict.fromkeys(("local", "prod"), project.stack)
    try:
        with Shell(directory, environment, stacks) as shell:
            yield shell
    finally:
        project.up()


@pytest.mark.parametrize("document", documented.tried_with("lab"))
def test_documented_commands_work_on_a_cluster(document: str, shell: Shell) -> None:
    for block in documented.blocks(document):
        if block.is_tried_with("lab"):
            shell.run(block)
