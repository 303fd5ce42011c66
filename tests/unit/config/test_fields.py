"""Scalar types: the values that they accept. The test_errors files test refusals."""

import base64
from decimal import Decimal

import pytest
from pydantic import TypeAdapter, ValidationError

from config.host_keys import HostKeyRotation
from config.scalars import durations, names, numbers


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", "0.5"), ("1.5s", "1.5"), ("1h30m", "5400"), ("1m1.5s", "61.5"), ("0s", "0")],
)
def test_durations_are_converted_to_seconds(text: str, seconds: str) -> None:
    assert durations.seconds(text) == Decimal(seconds)


@pytest.mark.parametrize("text", ["", "5", "5 s", "1d", "-1s", "1h 30m", "s"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        durations.seconds(text)


def test_a_duration_may_combine_units() -> None:
    assert TypeAdapter(durations.Window).validate_python("1m30s") == "1m30s"


def test_numbers_may_be_text() -> None:
    assert TypeAdapter(numbers.Weight).validate_python("25") == 25
    assert TypeAdapter(numbers.RequestShare).validate_python("0.5") == 0.5


@pytest.mark.parametrize(
    "user", ["root", "first.last", "Admin", "_svc-deploy", "first.last@corp.example", "a" * 64]
)
def test_a_user_that_sshd_accepts_is_accepted(user: str) -> None:
    assert TypeAdapter(names.UserName).validate_python(user) == user


@pytest.mark.parametrize("user", ["", "-oProxyCommand=x", "a b", "a;b", "a'b", "$(id)", "a" * 65])
def test_a_user_that_a_shell_could_misread_is_refused(user: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(names.UserName).validate_python(user)


def test_an_rsa_host_key_may_be_replaced() -> None:
    blob = base64.b64encode(b"\0\0\0\7ssh-rsa" + bytes(128)).decode()
    previous = f"ssh-rsa {blob}"
    reason = "the ed25519 key was read on the console"
    rotation = HostKeyRotation.model_validate({"previous": previous, "reason": reason})
    assert rotation.previous == previous


@pytest.mark.parametrize("name", ["cp-1", "cp-1.example.com", "1", "a" * 63])
def test_a_name_that_kubernetes_accepts_for_a_node_is_accepted(name: str) -> None:
    assert TypeAdapter(names.NodeName).validate_python(name) == name


@pytest.mark.parametrize("name", ["", "CP-1", "cp_1", ".cp", "cp..1", "cp-1.", "a" * 64, "a b"])
def test_a_name_that_kubernetes_refuses_for_a_node_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(names.NodeName).validate_python(name)
