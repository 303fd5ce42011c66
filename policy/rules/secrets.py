"""Secrets are encrypted in the stack file, and on nobody's command line."""

import re
from collections.abc import Iterator

from policy.rules.rule import Finding, Rule
from policy.stack import Stack, texts

# What is a secret whatever it is called.
_SHAPES = {
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an age key": r"AGE-SECRET-KEY-1",
    "an AWS access key": r"\b(AKIA|ASIA)[A-Z0-9]{16}\b",
    "a GitHub token": r"\b(gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60})",
    "a GitLab token": r"\bglpat-[\w-]{20}",
    "a Slack token": r"\bxox[abprs]-[\w-]{10}",
    "a Pulumi token": r"\bpul-[0-9a-f]{40}\b",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@$]+@",
}
# What is one because of its name; the name of a Kubernetes Secret is none.
_NAMES = re.compile(
    r"(password|passwd|passphrase|private_?key|access_?key|secret_?key|api_?key|client_?secret"
    r"|token)$",
    re.IGNORECASE,
)


def _find(stack: Stack) -> Iterator[Finding]:
    for section, value in sorted(stack.config.items()):
        for key, text in texts({section: value}):
            name = key.rpartition(":")[2]
            shape = _shape(text) or ("a secret by its name" if _NAMES.search(name) else None)
            if shape and text:
                yield Finding(
                    subject=f"secret:{section}",
                    text=f"{section} has {shape} in the clear, at {name}: put it there with "
                    "`pulumi config set --secret`, and change it, since it has been in the file",
                )
    for command in stack.commands:
        for name, text in command.settings.items():
            if shape := _shape(text):
                yield Finding(
                    subject=f"secret:{command.name}",
                    text=f"{command.name} has {shape} in its setting {name}, which everybody on "
                    "the node can read: hand it over on standard input",
                    urn=command.urn,
                )
    for resource in stack.of_kind("ConfigMap", "Deployment", "DaemonSet", "StatefulSet"):
        for _, text in texts({key: resource.props.get(key) for key in ("data", "spec")}):
            if shape := _shape(text):
                yield Finding(
                    subject=f"secret:{resource.name}",
                    text=f"{resource.kind} {resource.name} has {shape} in the clear: use a Secret",
                    urn=resource.urn,
                )


def _shape(text: str) -> str | None:
    return next((name for name, shape in _SHAPES.items() if re.search(shape, text)), None)


RULES = (
    Rule(
        name="no-plain-secrets",
        description="No secret is in plain configuration.",
        find=_find,
    ),
)
