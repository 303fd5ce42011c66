"""The preview of a large new stack, compared with a bare program with as many resources.

There are no nodes and no cluster, so nothing is contacted.
"""

import json
import shutil
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from lab.errors import LabError
from tests.bench.bench_lab import Say
from tests.bench.ratios import Ratio, Timed, in_turn, timed
from tests.live.harness import Project
from tests.support.program import copy_program

NODES, SERVICES, MOST_SERVICES = 50, 200, 500
LIMIT = 1.3
GROWTH_LIMIT = 1.15
"""A service may take so much longer among MOST_SERVICES than among SERVICES: linear, with noise."""

_PER_NAMESPACE = 10
_PROGRAM = Path(__file__).with_name("bare") / "large"


def measure(lab: Project, *, pairs: int, say: Say) -> list[Ratio]:
    """Compare the preview with a bare one, and measure the cost of a service in a larger stack.

    lab: a project whose backend and artifacts are used; its lab may be up or not.
    """
    with (
        _large(lab, 0) as none,
        _large(lab, SERVICES) as some,
        _large(lab, MOST_SERVICES) as most,
        _bare(lab, some) as bare,
    ):
        ours, theirs = _in_turn((some, bare), pairs, say)
        say(f"without services, with {SERVICES} and with {MOST_SERVICES}")
        base, fewer, more = _in_turn((none, some, most), pairs, say)
    preview = Ratio(
        name=f"preview of {NODES} nodes and {SERVICES} services",
        beside="bare, as many resources",
        ours=ours,
        theirs=theirs,
        limit=LIMIT,
    )
    growth = Ratio(
        name=f"a service among {MOST_SERVICES}",
        beside=f"among {SERVICES}",
        ours=[(total - empty) / MOST_SERVICES for total, empty in zip(more, base, strict=True)],
        theirs=[(total - empty) / SERVICES for total, empty in zip(fewer, base, strict=True)],
        limit=GROWTH_LIMIT,
    )
    return [preview, growth]


def _in_turn(projects: Sequence[Project], pairs: int, say: Say) -> list[list[float]]:
    return in_turn([_preview(project) for project in projects], rounds=pairs, say=say)


def _preview(project: Project) -> Timed:
    return lambda: timed(lambda: project.pulumi("preview"))


@contextmanager
def _large(lab: Project, services: int) -> Iterator[Project]:
    """Copy of the program with an undeployed stack of bought nodes and this number of services."""
    with TemporaryDirectory(prefix="nordmesh-large-") as text:
        directory = Path(text)
        copy_program(directory)
        shutil.copytree(lab.directory / ".lab", directory / ".lab")
        project = replace(
            lab, directory=directory, stack=f"large-{services}", log=directory / "bench.log"
        )
        document = yaml.safe_load(lab.stack_file.read_text())
        document.pop("encryptionsalt", None)
        config = document["config"]
        config["nordmesh:machines"] = {"nodes": dict(map(_node, range(NODES)))}
        config["nordmesh:mesh"] = _mesh(services)
        config["nordmesh:demo"] = {"enabled": False}
        project.stack_file.write_text(yaml.safe_dump(document))
        with _stack(project):
            key = "-----BEGIN PRIVATE KEY-----"
            project.pulumi("config", "set", "--secret", "nordmesh:sshPrivateKey", stdin=key)
            yield project


def _node(number: int) -> tuple[str, dict[str, str]]:
    role = "worker" if number else "control-plane"
    address = f"192.0.2.{number + 1}"
    return f"node-{number}", {
        "provider": "existing",
        "role": role,
        "address": address,
        "hostKey": _host_key(number),
    }


def _host_key(number: int) -> str:
    """Return a unique host key for a node, which the checks require; it is never used."""
    kind = b"ssh-ed25519"
    key = b"".join(len(field).to_bytes(4, "big") + field for field in (kind, bytes([number]) * 32))
    return f"{kind.decode()} {b64encode(key).decode()}"


def _mesh(services: int) -> dict[str, Any]:
    """Return services with a canary each, ten per namespace."""
    names = {f"service-{n}": f"team-{n // _PER_NAMESPACE}" for n in range(services)}
    canary = {"port": 8080, "stable": "v1", "canary": {"subset": "v2", "weight": 10}}
    return {
        "namespaces": {namespace: {"injection": True} for namespace in set(names.values())},
        "services": {name: {"namespace": of, **canary} for name, of in names.items()},
    }


@contextmanager
def _bare(lab: Project, large: Project) -> Iterator[Project]:
    """Bare program with as many commands and objects as the preview of nordmesh."""
    steps = json.loads(large.pulumi("preview", "--json").text)["steps"]
    types = [step["newState"]["type"] for step in steps if step["newState"]["custom"]]
    commands = sum(of.startswith("command:") for of in types)
    # A bare stack also has itself and the provider of the cluster; that of nordmesh has components.
    settings = {"commands": commands, "objects": len(steps) - commands - 2}
    with TemporaryDirectory(prefix="nordmesh-bare-") as text:
        directory = Path(text)
        shutil.copytree(_PROGRAM, directory, dirs_exist_ok=True)
        (directory / ".venv").symlink_to(Path(sys.prefix))
        project = replace(lab, directory=directory, stack="large", log=directory / "bench.log")
        with _stack(project):
            for key, value in {**settings, "hostKey": _host_key(0)}.items():
                project.pulumi("config", "set", key, str(value))
            made = json.loads(project.pulumi("preview", "--json").text)["steps"]
            if len(made) != len(steps):
                raise LabError(f"{len(made)} resources instead of {len(steps)}", code="bench")
            yield project


@contextmanager
def _stack(project: Project) -> Iterator[None]:
    project.make_stack()
    try:
        yield
    finally:
        project.pulumi("stack", "rm", "--yes", "--force", ok=False)
