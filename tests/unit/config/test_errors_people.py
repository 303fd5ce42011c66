"""Invalid settings of people and their roles: each edit gives one error."""

from typing import Any

import pytest

from config import warnings
from tests.unit.config.test_errors import GONE, Wrong, edited, expect, refusal
from tests.unit.conftest import Load, Values

CERTIFICATE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
KEY = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----"
VIEWER, DEPLOYER = "access.roles.viewer[0]", "access.roles.deployer[0]"
VIEWERS = {"users": ["kari"], "oidcUsers": ["ola"]}
DEPLOYERS = {"users": ["kari"], "namespaces": ["shop"]}


def viewers(**changes: object) -> dict[str, object]:
    """An edit of the entry of viewers."""
    return {"access.roles.viewer": [{**VIEWERS, **changes}]}


def deployers(namespaces: list[str] | None) -> dict[str, object]:
    """An edit of the entry of deployers; None removes their namespaces."""
    entry = {"users": ["kari"]}
    if namespaces is not None:
        entry["namespaces"] = namespaces
    return {"access.roles.deployer": [entry]}


ALL = [
    Wrong(
        "an issuer without TLS",
        {"access.oidc.issuerUrl": "http://login.example.no"},
        "access.oidc.issuerUrl",
        "oidc-issuer-format",
        ("over HTTPS", "openid-configuration"),
    ),
    Wrong(
        "an issuer with a login",
        {"access.oidc.issuerUrl": "https://robot:hunter2@login.example.no"},
        "access.oidc.issuerUrl",
        "oidc-issuer-format",
        ("no login",),
    ),
    Wrong(
        "a prefix of Kubernetes",
        {"access.oidc.groupsPrefix": "system:"},
        "access.oidc.groupsPrefix",
        "oidc-prefix-reserved",
        ("an administrator", "oidc:"),
    ),
    Wrong(
        "the prefix of emergencies",
        {"access.oidc.groupsPrefix": "nordmesh:"},
        "access.oidc.groupsPrefix",
        "oidc-prefix-reserved",
        ("an administrator",),
    ),
    Wrong(
        "no prefix",
        {"access.oidc.usernamePrefix": "-"},
        "access.oidc.usernamePrefix",
        "oidc-prefix-format",
        ("ends with a colon",),
    ),
    Wrong(
        "two clients in one",
        {"access.oidc.clientId": "one two"},
        "access.oidc.clientId",
        "oidc-word-format",
        ("a flag of the API server",),
    ),
    Wrong(
        "no algorithm",
        {"access.oidc.signingAlgorithms": []},
        "access.oidc.signingAlgorithms",
        "oidc-algorithms-empty",
        ("no token would be accepted", "[RS256]"),
    ),
    Wrong(
        "tokens without a signature",
        {"access.oidc.signingAlgorithms": ["none"]},
        "access.oidc.signingAlgorithms[0]",
        "choice-unknown",
        ("'none' is not one of RS256",),
    ),
    Wrong(
        "the path of a CA",
        {"access.oidc.ca": "/etc/ssl/ca.pem"},
        "access.oidc.ca",
        "oidc-ca-format",
        ("does not start with a file", "BEGIN CERTIFICATE"),
    ),
    Wrong(
        "a CA that was cut",
        {"access.oidc.ca": CERTIFICATE.replace("AAAA", "A")},
        "access.oidc.ca",
        "oidc-ca-format",
        ("not one or more certificates",),
    ),
    Wrong(
        "a CA with its key",
        {"access.oidc.ca": f"{CERTIFICATE}\n{KEY}"},
        "access.oidc.ca",
        "oidc-ca-private",
        ("replace the key",),
    ),
    Wrong(
        "a role for nobody",
        {"access.roles.viewer": [{"namespaces": ["shop"]}]},
        VIEWER,
        "access-nobody",
        ("names nobody",),
    ),
    Wrong(
        "an administrator's group",
        viewers(groups=["system:masters"]),
        f"{VIEWER}.groups[0]",
        "access-name-format",
        ("names of tokens go into oidcUsers",),
    ),
    Wrong(
        "a name of two lines",
        viewers(oidcUsers=["kari\nola"]),
        f"{VIEWER}.oidcUsers[0]",
        "access-oidc-name-format",
        ("as in the token",),
    ),
    Wrong(
        "a name with the prefix",
        viewers(oidcUsers=["oidc:kari"]),
        f"{VIEWER}.oidcUsers[0]",
        "access-oidc-name-prefixed",
        ("nordmesh adds the prefix", "use kari"),
    ),
    Wrong(
        "names in tokens without a provider",
        {"access.oidc": GONE},
        f"{VIEWER}.oidcUsers",
        "access-oidc-missing",
        ("accepts no tokens", "users and groups"),
    ),
    Wrong(
        "a deployer of everything",
        deployers([]),
        f"{DEPLOYER}.namespaces",
        "access-namespaces-empty",
        ("always listed",),
    ),
    Wrong(
        "a deployer without namespaces",
        deployers(None),
        f"{DEPLOYER}.namespaces",
        "key-missing",
        ("namespaces is missing", "[shop]"),
    ),
    Wrong(
        "a viewer of no namespace",
        viewers(namespaces=[]),
        f"{VIEWER}.namespaces",
        "list-empty",
        ("the whole cluster", "remove the entry"),
    ),
    Wrong(
        "a misspelt namespace",
        deployers(["shopp"]),
        f"{DEPLOYER}.namespaces[0]",
        "access-namespace-unknown",
        ("use shop, or add shopp to mesh.namespaces",),
    ),
    Wrong(
        "a system namespace",
        deployers(["kube-system"]),
        f"{DEPLOYER}.namespaces[0]",
        "access-namespace-unknown",
        ("administrator rights",),
    ),
    Wrong(
        "a role that does not exist",
        {"access.roles.operators": [{"users": ["kari"]}]},
        "access.roles.operators",
        "key-unknown",
        ("use operator",),
    ),
]


@pytest.fixture
def staffed(container_stack: Values) -> Values:
    """A stack with a provider and people in each role."""
    access: dict[str, Any] = {
        "oidc": {
            "issuerUrl": "https://login.example.no/realms/platform",
            "clientId": "nordmesh-prod",
            "ca": CERTIFICATE,
        },
        "roles": {
            "viewer": [VIEWERS],
            "deployer": [DEPLOYERS],
            "operator": [{"groups": ["platform"]}],
        },
    }
    return {**container_stack, "access": access}


@pytest.mark.parametrize("wrong", ALL, ids=[wrong.name for wrong in ALL])
def test_an_invalid_setting_is_refused(load: Load, staffed: Values, wrong: Wrong) -> None:
    error = refusal(load, edited(staffed, wrong.edit))
    expect(error, wrong)
    assert "hunter2" not in str(error)


def test_the_unedited_stack_warns_of_what_roles_cannot_prevent(load: Load, staffed: Values) -> None:
    config = load(staffed)
    (line,) = (line for line in warnings.warnings(config) if line.startswith("access"))
    assert "deployers and operators can start privileged pods in" in line
    assert "shop" in line
    assert "plain" not in line
    open_to_all = {"level": "privileged", "reason": "its agents read the logs of the nodes"}
    config = load(edited(staffed, {"mesh.namespaces.plain.podSecurity": open_to_all}))
    assert any("plain, shop" in line for line in warnings.warnings(config))
    assert any("its agents read the logs" in line for line in warnings.warnings(config))


def test_viewers_alone_need_no_warning(load: Load, staffed: Values) -> None:
    config = load({**staffed, "access": {"roles": {"viewer": [{"users": ["kari"]}]}}})
    assert not [line for line in warnings.warnings(config) if line.startswith("access")]


def test_a_ca_is_stored_without_what_is_around_its_certificates(
    load: Load, staffed: Values
) -> None:
    edit: dict[str, object] = {
        "access.oidc.ca": f"# Our CA\n{CERTIFICATE}\n\nand the next\n{CERTIFICATE}\n"
    }
    access = load(edited(staffed, edit)).access
    assert access is not None
    assert access.oidc is not None
    assert access.oidc.ca == f"{CERTIFICATE}\n{CERTIFICATE}"
