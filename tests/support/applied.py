"""Objects that a test or the benchmark puts into a cluster itself."""

import json
from collections.abc import Sequence
from tempfile import NamedTemporaryFile

from components.manifests import Manifest
from lab.screen import Cluster


def apply(cluster: Cluster, objects: Sequence[Manifest], *options: str) -> str:
    """Apply manifests; return the output of kubectl."""
    with NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"apiVersion": "v1", "kind": "List", "items": list(objects)}, file)
        file.flush()
        return cluster.kubectl("apply", "--filename", file.name, *options, seconds=60)
