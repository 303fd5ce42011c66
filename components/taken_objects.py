"""Keep nordmesh from taking over a Kubernetes object that it did not create.

The provider writes a new entry over an object that exists, and deletes the object with the entry.
A preview names all such objects, if it reaches the cluster; `pulumi up` looks again before it
creates each.
"""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pulumi

from components.threads import in_thread
from config.errors import NordmeshError

if TYPE_CHECKING:
    from components.gates.api import Api

Manifest = Mapping[str, Any]
Metadata = Mapping[str, Any] | None
"""That of an object; None if it does not exist."""

MANAGER = "nordmesh"
"""The field manager of every object that nordmesh creates."""
ADOPT = "nordmesh.io/adopt"
"""The annotation of an object that its owner hands over; its value is the reason."""

_PAUSES = (1, 2, 4, 8)  # seconds: an API server is unavailable while a control plane joins


class TakenObjects:
    """Looks for the objects that a run is about to create.

    hooks: of every object that is created whole. kubeconfig (secret): awaited, never shown. first:
    the same with the cluster's first certificate, for a preview that renews it.
    """

    hooks: pulumi.ResourceHookBinding

    def __init__(self, kubeconfig: pulumi.Output[str], *, first: pulumi.Output[str]) -> None:
        self._kubeconfig, self._first = kubeconfig, first
        self._registered: list[pulumi.Resource] = []
        self._new: list[Manifest] = []
        options = pulumi.ResourceHookOptions(on_dry_run=True)
        hook = pulumi.ResourceHook("whose object", self._before_create, options)
        self.hooks = pulumi.ResourceHookBinding(before_create=[hook])

    def add(self, resource: pulumi.Resource) -> None:
        """Record the resource of an object."""
        self._registered.append(resource)

    def refuse_at_preview(self) -> pulumi.Output[None]:
        """Fail a preview that would take over objects, once it has come to every object."""
        registered = pulumi.Output.all(*(resource.urn for resource in self._registered))
        return registered.apply(lambda _urns: self._refuse_new())

    async def _before_create(self, args: pulumi.ResourceHookArgs) -> None:
        manifest = args.new_inputs or {}
        if pulumi.runtime.is_dry_run():
            self._new.append(manifest)
            return
        from components.gates import api  # no run without a new object needs it

        text = await self._kubeconfig.future()

        def run() -> None:
            with api.connect(str(text)) as connected:
                refuse_taken(connected, manifest)

        await in_thread(run)

    async def _refuse_new(self) -> None:
        if not self._new:
            return
        text = await self._kubeconfig.future() or await self._first.future()
        if text is None:
            return  # the cluster itself is new
        from components.gates import api  # as above

        def look() -> list[Metadata]:
            with api.connect(str(text)) as connected:
                return connected.existing(self._new, limit=api.REPORT_SECONDS)

        try:
            existing = await in_thread(look)
        except NordmeshError as error:
            pulumi.log.warn(
                f"this preview did not look whether the {len(self._new)} objects to create exist "
                f"already: {error.what}. `pulumi up` looks before it creates each"
            )
            return
        refuse(list(zip(self._new, existing, strict=True)))


def refuse_taken(api: "Api", manifest: Manifest) -> None:
    """Raise NordmeshError if the object exists and is not nordmesh's."""
    refuse([(manifest, _existing(api, manifest))])


def refuse(objects: Sequence[tuple[Manifest, Metadata]]) -> None:
    """Raise NordmeshError if objects exist and are not nordmesh's, with the metadata of each.

    One that a killed run created before it could note it in the state is nordmesh's.
    """
    taken = {
        _in_words(manifest, metadata): manifest
        for manifest, metadata in objects
        if metadata is not None and _is_of_another(metadata)
    }
    if taken:
        raise _refused(taken)


def _is_of_another(metadata: Mapping[str, Any]) -> bool:
    is_handed_over = (metadata.get("annotations") or {}).get(ADOPT)
    return not is_handed_over and MANAGER not in _managers(metadata)


def _managers(metadata: Mapping[str, Any]) -> list[str]:
    entries = metadata.get("managedFields") or ()
    return list(dict.fromkeys(str(entry.get("manager")) for entry in entries))


def _existing(api: "Api", manifest: Manifest) -> Metadata:
    for pause in _PAUSES:
        try:
            return api.existing([manifest])[0]
        except NordmeshError:
            time.sleep(pause)
    return api.existing([manifest])[0]


def _in_words(manifest: Manifest, existing: Mapping[str, Any]) -> str:
    metadata, managers = manifest["metadata"], _managers(existing)
    place = f" in namespace {metadata['namespace']}" if metadata.get("namespace") else ""
    made = f", written by {', '.join(managers)}" if managers else ""
    return f"{manifest['kind']} {metadata['name']}{place} already exists{made}"


def _refused(taken: Mapping[str, Manifest]) -> NordmeshError:
    """The error for objects of others, by what they are in words."""
    first, *others = taken
    it, one = ("them", "one") if others else ("it", "it")
    return NordmeshError(
        f"{len(taken)} objects already exist" if others else first,
        code="object-exists",
        why=f"nordmesh did not create {it}; it would overwrite {it}, and delete {it} with the "
        "entry in the stack file",
        fix=f"delete {it} if nothing needs {it}, or use another name in the stack file. To hand "
        f"{one} over to nordmesh, run the command below. Then run `pulumi up` again",
        details="\n".join(f"{words}:\n    {_command(taken[words])}" for words in taken),
    )


def _command(manifest: Manifest) -> str:
    """The command that hands an object over."""
    metadata = manifest["metadata"]
    option = f" --namespace {metadata['namespace']}" if metadata.get("namespace") else ""
    return f"kubectl annotate {manifest['kind']}{option} {metadata['name']} {ADOPT}=REASON"
