"""The hook that keeps `pulumi up` from taking over a Kubernetes object that it did not create.

The provider writes a new entry over an object that exists, and deletes the object with the entry.
"""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pulumi

from components.threads import in_thread
from config.errors import NordmeshError

if TYPE_CHECKING:
    from components.gates.api import Api

MANAGER = "nordmesh"
"""The field manager of every object that nordmesh creates."""
ADOPT = "nordmesh.io/adopt"
"""The annotation of an object that its owner hands over; its value is the reason."""

_PAUSES = (1, 2, 4, 8)  # seconds: an API server is unavailable while a control plane joins


def hooks(kubeconfig: pulumi.Output[str]) -> pulumi.ResourceHookBinding:
    """The hooks of every object. kubeconfig (secret): awaited in the hook, never shown."""

    async def before_create(args: pulumi.ResourceHookArgs) -> None:
        from components.gates import api  # no run without a new object needs it

        text, inputs = await kubeconfig.future(), args.new_inputs or {}

        def run() -> None:
            with api.connect(str(text)) as connected:
                refuse_taken(connected, inputs)

        await in_thread(run)

    hook = pulumi.ResourceHook("whose object", before_create)
    return pulumi.ResourceHookBinding(before_create=[hook])


def refuse_taken(api: "Api", manifest: Mapping[str, Any]) -> None:
    """Raise NordmeshError if the object exists and is not nordmesh's.

    One that a killed run created before it could note it in the state is nordmesh's.
    """
    metadata = _existing(api, manifest)
    if metadata is None or (metadata.get("annotations") or {}).get(ADOPT):
        return
    managers = [entry.get("manager") for entry in metadata.get("managedFields") or ()]
    if MANAGER not in managers:
        raise _taken(manifest, managers)


def _existing(api: "Api", manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for pause in _PAUSES:
        try:
            return api.existing(manifest)
        except NordmeshError:
            time.sleep(pause)
    return api.existing(manifest)


def _taken(manifest: Mapping[str, Any], managers: list[Any]) -> NordmeshError:
    metadata = manifest["metadata"]
    kind, name, namespace = manifest["kind"], metadata["name"], metadata.get("namespace")
    option = f" --namespace {namespace}" if namespace else ""
    place = f" in namespace {namespace}" if namespace else ""
    made = f", written by {', '.join(dict.fromkeys(map(str, managers)))}" if managers else ""
    return NordmeshError(
        f"{kind} {name}{place} already exists{made}",
        code="object-exists",
        why="nordmesh did not create it; it would overwrite the object now, and delete it with its "
        "entry in the stack file",
        fix=f"delete it if nothing needs it, or use another name in the stack file. To hand it "
        f"over to nordmesh, run `kubectl annotate {kind}{option} {name} {ADOPT}=REASON`. Then run "
        "`pulumi up` again",
    )
