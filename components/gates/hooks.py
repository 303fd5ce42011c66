"""The gates as Pulumi hooks on the objects that they guard."""

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pulumi

from components.manifests.authorization import SERVICE_ANNOTATION
from components.manifests.egress import PREFIX as EGRESS_PREFIX
from components.manifests.hosts import service_of
from components.manifests.mtls import NAMESPACE_POLICY, modes_of
from components.manifests.pod_security import enforced
from components.threads import in_thread
from config import ROOT_NAMESPACE, Mesh
from config.errors import NordmeshError

if TYPE_CHECKING:
    from components.gates.api import Api
    from components.gates.scope import Change

Say = Callable[[str], None]


class Gates:
    """The hooks of one mesh. kubeconfig (secret): awaited in a hook, never shown.

    strict: for every PeerAuthentication. canary: for every VirtualService of a service; it also
    checks that the subsets of its routes have pods. pods: for every DestinationRule of a subset.
    callers: for the AuthorizationPolicy of every service that declares its callers. outbound: for
    the installation of Istio. secrets: for every object of a gateway that reads a Secret; it warns,
    because a Secret can be created only once its namespace exists. pod_security: for the namespace
    default. namespaces: for every other one; it also records those that this run created, which
    have no clients yet.
    """

    def __init__(self, mesh: Mesh, kubeconfig: pulumi.Output[str]) -> None:
        self._mesh, self._kubeconfig = mesh, kubeconfig
        self._new_namespaces: set[str] = set()
        hook = pulumi.ResourceHook
        strict, weight = hook("STRICT gate", self._strict), hook("canary gate", self._canary)
        callers = hook("callers gate", self._callers)
        pods = hook("pods gate", self._pods)
        outbound = hook("outbound gate", self._outbound)
        secrets = hook("Secrets of gateways", self._secrets)
        record = hook("note a new namespace", self._record_namespace)
        binding = pulumi.ResourceHookBinding
        self.strict = binding(before_create=[strict], before_update=[strict])
        self.canary = binding(before_create=[weight], before_update=[weight])
        self.pods = binding(before_update=[pods])
        self.callers = binding(before_create=[callers], before_update=[callers])
        self.outbound = binding(before_update=[outbound])
        self.secrets = binding(after_create=[secrets], after_update=[secrets])
        options = pulumi.ResourceHookOptions(on_dry_run=True)
        level = hook("PodSecurity gate", self._pod_security, options)
        self.pod_security = binding(before_create=[level], before_update=[level])
        self.namespaces = binding.merge(self.pod_security, binding(after_create=[record]))

    def _record_namespace(self, args: pulumi.ResourceHookArgs) -> None:
        self._new_namespaces.add(_metadata(args)["name"])

    # Each gate is imported where it is used: that takes 0.04 s, and 0.1 s with the API client. Runs
    # without an edit never need it.

    async def _strict(self, args: pulumi.ResourceHookArgs) -> None:
        from components.gates import plaintext, scope

        metadata = _metadata(args)
        namespace, name = metadata["namespace"], metadata["name"]
        change = scope.Change(
            namespace=namespace,
            name=name if name == NAMESPACE_POLICY else self._mesh.entry_of(namespace, name),
            before=modes_of(args.old_inputs or {}),
            after=modes_of(args.new_inputs or {}),
        )
        if self._mesh.mtls_gate.override or not change.makes_strict or self._is_new(change):
            return
        plaintext.refuse_from_disable(change)
        await self._measure(lambda api, say: plaintext.check(api, change, self._mesh, say))

    def _is_new(self, change: "Change") -> bool:
        """Whether this run created every namespace that a change is for."""
        if change.namespace == ROOT_NAMESPACE:
            return bool(self._new_namespaces) and self._new_namespaces >= set(self._mesh.namespaces)
        return change.namespace in self._new_namespaces

    async def _canary(self, args: pulumi.ResourceHookArgs) -> None:
        from components.gates import canary, subsets

        metadata = _metadata(args)
        name = self._mesh.entry_of(metadata["namespace"], service_of(metadata["name"]))
        service = self._mesh.services[name]
        if service.namespace in self._new_namespaces:
            return
        gains = subsets.gains(name, service, args.old_inputs, args.new_inputs or {})
        if gains is not None:
            await self._measure(lambda api, _say: subsets.check(api, gains))
        edit = canary.raised(name, service, args.old_inputs or {}, args.new_inputs or {})
        if args.old_inputs and edit is not None:
            await self._measure(lambda api, say: canary.check(api, edit, say))

    async def _pods(self, args: pulumi.ResourceHookArgs) -> None:
        from components.gates import subsets

        metadata = _metadata(args)
        rule, _, _ = metadata["name"].partition(".")
        name = self._mesh.entry_of(metadata["namespace"], rule)
        service = self._mesh.services[name]
        edit = subsets.relabelled(name, service, args.old_inputs or {}, args.new_inputs or {})
        if edit is not None:
            await self._measure(lambda api, _say: subsets.check(api, edit))

    async def _callers(self, args: pulumi.ResourceHookArgs) -> None:
        from components.gates import selection

        metadata = _metadata(args)
        service = metadata["annotations"][SERVICE_ANNOTATION]
        name = self._mesh.entry_of(metadata["namespace"], service)
        rule = selection.callers(name, self._mesh.services[name])
        if metadata["namespace"] in self._new_namespaces:
            pulumi.log.warn(
                f"{rule.key}: the namespace {rule.namespace} is new and has no pods yet. The rule "
                f"selects pods with the labels {selection.in_words(rule.labels)}. If the Service "
                f"will select other labels, write those at {rule.labels_key}"
            )
            return
        await self._measure(lambda api, _say: selection.check_all(api, rule))

    async def _outbound(self, args: pulumi.ResourceHookArgs) -> None:
        from components.gates import outbound

        egress = self._mesh.egress
        is_closed = outbound.closes(args.old_inputs or {}, args.new_inputs or {})
        if is_closed and egress.gate.override is None:
            await self._measure(lambda api, say: outbound.check(api, egress, say))

    async def _secrets(self, args: pulumi.ResourceHookArgs) -> None:
        from components.gates import credentials

        name = _metadata(args)["name"].removeprefix(EGRESS_PREFIX)
        ends = (f".gateways.{name}.tls.secret", f".egress.hosts.{name}.caSecret")
        wanted = [need for need in credentials.needs(self._mesh) if need.path.endswith(ends)]
        missing: list[str] = []
        if wanted:
            await self._run(lambda api, _say: missing.extend(credentials.missing(api, wanted)))
        for line in missing:
            pulumi.log.warn(f"{line}. Create it; no further `pulumi up` is needed")

    async def _pod_security(self, args: pulumi.ResourceHookArgs) -> None:
        old, new = args.old_inputs, args.new_inputs or {}
        if enforced(new) in (None, enforced(old)):
            return
        is_preview = pulumi.runtime.is_dry_run()
        if is_preview and (old is None or await self._kubeconfig.future() is None):
            return  # the namespace or the cluster does not exist yet
        from components.gates import pod_security

        try:
            await self._run(lambda api, _say: pod_security.check(api, old, new))
        except NordmeshError as error:
            if not is_preview or error.code != "gate-no-api-server":
                raise
            pulumi.log.warn(
                f"mesh.namespaces.{_metadata(args)['name']}: {error.what}, so this preview does "
                "not know whether the PodSecurity level refuses running pods; `pulumi up` asks "
                "before it changes the namespace"
            )

    async def _measure(self, check: Callable[["Api", Say], str]) -> None:
        """Run a check, and log its report."""
        report: list[str] = []
        await self._run(lambda api, say: report.append(check(api, say)))
        pulumi.log.info("".join(report))

    async def _run(self, check: Callable[["Api", Say], None]) -> None:
        """Run a check in a thread, while the program continues."""
        from components.gates import api

        kubeconfig = await self._kubeconfig.future()
        loop = asyncio.get_running_loop()

        def say(line: str) -> None:
            # Pulumi's log works only in the program's own thread.
            loop.call_soon_threadsafe(functools.partial(pulumi.log.info, line, ephemeral=True))

        def run() -> None:
            with api.connect(str(kubeconfig)) as connected:
                check(connected, say)

        await in_thread(run)


def _metadata(args: pulumi.ResourceHookArgs) -> Mapping[str, Any]:
    inputs: Mapping[str, Any] = args.new_inputs or {}
    metadata: Mapping[str, Any] = inputs["metadata"]
    return metadata
