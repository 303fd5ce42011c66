"""The certificate in the kubeconfig: when the program asks for a new one."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from components.admin_credentials import RENEWED_AFTER, due, valid_from
from components.remote import node_command
from tests.support import mocked
from tests.unit.ending import certificate, encoded

START = datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC)


def issued(start: datetime) -> dict[str, str]:
    return {"clientCertificate": encoded(certificate(days=365, start=start))}


@pytest.mark.parametrize("year", [2026, 2049, 2050, 2075])
def test_the_start_of_a_certificate(year: int) -> None:
    start = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    assert valid_from(certificate(days=365, start=start)) == start


@pytest.mark.parametrize(
    ("days", "day"),
    [
        (0, ""),
        (274, ""),
        (275, "2027-09-01"),
        (549, "2027-09-01"),
        (550, "2028-06-02"),
        (3000, "2034-06-11"),
    ],
)
def test_a_new_certificate_is_due_every_275_days(days: int, day: str) -> None:
    assert due(issued(START), START + timedelta(days=days, hours=1)) == day


def test_the_day_stays_until_the_next_one() -> None:
    """Otherwise previews without an edit would show a change."""
    days = {due(issued(START), START + RENEWED_AFTER + timedelta(hours=n)) for n in range(6600)}
    assert days == {"2027-09-01"}


@pytest.mark.parametrize(
    "values", [{}, {"clientCertificate": "Y2VydA=="}, {"clientCertificate": "x"}]
)
def test_a_certificate_that_cannot_be_read_is_not_renewed(values: dict[str, str]) -> None:
    assert due(values, START) == ""


def result(name: str, start: datetime) -> str:
    return json.dumps({"ca": "Y2E=", **issued(start), "clientKey": encoded(name)})


def kubeconfig(
    monkeypatch: pytest.MonkeyPatch, *, age: int, new: str = ""
) -> tuple[dict[str, str], str]:
    """Run the program with a first certificate of this age, in days.

    Returns the user in the kubeconfig, and the setting of the script. new: what the script prints.
    """
    first = result("first", datetime.now(UTC) - timedelta(days=age))
    monkeypatch.setattr(mocked, "INIT_RESULT", first)
    monkeypatch.setattr(mocked, "NEW_CREDENTIALS", new)
    recorder, _ = mocked.run(mocked.config())
    command = recorder.inputs("remote:Command", "cp-1-credentials")["create"]
    (provider,) = (
        a for (typ, _), a in recorder.resources.items() if typ.endswith("providers:kubernetes")
    )
    content = yaml.safe_load(str(mocked.plain(provider.inputs["kubeconfig"])))
    user: dict[str, str] = content["users"][0]["user"]
    return user, node_command.settings(command)["SINCE"]


def test_the_first_certificate_is_used_until_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    user, since = kubeconfig(monkeypatch, age=200)
    assert since == ""
    assert base64.b64decode(user["client-key-data"]) == b"first"


def test_a_due_certificate_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    new = json.dumps({"clientCertificate": "bmV3", "clientKey": encoded("second")})
    user, since = kubeconfig(monkeypatch, age=300, new=f"a login shell's text\n{new}\n")
    assert since == f"{datetime.now(UTC) - timedelta(days=25):%Y-%m-%d}"
    assert base64.b64decode(user["client-key-data"]) == b"second"
    assert base64.b64decode(user["client-certificate-data"]) == b"new"
