"""Changes of the tokens that clients must send to a gateway, in words."""

from collections.abc import Iterator, Mapping
from typing import Any

from cli.review.markdown import code, listed, plain
from cli.review.preview import Step, Values
from components.manifests.jwt import SUFFIX


def is_requirement(policy: Values) -> bool:
    """Whether an AuthorizationPolicy requires tokens at a gateway."""
    return str((policy.get("metadata") or {}).get("name", "")).endswith(SUFFIX)


def requirement(step: Step) -> Iterator[str]:
    """The requests that need a token from now on, or no longer do."""
    place, old, new = _place(step), _exceptions(step.old), _exceptions(step.new)
    if step.op == "delete":
        yield f"{place}: **requests need no token any more**"
    elif step.op == "create":
        yield f"{place}: requests without a token will be refused{_except(new)}"
    elif old != new:
        yield f"{place}: requests need a token{_except(new)}; until now{_except(old) or ' all'}"
    else:
        yield f"{place}: the requests that need a token change: {listed(map(code, step.fields))}"


def issuers(step: Step) -> Iterator[str]:
    """The tokens that a gateway accepts from now on, or no longer does."""
    place, old, new = _place(step), _accepted(step.old), _accepted(step.new)
    gained = [line for line in new if line not in old]
    lost = [line for line in old if line not in new]
    if gained:
        yield f"{place}: will accept tokens of {listed(gained)}"
    if lost and step.op != "delete":
        yield f"{place}: no longer accepts tokens of {listed(lost)}"


def _place(step: Step) -> str:
    metadata = step.now.get("metadata") or {}
    name = str(metadata.get("name")).removesuffix(SUFFIX)
    return f"**the gateway {plain(metadata.get('namespace'))}/{plain(name)}**"


def _exceptions(policy: Values) -> list[str]:
    rules = (policy.get("spec") or {}).get("rules") or []
    operations = [
        entry.get("operation") or {} for rule in rules for entry in _mappings(rule.get("to"))
    ]
    words = {"notPaths": "the path", "notMethods": "the method"}
    return list(
        dict.fromkeys(
            f"{words[key]} {code(value)}"
            for operation in operations
            for key in words
            for value in operation.get(key) or []
        )
    )


def _except(exceptions: list[str]) -> str:
    return f", except for {listed(exceptions)}" if exceptions else ""


def _accepted(authentication: Values) -> list[str]:
    rules = (authentication.get("spec") or {}).get("jwtRules")
    accepted = []
    for rule in _mappings(rules):
        audiences = listed(map(code, rule.get("audiences") or [])) or "anyone"
        uri = rule.get("jwksUri")
        keys = f"keys from {code(uri)}" if uri else "keys of the stack file"
        accepted.append(f"{code(rule.get('issuer'))} (for {audiences}, {keys})")
    return accepted


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value or [] if isinstance(item, Mapping)]
