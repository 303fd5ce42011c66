"""The error codes of config/: unique, well-formed and each asserted by a test."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from config import (
    ALERT_SMTP_PASSWORD,
    SSH_KEY_PASSWORD,
    catalogue,
    egress,
    gateways,
    host_keys,
    keys,
    stack_file,
)
from config.errors import NordmeshError
from config.scalars import guests, http, localities, names, networks, numbers, releases
from config.services import resilience
from tests.support.paths import PROJECT
from tests.unit.config.test_errors import Load, Values, edited, refusal

# Functions that create an error, with the code as the keyword `code` or the first argument.
_BY_KEYWORD = {"NordmeshError", "Problem"}
_BY_POSITION = {
    "Refused",
    "_at_least",
    "_statement",
    "duration",
    "matching",
    "percent",
    "reason",
    "statement",
    "whole",
}
_UNREACHABLE = {"cookie-ttl-range"}  # a duration cannot be negative


def _calls(text: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield node.func.id, node


def _code(name: str, call: ast.Call) -> str | None:
    """The error code in a call; None if the call forwards the code of another error."""
    if name in _BY_KEYWORD:
        codes = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
    else:
        codes = call.args[:1] if name in _BY_POSITION else []
    return next((str(code.value) for code in codes if isinstance(code, ast.Constant)), None)


def _codes() -> Counter[str]:
    """Count the calls in config/ that use each code."""
    texts = [path.read_text() for path in sorted((PROJECT / "config").rglob("*.py"))]
    return Counter(
        code for text in texts for name, call in _calls(text) if (code := _code(name, call))
    )


def test_each_code_belongs_to_one_rule() -> None:
    assert [code for code, count in _codes().items() if count > 1] == []


def test_codes_are_well_formed() -> None:
    wrong = [code for code in _codes() if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", code)]
    assert wrong == []


def test_every_code_is_asserted_by_a_test() -> None:
    text = "\n".join(path.read_text() for path in sorted((PROJECT / "tests").rglob("*.py")))
    codes = _codes().keys() - _UNREACHABLE
    assert sorted(code for code in codes if f'"{code}"' not in text) == []


def test_the_search_finds_the_codes() -> None:
    codes = _codes()
    assert {"canary-weight-range", "node-address-duplicate", "key-unknown"} <= codes.keys()
    assert len(codes) > 200


@pytest.mark.parametrize(
    ("type_", "value", "code"),
    [
        (egress.Host, "https://user:word@api.partner.example", "egress-host-login"),
        (egress.Owner, "x", "egress-owner"),
        (egress.TransferBasis, "todo", "egress-transfer-basis"),
        (egress.WildcardReason, "todo", "egress-wildcard-reason"),
        (gateways.AnyHostReason, "todo", "any-host-reason-text"),
        (guests.DomainPrefix, "Prod_", "domain-prefix-format"),
        (host_keys.RotationReason, "todo", "host-key-rotation-reason"),
        (http.CookieName, "a b", "cookie-name-format"),
        (localities.Locality, "oslo//a", "locality-format"),
        (names.InterfaceName, "Br0", "interface-name-format"),
        (names.LabelKey, "a b", "label-key-format"),
        (networks.Ipv4, "2001:db8::1", "ipv4-version"),
        (networks.PodNetwork, "10.244.0.0/25", "pod-network-minimum"),
        (numbers.EjectionShare, 0, "ejection-share-range"),
        (numbers.HealthShare, 101, "health-share-range"),
        (numbers.KeyNumber, 0, "encryption-key-range"),
        (numbers.LocalityShare, 0, "locality-share-range"),
        (releases.HttpUrl, "http://user:word@192.0.2.1", "http-url-login"),
        (releases.ProxyUrl, "http://user:word@192.0.2.1:3128", "proxy-login"),
        (releases.Hub, "user:word@docker.io/istio", "hub-login"),
        (
            resilience.LocalitySettings,
            {"enabled": False, "failoverPriority": ["zone"]},
            "locality-disabled",
        ),
    ],
)
def test_codes_of_invalid_values(type_: Any, value: object, code: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(type_).validate_python(value)
    (detail,) = caught.value.errors()
    assert detail["ctx"]["error"].code == code


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        ({"istio.profile": None}, "value-missing"),
        ({"istio.values": {"global": None}}, "setting-replaces-reserved"),
        ({"istio.values": {"global": {"hub": "x"}}}, "setting-reserved"),
        ({"istio.values": {"pilot": {"env": {"X_CERT": "x"}}}}, "istiod-variable-reserved"),
        (
            {
                "istio.overlay": {
                    "meshConfig": {"defaultConfig": {"proxyMetadata": {"CA_ADDR": "mine:443"}}}
                }
            },
            "proxy-variable-reserved",
        ),
        (
            {"istio.values": {"pilot": {"podAnnotations": {"sidecar.istio.io/inject": "no"}}}},
            "proxy-annotation-reserved",
        ),
        (
            {
                "istio.overlay": {
                    "components": {"pilot": {"k8s": {"overlays": [{"kind": "ConfigMap"}]}}}
                }
            },
            "overlay-patch-reserved",
        ),
        ({"mesh.namespaces": {}, "mesh.services": {}}, "demo-namespace"),
    ],
)
def test_codes_of_invalid_stacks(
    load: Load, container_stack: Values, edit: dict[str, object], code: str
) -> None:
    assert code in {
        problem.code for problem in refusal(load, edited(container_stack, edit)).problems
    }


def test_the_code_of_a_truncated_ssh_key(load: Load, existing_stack: Values, ssh_key: str) -> None:
    existing_stack["sshPrivateKey"] = ssh_key.rpartition("-----END")[0]
    (problem,) = refusal(load, existing_stack).problems
    assert problem.code == "ssh-key-flawed"


def test_the_codes_of_a_lock_without_checksums(
    load: Load, existing_stack: Values, project: Path
) -> None:
    (project / catalogue.LOCK).write_text('{"binaries": {}}')
    (problem,) = refusal(load, existing_stack).problems
    assert problem.code == "lock-checksum-missing"
    with pytest.raises(NordmeshError) as caught:
        catalogue.binaries("1.23.17", None, catalogue.Lock(binaries={}))
    assert caught.value.code == "lock-checksum-absent"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "lock-missing"),
        (b"\xff", "lock-unreadable"),
        (b"{", "lock-not-json"),
        (b"[]", "lock-shape"),
        (b'{"binaries": {"a": "b"}}', "lock-checksum-format"),
        (b'{"binaries": {}, "images": []}', "lock-images-shape"),
        (b'{"binaries": {}, "images": {"a": {"amd64": "b"}}}', "lock-digest-format"),
    ],
)
def test_codes_of_invalid_locks(tmp_path: Path, content: bytes | None, code: str) -> None:
    path = tmp_path / "lock.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NordmeshError) as caught:
        catalogue.read_lock(path)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (None, "no-stack-file"),
        ("config: [", "stack-file-unreadable"),
        ("{}", "not-a-stack-file"),
    ],
)
def test_codes_of_unreadable_stack_files(tmp_path: Path, text: str | None, code: str) -> None:
    if text is not None:
        (tmp_path / "Pulumi.dev.yaml").write_text(text)
    with pytest.raises(NordmeshError) as caught:
        stack_file.read(tmp_path, "dev")
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("problems", "code"),
    [
        (keys.unread({"nordmsh:mesh": "{}"}), "prefix-unknown"),
        (keys.in_the_clear([SSH_KEY_PASSWORD]), "ssh-passphrase-unencrypted"),
        (keys.in_the_clear([ALERT_SMTP_PASSWORD]), "secret-unencrypted"),
        (keys.misplaced("config: {}\nnordmesh:mesh: {}\n", "x.yaml"), "key-outside-config"),
        (keys.misplaced("config: {}\n---\nconfig: {}\n", "x.yaml"), "several-documents"),
    ],
)
def test_codes_of_misplaced_and_unknown_keys(problems: Iterator[Any], code: str) -> None:
    assert [problem.code for problem in problems] == [code]


def test_an_error_starts_with_its_path_and_code(load: Load, container_stack: Values) -> None:
    error = refusal(load, edited(container_stack, {"mesh.services.checkout.port": 0}))
    assert error.code == "config-invalid"
    assert str(error).splitlines()[2:4] == [
        "nordmesh:mesh.services.checkout.port [port-range]",
        "    what  0 is not a port",
    ]
