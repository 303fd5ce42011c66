"""No secret of any kind that the program handles appears in the Markdown that it prints."""

import base64
import html
import json
import re
import string
from collections.abc import Callable
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.drift.findings import Difference, Group, Inconclusive, Report
from cli.drift.values import shown
from cli.review.preview import parse
from cli.review.summary import summary, unreadable
from components.engine_values import SECRET
from components.manifests import Manifest, kubeadm
from config.secret_values import masked, shape_of
from tests.support.kvm_stack import private_key
from tests.support.mocked import INIT_RESULT
from tests.unit.previews import as_events, object_change, preview

_BASE62 = string.ascii_letters + string.digits
_PASSWORD = _BASE62 + "!#$%&()*+,-./:;<=>?@[]^_{|}~"


def text(alphabet: str, min_size: int, max_size: int | None = None) -> st.SearchStrategy[str]:
    return st.text(alphabet, min_size=min_size, max_size=max_size or min_size)


_LOWER, _UPPER = string.ascii_lowercase + string.digits, string.ascii_uppercase + string.digits
_JWT = [text(_BASE62 + "-_", 20, 60) for _ in range(3)]

# Tokens with a known format, which are masked wherever they appear.
TOKENS = {
    "kubeadm": st.builds("{}.{}".format, text(_LOWER, 6), text(_LOWER, 16)),
    "github": st.builds("ghp_{}".format, text(_BASE62, 36)),
    "github-new": st.builds("github_pat_{}".format, text(_BASE62 + "_", 82)),
    "gitlab": st.builds("glpat-{}".format, text(_BASE62 + "-_", 20, 40)),
    "slack": st.builds("xoxb-{}".format, text(_BASE62 + "-", 20, 50)),
    "aws": st.builds("AKIA{}".format, text(_UPPER, 16)),
    "pulumi": st.builds("pul-{}".format, text("0123456789abcdef", 40)),
    "age": st.builds("AGE-SECRET-KEY-1{}".format, text(_UPPER, 58)),
    "account": st.builds("eyJ{}.eyJ{}.{}".format, *_JWT),
}  # fmt: skip
KEYS = st.binary(min_size=48, max_size=200).map(lambda raw: base64.b64encode(raw).decode())
PASSWORDS = text(_PASSWORD, 8, 40)

# Messages that contain a token.
AROUND_TOKENS: dict[str, Callable[[str], str]] = {
    "alone": lambda secret: secret,
    "sentence": lambda secret: f"the API server refused ({secret}), try again",
    "flag": lambda secret: f"kubeadm join api:6443 --token {secret} --v=5",
    "header": lambda secret: f"Authorization: Bearer {secret}\nHost: api",
    "json": lambda secret: json.dumps({"text": [secret]}),
    "yaml": lambda secret: yaml.safe_dump({"data": {"x": secret}}),
}
NAMES = (
    "token", "joinToken", "password", "bindPassword", "sshPrivateKeyPassword", "passphrase",
    "PULUMI_CONFIG_PASSPHRASE", "AWS_SECRET_ACCESS_KEY", "PULUMI_ACCESS_TOKEN", "client-key-data",
    "clientKey", "client_secret", "apiKey", "certificateKey", "private_key",
)  # fmt: skip
# Messages that contain a value that is secret only by its name.
AROUND_NAMED: dict[str, Callable[[str, str], str]] = {
    "json": lambda name, secret: json.dumps({"a": 1, name: secret, "z": 2}),
    "json in json": lambda name, secret: json.dumps({"m": json.dumps({name: secret})}),
    "yaml": lambda name, secret: yaml.safe_dump({"users": [{"user": {name: secret, "z": "b"}}]}),
    "yaml block": lambda name, secret: f"{name}: |\n  {secret}\nz: b",
    "assignment": lambda name, secret: f"export {name}={secret}\nexport Z=b",
    "python": lambda name, secret: repr({name: secret, "z": 2}),
}
KEY = "-----BEGIN {0} PRIVATE KEY-----\n{1}\n-----END {0} PRIVATE KEY-----\n"
KEY_KINDS = ("OPENSSH", "RSA", "EC", "ENCRYPTED")


def messages() -> st.SearchStrategy[tuple[str, str]]:
    """Generate a secret and a message that contains it."""
    tokens = [
        st.tuples(secrets, st.sampled_from(list(AROUND_TOKENS.values()))).map(
            lambda pair: (pair[0], pair[1](pair[0]))
        )
        for secrets in TOKENS.values()
    ]
    named = st.tuples(
        st.one_of(PASSWORDS, KEYS), st.sampled_from(NAMES), st.sampled_from(list(AROUND_NAMED))
    ).map(lambda case: (case[0], AROUND_NAMED[case[2]](case[1], case[0])))
    keys = st.tuples(KEYS, st.sampled_from(KEY_KINDS), st.booleans()).map(
        lambda case: (case[0], _key_message(*case))
    )
    addresses = PASSWORDS.map(
        lambda secret: (quote(secret, safe=""), f"postgres://u:{quote(secret, safe='')}@db/state")
    )
    return st.one_of(*tokens, named, keys, addresses)


def _key_message(body: str, kind: str, is_json: bool) -> str:
    key = KEY.format(kind, body)
    return json.dumps({"x": key}) if is_json else f"cannot use\n{key}as a key"


def rendered(markdown: str) -> str:
    """Return Markdown as a reader sees it."""
    return html.unescape(re.sub(r"\\([\\`*_\[\]|~#])", r"\1", markdown))


def service(kind: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "it"}, "type": kind}


def outputs(message: str) -> list[str]:
    """Return everything that the commands print for a message in each of their inputs."""
    errors = preview(messages=[{"severity": "error", "message": message}])
    warned = preview(messages=[{"severity": "warning", "message": message}])
    refused = {"policyName": "x", "message": message, "enforcementLevel": "mandatory"}
    value = preview(object_change(service(message), service("B"), "type"))
    different = Difference(
        subject="a", what="b", expected=shown(message), actual=shown({"x": message}), fix="e."
    )
    check = Inconclusive(subject="a", why=message, fix="c.")
    group = Group(title="Hosts", checked="1 node", differences=[different], inconclusive=[check])
    return [
        summary(parse(errors)).render(),
        summary(parse(warned)).render(),
        summary(parse(as_events(preview(), refused))).render(),
        summary(parse(value)).render(),
        unreadable("prod", message).render(),
        Report(stack="prod", groups=[group]).render(),
    ]


@given(messages())
def test_generated_secrets_are_masked(case: tuple[str, str]) -> None:
    secret, message = case
    assert len(secret) >= 8
    for markdown in outputs(message):
        assert secret not in rendered(markdown)


@pytest.mark.parametrize(
    ("message", "secrets"),
    [
        (INIT_RESULT, ["a2V5"]),
        (
            kubeadm.admin_kubeconfig(
                json.loads(INIT_RESULT), endpoint="api.example", address="192.0.2.11"
            ),
            ["a2V5"],
        ),
        (f"nordmesh:sshPrivateKey: {private_key()}", private_key().splitlines()[1:2]),
        # A truncated key.
        (private_key().partition("-----END")[0], private_key().splitlines()[1:2]),
    ],
)
def test_credentials_of_the_program_are_masked(message: str, secrets: list[str]) -> None:
    for secret in secrets:
        assert secret in message
        for markdown in outputs(message):
            assert secret not in rendered(markdown)


def test_values_of_a_field_with_a_secret_name_are_hidden() -> None:
    old, new = ({**service("A"), "password": value} for value in ("before-1", "after-22"))
    output = summary(parse(preview(object_change(old, new, "password")))).render()
    assert "`password`" in output
    assert "before-1" not in output
    assert "after-22" not in output


@pytest.mark.parametrize(
    "message",
    [
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true, and more",
        "nordmesh:sshPrivateKey\n  what  it is not set",
        "caSecret: bank-ca",
        "hostKey: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGv0457aEuQP9UlUZmC2e8QC9Qktw9CdAUl2NmMRN67m",
        "https://mirror.example.internal:8080/debian-12.qcow2",
        "docker.io/istio/pilot:1.16.5@sha256:" + "0" * 64,
        "the password of this user is not asked for",
    ],
)
def test_other_values_are_not_masked(message: str) -> None:
    assert masked(message, SECRET) == message


def test_masking_keeps_the_surrounding_text() -> None:
    assert masked("user: a\ntoken: abc\nname: b", SECRET) == f"user: a\ntoken: {SECRET}\nname: b"
    assert masked("postgres://u:p@db/state", SECRET).endswith("db/state")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("github", "a GitHub token"),
        ("github-new", "a GitHub token"),
        ("gitlab", "a GitLab token"),
        ("slack", "a Slack token"),
        ("aws", "an AWS access key"),
        ("pulumi", "a Pulumi token"),
        ("age", "an age key"),
        ("account", "a JSON web token"),
    ],
)
@settings(max_examples=10)
@given(st.data())
def test_the_kind_of_each_token_is_named(name: str, shape: str, data: st.DataObject) -> None:
    assert shape_of(data.draw(TOKENS[name])) == shape
