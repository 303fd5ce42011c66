"""Secrets are encrypted in the stack file, and are in no script's settings."""

from collections.abc import Iterator

from config.secret_values import is_secret_name, shape_of
from policy.rules.rule import Finding, Rule
from policy.stack import Stack, texts


def _find(stack: Stack) -> Iterator[Finding]:
    for section, value in sorted(stack.config.items()):
        for key, text in texts({section: value}):
            name = key.rpartition(":")[2]
            shape = shape_of(text) or ("a secret by its name" if is_secret_name(name) else None)
            if shape and text:
                yield Finding(
                    subject=f"secret:{section}",
                    what=f"{section} has {shape} in plaintext, at {name}",
                    why="everyone who can read the file knows it",
                    fix="rotate it, and write the new value with `pulumi config set --secret`",
                )
    for command in stack.commands:
        for name, text in command.settings.items():
            if shape := shape_of(text):
                yield Finding(
                    subject=f"secret:{command.name}",
                    what=f"{command.name} has {shape} in its setting {name}",
                    why="every user of the node can read it",
                    fix="pass it on standard input",
                    urn=command.urn,
                )
    for resource in stack.of_kind("ConfigMap", "Deployment", "DaemonSet", "StatefulSet"):
        for _, text in texts({key: resource.props.get(key) for key in ("data", "spec")}):
            if shape := shape_of(text):
                yield Finding(
                    subject=f"secret:{resource.name}",
                    what=f"{resource.kind} {resource.name} has {shape} in plaintext",
                    why="everyone who can read the object knows it",
                    fix="use a Secret",
                    urn=resource.urn,
                )


RULES = (
    Rule(
        name="no-plain-secrets",
        description="No secret is in plaintext configuration.",
        find=_find,
    ),
)
