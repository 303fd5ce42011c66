"""The roles of people as objects and resources, and what `nordmesh kubeconfig` refuses."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cli import kubeconfig, pulumi_cli
from components.manifests import kubeadm, people, pipeline
from components.remote.node_command import settings_of
from config import Access
from config.errors import NordmeshError
from tests.support.mocked import Recorder, base_sections, changed, config, plain, run
from tests.support.paths import PROJECT
from tests.unit.commands import nordmesh
from tests.unit.conftest import HOST_KEYS

ROLES: dict[str, Any] = {
    "viewer": [
        {"users": ["kari"], "oidcGroups": ["developers"]},
        {"users": ["kari", "ola"], "namespaces": ["shop"]},
    ],
    "deployer": [{"groups": ["shop-team"], "namespaces": ["shop"]}],
    "operator": [{"groups": ["platform"]}],
}
OIDC = {
    "issuerUrl": "https://login.example.no",
    "clientId": "nordmesh-prod",
    "usernamePrefix": "people:",
    "groupsPrefix": "teams:",
}
ACCESS: dict[str, Any] = {"oidc": OIDC, "roles": ROLES}


def subjects(access: dict[str, Any], *namespaces: str) -> dict[tuple[str, str | None], list[str]]:
    """Who has which role where."""
    return {
        (one["roleRef"]["name"], one["metadata"].get("namespace")): [
            f"{subject['kind']} {subject['name']}" for subject in one["subjects"]
        ]
        for one in people.bindings(Access.model_validate(access), namespaces)
    }


def test_there_is_one_binding_for_each_role_and_place() -> None:
    assert subjects(ACCESS, "backend", "shop") == {
        ("nordmesh-viewer", None): ["User kari", "Group teams:developers"],
        ("nordmesh-viewer", "shop"): ["User kari", "User ola"],
        ("nordmesh-deployer", "shop"): ["Group shop-team"],
        ("nordmesh-operator", None): ["Group platform"],
        ("nordmesh-namespace-operator", "backend"): ["Group platform"],
        ("nordmesh-namespace-operator", "shop"): ["Group platform"],
        ("cluster-admin", None): ["Group nordmesh:emergency"],
    }


def test_names_in_tokens_get_their_prefix() -> None:
    access = {"oidc": OIDC, "roles": {"viewer": [{"oidcUsers": ["a@b.no"], "oidcGroups": ["x"]}]}}
    assert subjects(access)["nordmesh-viewer", None] == ["User people:a@b.no", "Group teams:x"]


def test_a_person_in_two_entries_is_one_subject() -> None:
    access = {"roles": {"viewer": [{"users": ["kari"]}, {"users": ["kari", "ola"]}]}}
    assert subjects(access)["nordmesh-viewer", None] == ["User kari", "User ola"]


def test_an_operator_of_some_namespaces_has_no_role_in_the_cluster() -> None:
    access = {"roles": {"operator": [{"users": ["oda"], "namespaces": ["shop"]}]}}
    places = subjects(access, "backend", "shop")
    assert places.keys() == {("nordmesh-namespace-operator", "shop"), ("cluster-admin", None)}


# --- resources ------------------------------------------------------------------------------------


def recorded(access: dict[str, Any] | None) -> Recorder:
    sections = {"access": access} if access else {}
    return run(config(**sections))[0]


def test_an_edit_of_a_list_of_people_is_one_update() -> None:
    roles = {
        **ROLES,
        "deployer": [{"groups": ["shop-team"], "users": ["eli"], "namespaces": ["shop"]}],
    }
    before, after = recorded(ACCESS), recorded({**ACCESS, "roles": roles})
    assert before.resources.keys() == after.resources.keys()
    assert changed(before, after) == ["shop/nordmesh-deployer"]


def test_a_binding_waits_for_its_role_and_its_namespace() -> None:
    options = recorded(ACCESS).options["RoleBinding shop/nordmesh-deployer"]
    assert {"ClusterRole nordmesh-deployer", "Namespace shop"} <= set(options["depends_on"])


def user_of(recorder: Recorder, provider: str) -> dict[str, str]:
    """The user in the kubeconfig of a provider."""
    text = plain(recorder.inputs("pulumi:providers:kubernetes", provider)["kubeconfig"])
    user: dict[str, str] = yaml.safe_load(str(text))["users"][0]["user"]
    return user


def test_the_program_acts_in_a_role_of_its_own() -> None:
    recorder = recorded(ACCESS)
    assert user_of(recorder, "cluster")["as"] == pipeline.USER
    assert "as" not in user_of(recorder, "administrator")
    given = {
        name
        for name, options in recorder.options.items()
        if options.get("provider") == "kubernetes administrator"
    }
    roles = ("deployer", "namespace-operator", "operator", "pipeline", "viewer")
    assert {name for name in given if name.startswith("ClusterRole ")} == {
        f"ClusterRole nordmesh-{role}" for role in roles
    }
    assert "ClusterRoleBinding nordmesh-emergency" in given
    assert recorder.options["Namespace shop"]["provider"] == ("kubernetes cluster")


def test_a_stack_without_the_section_has_no_roles() -> None:
    recorder = recorded(None)
    names = recorder.names(":ClusterRole")
    assert not [name for name in names if name in {people.VIEWER, pipeline.NAME}]
    assert recorder.names("providers:kubernetes") == ["cluster"]
    assert "as" not in user_of(recorder, "cluster")


def test_the_provider_is_a_setting_of_the_api_server_on_every_control_plane() -> None:
    ca = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"
    access = {**ACCESS, "oidc": {**OIDC, "ca": ca, "signingAlgorithms": ["RS256", "ES256"]}}
    before, after = recorded({"roles": {}}), recorded(access)
    assert "cp-1-init" in changed(before, after)
    settings = settings_of(after.inputs("remote:Command", "cp-1-init"))
    assert settings["OIDC_CA"] == ca
    documents = kubeadm.from_yaml(settings["CLUSTER_CONFIG"])
    (cluster,) = (one for one in documents if one["kind"] == "ClusterConfiguration")
    flags = cluster["apiServer"]["extraArgs"]
    assert {key: value for key, value in flags.items() if key.startswith("oidc")} == {
        "oidc-ca-file": "/etc/kubernetes/pki/nordmesh-oidc-ca.pem",
        "oidc-client-id": "nordmesh-prod",
        "oidc-groups-claim": "groups",
        "oidc-groups-prefix": "teams:",
        "oidc-issuer-url": "https://login.example.no",
        "oidc-signing-algs": "RS256,ES256",
        "oidc-username-claim": "sub",
        "oidc-username-prefix": "people:",
    }
    assert flags["audit-log-path"]


# --- nordmesh kubeconfig --------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose stack prod has ROLES; its cluster must not be asked."""
    return made(tmp_path, monkeypatch, {"access": {**ACCESS, "roles": ROLES}})


def made(folder: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]) -> Path:
    values: dict[str, Any] = base_sections() | sections
    values["machines"]["nodes"]["worker-1"]["hostKey"] = HOST_KEYS[1]
    document = {f"nordmesh:{key}": value for key, value in values.items()}
    lock = PROJECT / "stacks" / "artifacts.lock.json"
    (folder / "stacks").mkdir()
    (folder / "stacks" / lock.name).write_bytes(lock.read_bytes())
    (folder / "Pulumi.yaml").write_text("name: nordmesh\nruntime: python\n")
    (folder / "Pulumi.prod.yaml").write_text(yaml.safe_dump({"config": document}))

    def refuse(_stack: str) -> str:
        raise AssertionError("the administrator's credential was read")

    monkeypatch.setattr(pulumi_cli, "kubeconfig", refuse)
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "phrase"),
    [
        (("--for", "nils"), "kubeconfig-no-role", "add nils to a role of access.roles"),
        (("--for", "nils", "--group", "sales"), "kubeconfig-no-role", "the group sales has no"),
        (("--for", "kari", "--group", "sales"), "kubeconfig-no-role", "the group sales has no"),
        (("--for", "system:admin"), "access-name-format", "'system:admin' is not a name"),
        (("--for", "kari", "--group", "system:masters"), "access-name-format", "system:masters"),
        (
            ("--for", "kari", "--group", "platform", "--emergency"),
            "kubeconfig-emergency-group",
            "remove --group",
        ),
    ],
)
def test_a_certificate_without_a_role_is_not_issued(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: str,
    phrase: str,
) -> None:
    assert nordmesh(project, "kubeconfig", "--stack", "prod", *arguments) == 1
    text = " ".join(capsys.readouterr().err.split())
    assert f"[{code}]" in text
    assert phrase in text


def test_a_stack_without_the_section_issues_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = made(tmp_path, monkeypatch, {})
    assert nordmesh(project, "kubeconfig", "--stack", "prod", "--for", "kari") == 1
    assert "[access-not-configured]" in capsys.readouterr().err


def test_a_kubeconfig_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(NordmeshError) as refused:
        kubeconfig.write(tmp_path / "missing" / "kari.yaml", "secret")
    assert refused.value.code == "kubeconfig-not-written"
    folder = tmp_path / "folder"
    (folder / "taken").mkdir(parents=True)
    with pytest.raises(NordmeshError):
        kubeconfig.write(folder / "taken", "secret")
    assert [path.name for path in folder.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    ("users", "groups", "roles"),
    [
        (["kari"], [], ["viewer", "viewer in shop"]),
        ([], ["shop-team"], ["deployer in shop"]),
        (["kari"], ["platform"], ["viewer", "viewer in shop", "operator"]),
        (["developers"], ["kari"], []),
    ],
)
def test_the_roles_of_a_certificate_are_those_of_the_stack_file(
    users: list[str], groups: list[str], roles: list[str]
) -> None:
    assert people.certificate_roles(Access.model_validate(ACCESS), users, groups) == roles
