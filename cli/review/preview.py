"""Read the output of `pulumi preview --json`: its steps without secrets, its messages, its config.

It has one of two shapes: one document, or a stream of events, one a line. Only the stream has the
violations that a policy pack found.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from components.engine_values import cleaned
from config.errors import NordmeshError

Values = Mapping[str, Any]

_REFUSED = "preview failed"  # all that the engine says when a policy pack refuses
_REPLACEMENTS = ("replace", "create-replacement", "delete-replaced", "import-replacement")


class UnreadableError(NordmeshError):
    """The text is not a preview."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """What will happen to one resource. old, new: its inputs, {} before a create, after a delete.

    op: create, update, delete, replace, same, or another operation of the engine. fields: the
    changed paths that the provider reports.
    """

    op: str
    urn: str
    old: Values = field(default_factory=dict)
    new: Values = field(default_factory=dict)
    fields: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.urn.rpartition("::")[2]

    @property
    def type(self) -> str:
        """The resource's own type, without those of the components around it."""
        return self.urn.split("::")[2].rpartition("$")[2]

    @property
    def kind(self) -> str | None:
        """The Kubernetes kind; None for other resources."""
        return self.type.rpartition(":")[2] if self.type.startswith("kubernetes:") else None

    @property
    def is_component(self) -> bool:
        return self.type.startswith("nordmesh:") or self.type == "pulumi:pulumi:Stack"

    @property
    def is_rewritten(self) -> bool:
        """Whether it is an update without a visible change.

        The engine lists these where the cluster's kubeconfig is not known yet.
        """
        return self.op == "update" and not self.fields and self.old == self.new

    @property
    def now(self) -> Values:
        """The inputs after the update; of a deleted resource, those before it."""
        return self.new or self.old


@dataclass(frozen=True, kw_only=True)
class Message:
    """A diagnostic: severity is error, warning or info."""

    severity: str
    text: str
    urn: str | None = None


@dataclass(frozen=True, kw_only=True)
class Violation:
    """A violation that a policy pack reports; a warning if it is not mandatory."""

    policy: str
    text: str
    is_mandatory: bool


@dataclass(frozen=True, kw_only=True)
class Preview:
    """A whole preview. config: the readable sections of the stack file by name.

    shows_unchanged: whether unchanged resources are listed too (`--show-sames`). deployed: the
    sections of the last successful update; None if they are unknown.
    """

    stack: str
    steps: tuple[Step, ...]
    messages: tuple[Message, ...]
    violations: tuple[Violation, ...]
    config: Values
    unchanged: int
    shows_unchanged: bool
    deployed: Values | None = None

    @property
    def errors(self) -> list[Message]:
        """The errors of the preview; a refusal by a policy pack is not one of them."""
        errors = [message for message in self.messages if message.severity == "error"]
        only_refused = self.is_refused and all(error.text == _REFUSED for error in errors)
        return [] if only_refused else errors

    @property
    def is_refused(self) -> bool:
        """Whether a mandatory policy is violated."""
        return any(violation.is_mandatory for violation in self.violations)

    @property
    def is_first(self) -> bool:
        """Whether the stack does not exist yet."""
        stacks = [step for step in self.steps if step.type == "pulumi:pulumi:Stack"]
        return any(step.op == "create" for step in stacks)

    @property
    def changes(self) -> list[Step]:
        """The steps that change something, sorted by type and name."""
        return [step for step in self.steps if step.op != "same"]

    def of_kind(self, *kinds: str, unchanged: bool = False) -> list[Step]:
        """The steps of Kubernetes objects of some kinds. unchanged: include unchanged objects."""
        steps = self.steps if unchanged else self.changes
        return [step for step in steps if step.kind in kinds]

    def section(self, name: str) -> Values:
        """A section of the stack file as it was written; {} if it is not readable."""
        value = self.config.get(name)
        return value if isinstance(value, Mapping) else {}


def deployed(history: str) -> Values | None:
    """The sections of the last successful update; None without one.

    history: the output of `pulumi stack history --json`, newest first.
    """
    for update in json.loads(history):
        if update.get("kind") == "update" and update.get("result") == "succeeded":
            return {
                key.partition(":")[2]: _section(setting.get("value"))
                for key, setting in update.get("config", {}).items()
            }
    return None


def parse(text: str, *, stack: str | None = None) -> Preview:
    """Parse the text that pulumi printed; raises UnreadableError if it is not a preview.

    stack: the name to use if no step has it.
    """
    document = _document(text)
    raw = [step for step in document.get("steps") or [] if isinstance(step, dict)]
    steps = sorted({step.urn: step for step in map(_step, raw)}.values(), key=_order)
    counted = int((document.get("changeSummary") or {}).get("same", 0))
    listed = sum(1 for step in steps if step.op == "same")
    return Preview(
        stack=next((step.urn.split(":")[2] for step in steps), stack or "?"),
        steps=tuple(steps),
        messages=tuple(_messages(document.get("diagnostics") or [])),
        violations=tuple(_violations(document.get("policies") or [])),
        config={
            key.partition(":")[2]: _section(value)
            for key, value in (document.get("config") or {}).items()
        },
        unchanged=max(counted, listed),
        shows_unchanged=listed == counted,
    )


def _document(text: str) -> dict[str, Any]:
    if not text.strip():
        raise UnreadableError(
            "pulumi printed no preview",
            code="preview-empty",
            fix="read what pulumi wrote to standard error",
        )
    try:
        if text.lstrip().partition("\n")[0].startswith('{"sequence"'):
            return _of_events([json.loads(line) for line in text.splitlines() if line.strip()])
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnreadableError(
            f"this is not the output of `pulumi preview --json`: {error}", code="preview-not-json"
        ) from None
    if not isinstance(document, dict) or not document.keys() & {"steps", "diagnostics"}:
        raise UnreadableError(
            "this is JSON, but not the output of `pulumi preview --json`: it has neither steps nor "
            "diagnostics",
            code="preview-other-json",
        )
    return document


def _of_events(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Assemble the preview document from a stream of events, including those of policies."""

    def of(kind: str) -> list[dict[str, Any]]:
        return [event[kind] for event in events if kind in event]

    steps = [event.get("metadata") or {} for event in of("resourcePreEvent")]
    messages = of("diagnosticEvent")
    return {
        "steps": [
            {
                **step,
                "oldState": step.get("old"),
                "newState": step.get("new"),
                "diffReasons": step.get("diffs"),
            }
            for step in steps
        ],
        "config": next((event.get("config") for event in of("preludeEvent")), None),
        "diagnostics": [message for message in messages if message.get("severity") != "debug"],
        "changeSummary": next((event.get("resourceChanges") for event in of("summaryEvent")), None),
        "policies": of("policyEvent"),
    }


def _step(raw: dict[str, Any]) -> Step:
    old, new = raw.get("oldState") or {}, raw.get("newState") or {}
    op = str(raw.get("op"))
    paths = [*(raw.get("detailedDiff") or {}), *(raw.get("diffReasons") or [])]
    # "connection.host" implies "connection": keep the longer path.
    fields = [path for path in paths if not any(is_below(other, path) for other in paths)]
    return Step(
        op="replace" if op in _REPLACEMENTS else op,
        urn=str(raw.get("urn")),
        old=cleaned(old.get("inputs") or {}),
        new=cleaned(new.get("inputs") or {}),
        fields=tuple(sorted(set(fields))),
    )


def is_below(path: str, above: str) -> bool:
    """Whether a path is below another: spec.a[0] is below spec.a, spec.ab is not."""
    return path.startswith((f"{above}.", f"{above}["))


def _messages(raw: list[dict[str, Any]]) -> Iterator[Message]:
    seen = set()
    for entry in raw:
        severity = str(entry.get("severity", "info")).removesuffix("#err")
        text = str(entry.get("message", "")).strip()
        text = re.sub(r"\x1b\[[0-9;]*m", "", text).removeprefix(f"{severity}:").strip()
        # Otherwise each of a hundred resources would repeat the same warning.
        if text and (severity, text) not in seen:
            seen.add((severity, text))
            yield Message(severity=severity, text=text, urn=entry.get("urn"))


def _violations(raw: list[dict[str, Any]]) -> Iterator[Violation]:
    violations = {
        Violation(
            policy=str(entry.get("policyName")),
            text=str(entry.get("message", "")).strip(),
            is_mandatory=entry.get("enforcementLevel") != "advisory",
        )
        for entry in raw
    }
    yield from sorted(violations, key=lambda violation: (violation.policy, violation.text))


def _section(value: Any) -> Any:
    try:
        return cleaned(json.loads(value))
    except (TypeError, ValueError):
        return cleaned(value)


def _order(step: Step) -> tuple[str, str]:
    return step.type, step.urn
