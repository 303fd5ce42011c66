"""Secrets in text, recognized by their format or by the name before them."""

import re

_SHAPES = {
    name: re.compile(shape, re.DOTALL)
    for name, shape in {
        "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
        "an age key": r"AGE-SECRET-KEY-1[A-Z0-9]*",
        "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
        "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{60})\w*",
        "a GitLab token": r"\bglpat-[\w-]{20}[\w.-]*",
        "a Slack token": r"\bxox[abprs]-[\w-]{10}[\w-]*",
        "a Pulumi token": r"\bpul-[0-9a-f]{40}\b",
        "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*",
        "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/@$]+@",
    }.items()
}

_NAME = (
    r"(?:password|passwd|passphrase|private[_-]?key|access[_-]?key|secret[_-]?key|api[_-]?key"
    r"|client[_-]?secret|token)"
)
_NAMED = re.compile(f"{_NAME}$", re.IGNORECASE)

# Further secrets in messages: in a command line, a kubeconfig, a header.
_IN_MESSAGES = (
    r"\b[a-z0-9]{6}\.[a-z0-9]{16}\b",  # of kubeadm
    r"(?<=://)[^\s/:@]*:[^\s/]+(?=@)",
    r"(?i:(?<=\bbearer )\S{8,})",
    r"(?i:(?<=\bauthorization: )\S+ \S+)",
    r"(?i:(?<=--token )\S+|(?<=--password )\S+|(?<=--certificate-key )\S+)",
)
_VALUE = (
    r'(?:"(?:[^"\\]|\\.)*"?'
    r'|\\".*?(?:(?<!\\)\\"|\Z)'  # JSON within JSON
    r"|'[^']*'?"
    # A block of YAML; in JSON, its ends of lines are escaped.
    r"|[|>][+-]?[ \t]*(?:\n|\\n)(?:[ \t]+(?:(?!\\n)[^\n])*(?:\n|\\n|\Z))+"
    r"|\S+)"
)
_AFTER_NAME = (
    r"(?i:(?P<name>(?<![\w.-])[\w.-]*"
    rf"(?:{_NAME}|client[_-]?key(?:[_-]?data)?|certificate[_-]?key)"
    r"\\*[\"']?[ \t]*[:=][ \t]*)"
    rf"(?!(?:true|false|null)(?![^\s,;}}])){_VALUE})"
)
_MASKED = [
    *_SHAPES.values(),
    *(re.compile(pattern) for pattern in _IN_MESSAGES),
    re.compile(_AFTER_NAME, re.DOTALL),
]


def shape_of(text: str) -> str | None:
    """The kind of secret in a text, by its format, or None."""
    return next((name for name, shape in _SHAPES.items() if shape.search(text)), None)


def is_secret_name(name: str) -> bool:
    """Whether a value with this name is a secret; the name of a Kubernetes Secret is not."""
    return bool(_NAMED.search(name))


def masked(text: str, mask: str) -> str:
    """The text with every secret masked; it may mask too much, but not too little."""
    for pattern in _MASKED:
        text = pattern.sub(lambda match: f"{match.groupdict().get('name', '')}{mask}", text)
    return text
