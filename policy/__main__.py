"""The entry point of the pack: Pulumi runs this directory, beside the project."""

import signal

# The engine ends a pack with SIGINT; Python's own handler would print a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)

# ruff: noqa: E402 (the engine may end a pack while it loads, and imports need the project)
import datetime
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

import yaml
from pulumi_policy import (
    EnforcementLevel,
    PolicyPack,
    ReportViolation,
    ResourceValidationArgs,
    ResourceValidationPolicy,
    StackValidationArgs,
    StackValidationPolicy,
)

from components.engine_values import cleaned
from config import stack_file
from policy.rules import RULES
from policy.rules.rule import Rule
from policy.stack import Resource, Stack, Values, config_of, key_service_of, mapping

_RAW = "__target"  # the value behind a proxy of the SDK, which raises for unknown values


# The inputs of every resource, by URN. A stack rule gets outputs, which objects of a cluster that
# does not exist yet do not have.
_resources: dict[str, Resource] = {}


def _remember(args: ResourceValidationArgs, report: ReportViolation) -> None:
    del report
    _resources[args.urn] = Resource(
        type=args.resource_type,
        name=args.name,
        urn=args.urn,
        props=cleaned(_plain(args.props)),
        is_protected=args.opts.protect,
    )


def _stack(args: StackValidationArgs) -> Stack:
    urns = [resource.urn for resource in args.resources]
    names = {urn.split(":")[2] for urn in urns}
    # The SDK gives a pack no configuration, and only the file shows what is encrypted.
    file = _file(names.pop()) if names else {}
    return Stack(
        resources=tuple(_resources[urn] for urn in urns if urn in _resources),
        config=config_of(file),
        backend=_backend(),
        key_service=key_service_of(file, os.environ),
        today=datetime.datetime.now(datetime.UTC).date(),
    )


@cache
def _file(stack: str) -> Values:
    return stack_file.document(PROJECT, stack)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value[_RAW].items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value[_RAW]]  # type: ignore[call-overload]
    return value


@cache
def _backend() -> str | None:
    """The URL of the state from the environment or Pulumi.yaml; the user's login is not read."""
    if url := os.environ.get("PULUMI_BACKEND_URL"):
        return url
    project = mapping(yaml.safe_load((PROJECT / "Pulumi.yaml").read_text()))
    url = mapping(project.get("backend")).get("url")
    return None if url is None else str(url)


def _validation(rule: Rule) -> Callable[[StackValidationArgs, ReportViolation], None]:
    def validate(args: StackValidationArgs, report: ReportViolation) -> None:
        for violation in rule.violations(_stack(args)):
            report(violation.text, violation.urn)

    return validate


PolicyPack(
    name="nordmesh",
    policies=[
        ResourceValidationPolicy(
            name="inputs",
            description="Collects the inputs of all resources for the rules, and finds nothing.",
            validate=_remember,
        ),
        *(
            StackValidationPolicy(
                name=rule.name,
                description=rule.description,
                validate=_validation(rule),
                enforcement_level=EnforcementLevel.MANDATORY
                if rule.is_mandatory
                else EnforcementLevel.ADVISORY,
            )
            for rule in RULES
        ),
    ],
)
