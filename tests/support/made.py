"""The objects of the cluster that the program makes, in the stacks that have every key."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.support.edits import Edits
from tests.support.mocked import Recorder, plain
from tests.unit.config.test_every_key import STACKS

Values = dict[str, Any]
_ORDER = {"Namespace": 0, "ServiceAccount": 1, "ClusterRole": 1}


def recorded(folder: Path) -> list[Recorder]:
    """Run the program with each stack. folder: an empty directory."""
    edits = Edits(folder)
    return [edits.unedited(stack) for stack in STACKS]


def made_by_the_program(recorders: Sequence[Recorder]) -> list[tuple[str, Values]]:
    """The objects that the provider "cluster" makes, and the resource of each, in their order."""
    found: dict[str, Values] = {}
    for recorder in recorders:
        for (kind, name), resource in recorder.resources.items():
            if not kind.startswith("kubernetes:"):
                continue
            options = recorder.options[f"{kind.rpartition(':')[2]} {name}"]
            if options["provider"] == "kubernetes cluster":
                found.setdefault(f"{kind} {name}", _unwrapped(resource.inputs))
    return sorted(found.items(), key=lambda one: _ORDER.get(one[1]["kind"], 2))


def pods_of(objects: Sequence[tuple[str, Values]]) -> Iterator[tuple[str, str, Values]]:
    """The namespace, the name and the spec of a pod of each workload."""
    for _, manifest in objects:
        spec, metadata = manifest.get("spec", {}), manifest["metadata"]
        pod = spec.get("template", {}).get("spec", {})
        if "containers" in pod:
            claims = [
                {"name": name, "persistentVolumeClaim": {"claimName": name}}
                for claim in spec.get("volumeClaimTemplates", [])
                for name in [claim["metadata"]["name"]]
            ]
            volumes = [*pod.get("volumes", []), *claims]
            yield metadata["namespace"], metadata["name"], {**pod, "volumes": volumes}


def is_patch(resource: str) -> bool:
    """Whether a resource sets some fields of an object that another program makes."""
    return resource.split()[0].endswith("Patch")


def _unwrapped(value: Any) -> Any:
    """A value without the marks of secrets."""
    value = plain(value)
    if isinstance(value, dict):
        return {key: _unwrapped(inner) for key, inner in value.items()}
    return [_unwrapped(inner) for inner in value] if isinstance(value, list) else value
