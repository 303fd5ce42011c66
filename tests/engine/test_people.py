"""The roles of people, their certificates and tokens, at a real API server with RBAC.

Expectations are written out here: they do not read the rules that they check.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from cli import pulumi_cli
from cli.signing import Owner, issue
from components.gates.api import connect
from components.manifests import hardening, oidc, people
from config import Access
from config.errors import NordmeshError
from lab import paths
from tests.engine.conftest import wait_until
from tests.engine.issuer import FakeIssuer, fake_issuer, new_key
from tests.engine.rbac_server import ApiServer, Authority, Login, Values, api_server
from tests.support.mocked import base_sections
from tests.unit.commands import nordmesh
from tests.unit.conftest import HOST_KEYS

CLIENT = "nordmesh-prod"
NAMESPACES = ["backend", "shop"]
ROLES: Values = {
    "viewer": [
        {"users": ["vera"], "oidcUsers": ["kari@example.no"]},
        {"groups": ["shop-readers"], "oidcGroups": ["shop"], "namespaces": ["shop"]},
    ],
    "deployer": [{"users": ["dag"], "namespaces": ["shop"]}],
    "operator": [{"groups": ["platform"]}, {"users": ["oda"], "namespaces": ["shop"]}],
}
# The people of the matrix: the name, the groups, and the role that each has by place.
PEOPLE: dict[str, tuple[list[str], dict[str | None, str]]] = {
    "vera": ([], {None: "viewer"}),
    "ragna": (["shop-readers"], {"shop": "viewer"}),
    "dag": ([], {"shop": "deployer"}),
    "olga": (["platform"], {None: "operator", "shop": "owner", "backend": "owner"}),
    "oda": ([], {"shop": "owner"}),
    "nils": (["other"], {}),
}
PLACES = ["shop", "backend", "kube-system"]
VERBS = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"]
READING = {"get", "list", "watch"}
ISTIO = [
    ("networking.istio.io", name)
    for name in (
        "destinationrules", "envoyfilters", "gateways", "serviceentries", "sidecars",
        "virtualservices",
    )
] + [
    ("security.istio.io", "authorizationpolicies"),
    ("security.istio.io", "peerauthentications"),
    ("telemetry.istio.io", "telemetries"),
    ("extensions.istio.io", "wasmplugins"),
]  # fmt: skip
# What only the API server itself and other programs use.
UNREAD_CORE = {"secrets", "bindings", "componentstatuses"}
UNREAD_GROUPS = {
    "authentication.k8s.io", "authorization.k8s.io", "internal.apiserver.k8s.io",
}  # fmt: skip
BY_EVERYONE = {("create", "selfsubjectaccessreviews"), ("create", "selfsubjectrulesreviews")}
EDIT = {"create", "update", "patch", "delete"}
DEPLOYED: dict[tuple[str, str], set[str]] = {
    **dict.fromkeys(
        [
            ("", "configmaps"), ("", "services"), ("", "serviceaccounts"),
            ("apps", "deployments"), ("apps", "statefulsets"), ("apps", "daemonsets"),
            ("batch", "jobs"), ("batch", "cronjobs"),
            ("autoscaling", "horizontalpodautoscalers"), ("policy", "poddisruptionbudgets"),
            ("networking.istio.io", "virtualservices"),
            ("networking.istio.io", "destinationrules"),
        ],
        EDIT,
    ),
    ("", "persistentvolumeclaims"): {"create", "update", "patch"},
    ("", "pods"): {"delete"},
    ("", "pods/eviction"): {"create"},
    ("apps", "deployments/scale"): {"update", "patch"},
    ("apps", "statefulsets/scale"): {"update", "patch"},
}  # fmt: skip
OWNED = {
    "configmaps", "persistentvolumeclaims", "pods", "replicationcontrollers", "secrets",
    "serviceaccounts", "services",
}  # fmt: skip
OWNED_GROUPS = {
    "apps", "autoscaling", "batch", "policy", "networking.istio.io", "security.istio.io",
    "telemetry.istio.io", "extensions.istio.io",
}  # fmt: skip
OWNED_SUBRESOURCES: dict[str, set[str]] = {
    "pods/attach": {"get", "create"},
    "pods/exec": {"get", "create"},
    "pods/portforward": {"get", "create"},
    "pods/eviction": {"create"},
    "pods/ephemeralcontainers": {"update", "patch"},
}
OPERATED = {"nodes": {"update", "patch"}, "pods": {"delete"}, "pods/eviction": {"create"}}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def issuer(authority: Authority) -> Iterator[FakeIssuer]:
    with fake_issuer(authority, CLIENT) as issuer:
        yield issuer


@pytest.fixture(scope="module")
def access(issuer: FakeIssuer, authority: Authority) -> Access:
    provider = {
        "issuerUrl": issuer.url,
        "clientId": CLIENT,
        "usernameClaim": "email",
        "ca": authority.file.read_text(),
    }
    return Access.model_validate({"oidc": provider, "roles": ROLES})


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, authority: Authority, access: Access
) -> Iterator[ApiServer]:
    """An API server with the flags, the namespaces and the roles of the access."""
    folder = tmp_path_factory.mktemp("server")
    (folder / "policy.yaml").write_text(hardening.audit_policy())
    flags = {
        **oidc.flags(access.oidc),
        "oidc-ca-file": str(authority.file),
        "audit-policy-file": "policy.yaml",
        "audit-log-path": "audit.log",
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    with api_server(folder, authority, *words) as server:
        for namespace in NAMESPACES:
            metadata = {"metadata": {"name": namespace}}
            server.ok("POST", "/api/v1/namespaces", metadata)
        for manifest in [*people.roles(), *people.bindings(access, NAMESPACES)]:
            status, answer = server.apply(manifest)
            assert status == 201, answer
        yield server


def logged_in(server: ApiServer, folder: Path, owner: Owner) -> tuple[Login, datetime]:
    """A certificate that the cluster issued, and its end."""
    with connect(server.administrator) as api:
        issued = issue(api, owner)
    login = Login(certificate=folder / "person.crt", key=folder / "person.key")
    login.certificate.write_bytes(issued.certificate)
    login.key.write_bytes(issued.key)
    return login, issued.ends


# --- what each role may do ------------------------------------------------------------------------


def resources(server: ApiServer) -> dict[tuple[str, str], bool]:
    """Every resource of the API server and of Istio, and whether it has a namespace."""
    groups = server.ok("GET", "/apis")["groups"]
    versions = ["v1"] + [v["groupVersion"] for group in groups for v in group["versions"]]
    found = dict.fromkeys(ISTIO, True)
    for version in versions:
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        group = version.rpartition("/")[0]
        for one in server.ok("GET", base)["resources"]:
            found[group, one["name"]] = one["namespaced"]
    return found


def may(person: str, verb: str, group: str, resource: str, place: str | None) -> bool:
    """Whether a person may do something, as docs/people.md says."""
    if group == "authorization.k8s.io" and (verb, resource) in BY_EVERYONE:
        return True
    _, roles = PEOPLE[person]
    mine = {role for where, role in roles.items() if where in (None, place)}
    if mine and verb in READING:
        if group and group not in UNREAD_GROUPS:
            return True
        if group == "" and "/" not in resource and resource not in UNREAD_CORE:
            return True
        if (group, resource) == ("", "pods/log"):
            return True
    if "operator" in mine and group == "" and verb in OPERATED.get(resource, ()):
        return True
    if "deployer" in mine and verb in DEPLOYED.get((group, resource), ()):
        return True
    if "owner" in mine and place is not None:
        if group == "":
            return resource in OWNED or verb in OWNED_SUBRESOURCES.get(resource, ())
        if (group, resource) in (
            ("networking.k8s.io", "ingresses"),
            ("networking.k8s.io", "networkpolicies"),
        ):
            return True
        return group in OWNED_GROUPS
    return False


def allowed(
    server: ApiServer, person: str, verb: str, group: str, resource: str, place: str | None
) -> bool:
    """Ask the API server."""
    name, _, subresource = resource.partition("/")
    attributes = {
        "verb": verb,
        "group": group,
        "resource": name,
        "subresource": subresource,
        "namespace": place or "",
        "name": "some",
    }
    review = {
        "user": person,
        "groups": [*PEOPLE[person][0], "system:authenticated"],
        "resourceAttributes": attributes,
    }
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(server.ok("POST", path, {"spec": review})["status"]["allowed"])


def test_each_role_may_do_what_is_documented_and_no_more(server: ApiServer) -> None:
    questions = [
        (person, verb, group, resource, place)
        for (group, resource), has_namespace in resources(server).items()
        for place in (PLACES if has_namespace else [None])
        for person, verb in itertools.product(PEOPLE, VERBS)
    ]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda question: allowed(server, *question), questions))
    wrong = [
        f"{question}: {'allowed' if answer else 'refused'}"
        for question, answer in zip(questions, answers, strict=True)
        if answer != may(*question)
    ]
    print(f"{len(questions)} requests reviewed, {sum(answers)} allowed, {len(wrong)} unexpected")
    assert not wrong, "\n".join(wrong[:40])
    assert len(questions) > 5000
    assert sum(answers) > 500


@pytest.mark.parametrize("person", PEOPLE)
def test_nobody_can_give_themselves_more(server: ApiServer, person: str) -> None:
    rights = [
        ("impersonate", "", "users"),
        ("impersonate", "", "groups"),
        ("impersonate", "", "serviceaccounts"),
        ("escalate", "rbac.authorization.k8s.io", "clusterroles"),
        ("escalate", "rbac.authorization.k8s.io", "roles"),
        ("bind", "rbac.authorization.k8s.io", "clusterroles"),
        ("bind", "rbac.authorization.k8s.io", "roles"),
        ("approve", "certificates.k8s.io", "signers"),
        ("sign", "certificates.k8s.io", "signers"),
        ("create", "", "serviceaccounts/token"),
        ("get", "", "nodes/proxy"),
        ("create", "", "nodes/proxy"),
    ]
    for verb, group, resource in rights:
        for place in (None, *PLACES):
            assert not allowed(server, person, verb, group, resource, place), (verb, resource)


# --- certificates ---------------------------------------------------------------------------------


def test_the_certificate_of_a_viewer_reads_pods_and_no_secrets(
    server: ApiServer, tmp_path: Path
) -> None:
    before = datetime.now(UTC)
    owner = Owner(name="vera", groups=[], lifetime=timedelta(days=3))
    login, ends = logged_in(server, tmp_path, owner)
    assert timedelta(days=2, hours=23) < ends - before < timedelta(days=3, minutes=10)
    assert server.request("GET", "/api/v1/namespaces/shop/pods", login=login)[0] == 200
    assert server.request("GET", "/api/v1/nodes", login=login)[0] == 200
    status, answer = server.request("GET", "/api/v1/namespaces/shop/secrets", login=login)
    assert status == 403
    assert 'User "vera" cannot list resource "secrets"' in answer["message"]
    body = {"metadata": {"name": "x"}, "data": {}}
    path = "/api/v1/namespaces/shop/configmaps"
    assert server.request("POST", path, body, login=login)[0] == 403


def test_a_certificate_is_refused_after_its_end(server: ApiServer, authority: Authority) -> None:
    path = "/api/v1/namespaces/shop/pods"
    assert server.request("GET", path, login=authority.login("vera", days=0.1))[0] == 200
    assert server.request("GET", path, login=authority.login("vera", days=-0.01))[0] == 401


def test_a_group_of_a_certificate_has_its_role(server: ApiServer, tmp_path: Path) -> None:
    owner = Owner(name="ragna", groups=["shop-readers"], lifetime=timedelta(days=1))
    login, _ = logged_in(server, tmp_path, owner)
    assert server.request("GET", "/api/v1/namespaces/shop/pods", login=login)[0] == 200
    assert server.request("GET", "/api/v1/namespaces/backend/pods", login=login)[0] == 403


def test_nobody_is_an_administrator_by_group(server: ApiServer) -> None:
    owner = Owner(name="nils", groups=["system:masters"], lifetime=timedelta(days=1))
    with connect(server.administrator) as api, pytest.raises(NordmeshError) as refused:
        issue(api, owner)
    assert refused.value.code == "kubeconfig-not-issued"
    assert "system:masters" in refused.value.what


def test_a_right_ends_when_the_name_leaves_the_stack_file(
    server: ApiServer, authority: Authority, access: Access
) -> None:
    path, login = "/api/v1/namespaces/backend/pods", authority.login("vera")
    assert server.request("GET", path, login=login)[0] == 200
    roles = {**ROLES, "viewer": [{"users": ["other"]}]}
    without = Access.model_validate({"roles": roles})
    (binding,) = (
        one
        for one in people.bindings(without, NAMESPACES)
        if one["kind"] == "ClusterRoleBinding" and one["metadata"]["name"] == people.VIEWER
    )
    try:
        assert server.apply(binding)[0] == 200
        wait_until(lambda: server.request("GET", path, login=login)[0] == 403, "vera is refused")
    finally:
        for manifest in people.bindings(access, NAMESPACES):
            server.apply(manifest)
    wait_until(lambda: server.request("GET", path, login=login)[0] == 200, "vera may read again")


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, server: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stack prod has the server's cluster, and gives ROLES."""
    roles = {key: [_without_tokens(entry) for entry in ROLES[key]] for key in ROLES}
    sections = base_sections() | {"access": {"roles": roles}}
    sections["mesh"]["namespaces"] = {"shop": {}, "backend": {}}  # type: ignore[index]
    sections["machines"]["nodes"]["worker-1"]["hostKey"] = HOST_KEYS[1]  # type: ignore[index]
    document = {"config": {f"nordmesh:{key}": value for key, value in sections.items()}}
    lock = Path(__file__).resolve().parents[2] / "stacks" / "artifacts.lock.json"
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / lock.name).write_bytes(lock.read_bytes())
    (tmp_path / "Pulumi.yaml").write_text("name: nordmesh\nruntime: python\n")
    (tmp_path / "Pulumi.prod.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr(pulumi_cli, "kubeconfig", lambda _stack: server.administrator)
    return tmp_path


def _without_tokens(entry: Values) -> Values:
    return {key: value for key, value in entry.items() if not key.startswith("oidc")}


def kubectl(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = paths.cache().bin / "kubernetes" / "kubectl"
    return subprocess.run(
        [program, f"--kubeconfig={kubeconfig}", f"--cache-dir={kubeconfig.parent}", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_kubeconfig_of_a_person_works_with_kubectl(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "dag.yaml"
    file.write_text("an old one that others could read")
    file.chmod(0o644)
    arguments = ("--stack", "prod", "--for", "dag", "--days", "7", "--output", str(file))
    assert nordmesh(project, "kubeconfig", *arguments) == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert "dag has deployer in shop until" in capsys.readouterr().err
    assert "dag@oslo" in kubectl(file, "config", "current-context").stdout
    create = ("create", "--namespace=shop", "configmap", "settings")
    assert kubectl(file, *create).returncode == 0, kubectl(file, *create).stderr
    refused = kubectl(file, "get", "--namespace=shop", "secrets")
    assert refused.returncode == 1
    assert 'secrets is forbidden: User "dag" cannot list' in refused.stderr
    assert kubectl(file, "get", "--namespace=backend", "pods").returncode == 1
    assert not [path for path in project.iterdir() if path.name.startswith(".dag")]


def test_a_printed_kubeconfig_has_no_credential_of_the_administrator(
    project: Path, server: ApiServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--stack", "prod", "--for", "olga", "--group", "platform")
    assert nordmesh(project, "kubeconfig", *arguments) == 0
    printed = capsys.readouterr().out
    content = yaml.safe_load(printed)
    own = yaml.safe_load(server.administrator)
    assert content["clusters"][0]["cluster"] == own["clusters"][0]["cluster"]
    for secret in own["users"][0]["user"].values():
        assert secret not in printed
    key = base64.b64decode(content["users"][0]["user"]["client-key-data"])
    assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
    requests = server.ok("GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests")
    assert key.decode() not in str(requests)


def test_an_emergency_has_all_rights_for_hours_under_the_name_of_a_person(
    project: Path, server: ApiServer
) -> None:
    file = project / "emergency.yaml"
    arguments = ("--stack", "prod", "--for", "kari", "--emergency", "--output", str(file))
    assert nordmesh(project, "kubeconfig", *arguments) == 0
    assert kubectl(file, "get", "--namespace=kube-system", "secrets").returncode == 0
    assert kubectl(file, "auth", "can-i", "*", "*").stdout == "yes\n"
    items = server.ok("GET", "/apis/certificates.k8s.io/v1/certificatesigningrequests")["items"]
    (request,) = (one for one in items if "emergency-kari" in one["metadata"]["name"])
    assert request["spec"]["expirationSeconds"] == 8 * 3600
    assert request["spec"]["username"] == "admin"
    events = audited(server)
    name = request["metadata"]["name"]
    assert ("admin", "update", "certificatesigningrequests/approval", name) in events
    assert ("nordmesh:emergency:kari", "list", "secrets", "") in events


def audited(server: ApiServer) -> set[tuple[str, str, str, str]]:
    """Who did what to what, as the audit log has it."""
    found = set()
    for line in (server.folder / "audit.log").read_text().splitlines():
        event = json.loads(line)
        thing = event.get("objectRef") or {}
        kind = "/".join(filter(None, (thing.get("resource"), thing.get("subresource"))))
        # A request without a login that is known has no user.
        found.add((event["user"].get("username", ""), event["verb"], kind, thing.get("name", "")))
    return found


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_of_the_provider_is_accepted_with_its_prefix(
    server: ApiServer, issuer: FakeIssuer
) -> None:
    token = issuer.token(sub="1", email="kari@example.no", email_verified=True)
    path = "/api/v1/namespaces/backend/pods"
    # The API server fetches the issuer's keys in the background.
    wait_until(lambda: server.request("GET", path, token=token)[0] == 200, "the token is accepted")
    status, answer = server.request("GET", "/api/v1/namespaces/backend/secrets", token=token)
    assert status == 403
    assert 'User "oidc:kari@example.no" cannot list' in answer["message"]


def test_a_group_of_a_token_has_its_role(server: ApiServer, issuer: FakeIssuer) -> None:
    token = issuer.token(sub="2", email="ola@example.no", email_verified=True, groups=["shop"])
    path = "/api/v1/namespaces/{}/pods"
    wait_until(
        lambda: server.request("GET", path.format("shop"), token=token)[0] == 200,
        "the token is accepted",
    )
    assert server.request("GET", path.format("backend"), token=token)[0] == 403


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "another-client"},
        {"exp": int(time.time()) - 60},
        {"iss": "https://another.example.no"},
        {"email_verified": False},
    ],
    ids=["audience", "expired", "issuer", "unverified"],
)
def test_another_token_is_refused(server: ApiServer, issuer: FakeIssuer, claims: Values) -> None:
    owner: Values = {"sub": "1", "email": "kari@example.no", "email_verified": True}
    path = "/api/v1/namespaces/backend/pods"
    good = issuer.token(**owner)
    wait_until(lambda: server.request("GET", path, token=good)[0] == 200, "tokens are accepted")
    assert server.request("GET", path, token=issuer.token(**{**owner, **claims}))[0] == 401


def test_a_token_with_another_signature_is_refused(server: ApiServer, issuer: FakeIssuer) -> None:
    token = issuer.token(key=new_key(), sub="1", email="kari@example.no", email_verified=True)
    assert server.request("GET", "/api/v1/namespaces/backend/pods", token=token)[0] == 401


def test_a_provider_cannot_name_anybody_an_administrator(
    server: ApiServer, issuer: FakeIssuer
) -> None:
    groups = ["system:masters", people.EMERGENCY_GROUP, "platform"]
    token = issuer.token(sub="3", email="vera", email_verified=True, groups=groups)
    good = issuer.token(sub="1", email="kari@example.no", email_verified=True)
    path = "/api/v1/namespaces/backend/pods"
    wait_until(lambda: server.request("GET", path, token=good)[0] == 200, "tokens are accepted")
    assert server.request("GET", path, token=token)[0] == 403
