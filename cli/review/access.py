"""Changes of mTLS modes, of allowed callers and of the mesh's namespaces, in words."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from cli.review import tokens
from cli.review.markdown import Part, code, listed, plain
from cli.review.preview import Preview, Step, Values
from components.manifests.authorization import SERVICE_ANNOTATION
from components.manifests.mtls import INHERITED, injector_of, modes_of
from components.manifests.pod_security import enforced
from config.scalars.names import DEFAULT_NAMESPACE, ROOT_NAMESPACE

_MODES = {
    "STRICT": "plaintext will be refused",
    "PERMISSIVE": "plaintext will be accepted, beside mTLS",
    "DISABLE": "traffic will **not be encrypted**",
}
_LEVELS = {
    "privileged": "**pods may take over their node**",
    "baseline": "privileged pods will be refused",
}
_SOURCES = {"namespaces": "the namespace", "ipBlocks": "the address"}


class Callers:
    """Who may call a service, by what the preview shows."""

    def __init__(self, preview: Preview) -> None:
        self._complete = preview.shows_unchanged
        self._policies = [
            step.new
            for step in preview.of_kind("AuthorizationPolicy", unchanged=True)
            if step.new and _action(step.new) == "ALLOW"
        ]

    def of(self, service: str) -> list[str]:
        """The callers of `namespace/name` as Markdown, never empty."""
        namespace, _, name = service.rpartition("/")
        policies = [
            policy
            for policy in self._policies
            if policy["metadata"].get("namespace") == namespace and _service(policy) == name
        ]
        if policies:
            names = [caller for policy in policies for caller in _allowed(policy)]
            return sorted(set(names)) or ["nobody may call it"]
        if self._complete:
            return ["every caller in the mesh"]
        return ["callers are not in this preview"]


def part(preview: Preview) -> Part | None:
    """Render one line for each change; None without a change."""
    lines = [
        *_each(preview, "PeerAuthentication", partial(_mtls, gate=_gate(preview))),
        *_each(preview, "RequestAuthentication", tokens.issuers),
        *_each(preview, "AuthorizationPolicy", _authorization),
        *_each(preview, "Namespace", _membership),
        *_each(preview, "NamespacePatch", _membership),
    ]
    rows = [f"- {line}" for line in lines]
    return Part(title="Encryption and access", rows=rows) if rows else None


def _each(preview: Preview, kind: str, words: Any) -> Iterator[str]:
    for step in preview.of_kind(kind):
        if not step.is_rewritten:
            yield from words(step)


# --- mTLS ----------------------------------------------------------------------------------------


def _gate(preview: Preview) -> str:
    """Say how the gate measures before a mode becomes STRICT, if the stack file is readable."""
    gate = preview.section("mesh").get("mtlsGate")
    if not isinstance(gate, Mapping):
        return ""
    if gate.get("override"):
        return f"; **without its gate**: {plain(gate['override'])}"
    return f"; its gate looks for plaintext for {plain(gate['window'])}" if "window" in gate else ""


def _mtls(step: Step, gate: str) -> Iterator[str]:
    old, new = _modes(step.old), _modes(step.new)
    for port in sorted(old.keys() | new.keys()):
        before, after = old.get(port), new.get(port)
        if before == after:
            continue
        place = f"**{_place(step)}**" + (f", port {port}" if port else "")
        if after in (None, INHERITED):
            yield f"{place}: its own mode {before} goes; it gets the one of the mesh"
        else:
            words = _MODES.get(str(after), f"mode {code(after)}")
            # The gate measures existing pods only.
            first = gate if before and after == "STRICT" else ""
            modes = f"{before} to {after}" if before else f"new, {after}"
            yield f"{place}: {words} ({modes}){first}"


def _place(step: Step) -> str:
    metadata, labels = step.now.get("metadata", {}), _labels(step.now)
    if labels:
        return f"{plain(metadata.get('namespace'))}/{plain(_workload(labels))}"
    if metadata.get("namespace") == ROOT_NAMESPACE:
        return "the whole mesh"
    return plain(metadata.get("namespace"))


def _modes(values: Values) -> dict[str, str]:
    """The mode by port; "" stands for every port without its own mode."""
    modes = modes_of(values)
    return {"": modes.mode or INHERITED, **modes.ports} if values.get("spec") else {}


# --- authorization -------------------------------------------------------------------------------


def _authorization(step: Step) -> Iterator[str]:
    if tokens.is_requirement(step.now):
        yield from tokens.requirement(step)
        return
    metadata, labels = step.now.get("metadata", {}), _labels(step.now)
    name = plain(_service(step.now) or _workload(labels)) if labels else "every workload"
    place = f"**{plain(metadata.get('namespace'))}/{name}**"
    if _action(step.now) != "ALLOW" or (step.old and _action(step.old) != "ALLOW"):
        verb = {"create": "is added", "delete": "is taken away"}.get(step.op, "changes")
        rules = listed(_allowed(step.now)) or "no rules"
        yield f"{place}: a rule {_action(step.now)} {verb} ({rules})"
        return
    old, new = _allowed(step.old), _allowed(step.new)
    if step.op == "delete":
        until_now = listed(old) or "nobody"
        yield f"{place}: **anyone in the mesh may call it again**; until now {until_now}"
    elif step.op == "create":
        only = f"only {listed(new)} may call it; everyone else" if new else "everyone"
        yield f"{place}: {only} will be refused"
    else:
        gained, lost = _without(new, old), _without(old, new)
        if gained:
            yield f"{place}: may be called by {listed(gained)} too"
        if lost:
            yield f"{place}: will refuse {listed(lost)}, allowed until now"
        if not gained and not lost:
            yield f"{place}: its rules change: {listed(map(code, step.fields))}"


def _allowed(policy: Values) -> list[str]:
    """The callers that a policy's rules name, as Markdown, sorted."""
    rules = (policy.get("spec") or {}).get("rules") or []
    return sorted({caller for rule in rules for caller in _callers(rule)})


def _callers(rule: Values) -> Iterator[str]:
    where = _operations(rule.get("to"))
    when = [
        f"{code(condition.get('key'))} is {listed(map(code, condition.get('values') or []))}"
        for condition in rule.get("when") or []
    ]
    limits = where + (f" when {listed(when)}" if when else "")
    sources = [entry.get("source") or {} for entry in rule.get("from") or []]
    if not sources:
        yield f"anyone{limits}"
    for source in sources:
        for name in _names(source):
            yield f"{name}{limits}"


def _names(source: Values) -> Iterator[str]:
    for key, values in source.items():
        for value in values or []:
            if key == "principals":
                yield code(_account(str(value)))
            else:
                yield f"{_SOURCES.get(key, key)} {code(value)}"


def _account(principal: str) -> str:
    """Shorten cluster.local/ns/shop/sa/cart to shop/cart."""
    parts = principal.split("/")
    if len(parts) == 5 and (parts[1], parts[3]) == ("ns", "sa"):
        return f"{parts[2]}/{parts[4]}"
    return principal


def _operations(to: Any) -> str:
    words = []
    for entry in to or []:
        operation = entry.get("operation") or {}
        words += [
            f"{key} {listed(map(code, values))}" for key, values in operation.items() if values
        ]
    return f" ({listed(words)})" if words else ""


# --- membership ----------------------------------------------------------------------------------


def _membership(step: Step) -> Iterator[str]:
    old, new = injector_of(step.old), injector_of(step.new)
    name = step.now.get("metadata", {}).get("name")
    place, always_exists = f"**{plain(name)}**", name == DEFAULT_NAMESPACE
    if step.op == "delete" and always_exists:
        yield f"{place}: leaves the mesh; its pods lose their sidecar when they are restarted"
    elif step.op == "delete":
        yield f"{place}: **the namespace is deleted with everything in it**"
    elif old != new and (old or new):
        if step.op == "create" and not always_exists:
            yield f"{place}: a new namespace of the mesh; its pods get a sidecar"
        elif new and old:
            yield f"{place}: new pods get their sidecar from another control plane: {plain(new)}"
        elif new:
            yield f"{place}: joins the mesh; its pods get a sidecar when they are restarted"
        else:
            yield f"{place}: leaves the mesh; its pods lose their sidecar when they are restarted"
    before, after = (enforced(values) or "privileged" for values in (step.old, step.new))
    if before != after and step.op != "delete" and not new:
        words = _LEVELS.get(after, f"new pods must meet the level {after}")
        yield f"{place}: {words} (PodSecurity {before} to {after})"


# --- all policies --------------------------------------------------------------------------------


def _labels(values: Values) -> Mapping[str, str]:
    selector = (values.get("spec") or {}).get("selector") or {}
    labels = selector.get("matchLabels") or {}
    return labels if isinstance(labels, Mapping) else {}


def _service(policy: Values) -> str | None:
    """The service whose callers an AuthorizationPolicy names, or None if it does not say."""
    annotations = policy["metadata"].get("annotations") or {}
    return annotations.get(SERVICE_ANNOTATION) or _labels(policy).get("app")


def _workload(labels: Mapping[str, str]) -> str:
    return labels.get("app") or ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _action(values: Values) -> str:
    return str((values.get("spec") or {}).get("action", "ALLOW"))


def _without(names: Sequence[str], others: Sequence[str]) -> list[str]:
    return [name for name in names if name not in others]
