"""The summary of a preview against golden files; `make golden` rewrites them, for review."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cli.review.markdown import LIMIT, Part, plain
from cli.review.preview import UnreadableError, parse
from cli.review.summary import summary
from components import quorum
from components.manifests import Manifest, jwt, mtls, routes
from components.remote.node_command import Script, file, settings
from config import Gateway, Mesh, Namespace, Service, annotations
from tests.support.generated_routes import objects
from tests.support.golden import check
from tests.unit.commands import nordmesh
from tests.unit.previews import (
    SECRET_TEXT,
    UNKNOWN,
    Step,
    as_events,
    change,
    component,
    install,
    object_change,
    prepare,
    preview,
    script_change,
    urn,
)

CONFIG = {
    "kubernetes": {"version": "1.23.17"},
    "istio": {"version": "1.16.5"},
    "machines": {
        "nodes": {
            "worker-9": {
                "role": "worker",
                "address": "192.0.2.29",
                "privateAddress": "10.0.0.29",
            }
        }
    },
    "mesh": {
        "services": {
            "checkout": {
                "namespace": "shop",
                "canary": {
                    "subset": "v2",
                    "weight": 25,
                    "gate": {"minSuccessRate": 99.5, "window": "5m"},
                },
            }
        }
    },
}


def route(weight: int, **changes: Any) -> Manifest:
    service = Service.model_validate(
        {
            "namespace": "shop",
            "port": 8080,
            "stable": "v1",
            "canary": {"subset": "v2", "weight": weight},
        }
    )
    manifest = routes.virtual_service("checkout", service)
    manifest["spec"]["http"][0] |= changes
    return manifest


def route_for_testers(subset: str) -> Manifest:
    """Route for testers before the split, in the mesh and at a gateway."""
    manifest = route(10)
    destination = {"host": "checkout.shop.svc.cluster.local", "subset": subset}
    testers = {"headers": {"x-tester": {"exact": "a|b"}}, "uri": {"prefix": "/v2"}}
    scopes: list[Manifest] = [{"port": 8080, "gateways": ["mesh"]}, {"gateways": ["shop/public"]}]
    match = [testers | scope for scope in scopes]
    manifest["spec"]["http"].insert(0, {"match": match, "route": [{"destination": destination}]})
    manifest["spec"]["gateways"] = ["mesh", "shop/public"]
    return manifest


def callers(*principals: str, action: str = "ALLOW", **operation: list[str]) -> Manifest:
    rule: Manifest = {"from": [{"source": {"principals": list(principals)}}]}
    if operation:
        rule["to"] = [{"operation": operation}]
    return {
        "apiVersion": "security.istio.io/v1beta1",
        "kind": "AuthorizationPolicy",
        "metadata": {
            "name": "checkout-callers",
            "namespace": "shop",
            "annotations": {"nordmesh.io/service": "checkout"},
        },
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "pay"}},
            "action": action,
            "rules": [rule] if principals else [],
        },
    }


def host(name: str, *exported: str, **basis: str) -> Manifest:
    declared = {annotations.OWNER: "team-pay", annotations.PURPOSE: "card payments | all"}
    return {
        "apiVersion": "networking.istio.io/v1beta1",
        "kind": "ServiceEntry",
        "metadata": {
            "name": name.split(".")[0],
            "namespace": "istio-system",
            "annotations": {**declared, **basis, "pulumi.com/patchForce": "true"},
        },
        "spec": {
            "hosts": [name],
            "exportTo": [*exported, "."],
            "location": "MESH_EXTERNAL",
            "ports": [{"number": 443, "name": "tls-443", "protocol": "TLS"}],
        },
    }


CART, CLIENT = "cluster.local/ns/shop/sa/cart", "cluster.local/ns/shop/sa/client"
BASIS = {annotations.LEGAL_BASIS: "contract, GDPR 6(1)(b)", annotations.COUNTRY: "NO"}
OUTSIDE = {**BASIS, annotations.COUNTRY: "US", annotations.TRANSFER_BASIS: "SCC of 2021"}


def weight_edit() -> str:
    unchanged = object_change(callers(CART, CLIENT), callers(CART, CLIENT), op="same")
    edit = object_change(route(10), route(25), "spec.http[0].route[0].weight")
    return preview(edit, unchanged, config=CONFIG, unchanged=2)


def traffic() -> str:
    """Route changes other than a weight edit."""
    other = json.loads(json.dumps(route(50)).replace("checkout", "cart"))
    deleted = json.loads(json.dumps(route(50)).replace("checkout", "old"))
    fault = {"abort": {"httpStatus": 503, "percentage": {"value": 10}}}
    return preview(
        object_change(
            route_for_testers("v1"),
            route_for_testers("v2"),
            "spec.http[0].route[0].destination.subset",
        ),
        object_change(None, other),
        object_change(deleted, None),
        object_change(
            json.loads(json.dumps(route(50)).replace("checkout", "bill")),
            json.loads(json.dumps(route(5, fault=fault, timeout="2s")).replace("checkout", "bill")),
        ),
    )


def paths() -> str:
    """A weight edit and new paths, of services that share a host."""
    moved = {"prefix": "/old", "redirect": {"path": "/api"}}
    before = routes_by_path(10, {"prefix": "/api"}, moved)
    after = routes_by_path(
        25,
        {"prefix": "/api", "rewrite": "/", "timeout": "3s"},
        {"exact": "/health", "port": "admin"},
    )
    steps = [object_change(old, new) for old, new in zip(before, after, strict=True) if old != new]
    return preview(*steps, config=CONFIG)


def routes_by_path(weight: int, *entries: dict[str, Any]) -> list[Manifest]:
    shared = {"namespace": "shop", "stable": "v1", "gateway": "public", "hosts": ["a.example.com"]}
    api = {
        "ports": {"http": 8080, "admin": 9090},
        "canary": {"subset": "v2", "weight": weight},
        "paths": list(entries),
    }
    mesh = {
        "gateways": {"public": {"hosts": ["a.example.com"]}},
        "services": {"web": {**shared, "port": 80}, "checkout": {**shared, **api}},
    }
    return [m for m in objects(Mesh.model_validate(mesh)) if m["kind"] == "VirtualService"]


def tokens() -> str:
    """Tokens at three gateways: new, edited and no longer required."""
    shop = {"issuer": "https://login.example.no", "jwks": '{"keys": [{"kty": "RSA"}]}'}
    before = {"issuers": [{**shop, "audiences": ["shop"]}]}
    after = {
        "issuers": [
            {**shop, "audiences": ["shop", "app"]},
            {
                "issuer": "https://partner.example",
                "jwksUri": "https://partner.example/jwks.json",
                "audiences": ["shop"],
            },
        ],
        "openPaths": ["/healthz"],
    }
    old = {name: tokens_of(name, before) for name in ("edited", "removed")}
    new = {name: tokens_of(name, after) for name in ("added", "edited")}
    nothing = [None, None]
    steps = [
        object_change(*pair)
        for name in ("added", "edited", "removed")
        for pair in zip(old.get(name, nothing), new.get(name, nothing), strict=True)
    ]
    return preview(*steps, config=CONFIG)


def tokens_of(name: str, settings: dict[str, Any]) -> list[Manifest]:
    gateway = Gateway.model_validate({"hosts": [f"{name}.example.com"], "jwt": settings})
    return jwt.objects(name, {name: gateway}, preflights=False)


def mode_edit() -> str:
    ports = mtls.peer_authentication("shop", "STRICT")
    ports["metadata"]["name"] = "checkout"
    ports["spec"] |= {
        "selector": {"matchLabels": {"app": "checkout"}},
        "portLevelMtls": {"9090": {"mode": "DISABLE"}},
    }
    return preview(
        object_change(
            mtls.peer_authentication("backend", "PERMISSIVE"),
            mtls.peer_authentication("backend", "STRICT"),
            "spec.mtls.mode",
        ),
        object_change(
            mtls.peer_authentication("istio-system", "STRICT"),
            mtls.peer_authentication("istio-system", "PERMISSIVE"),
            "spec.mtls.mode",
        ),
        object_change(mtls.peer_authentication("shop", "STRICT"), None),
        object_change(None, ports),
        object_change(
            mtls.namespace("plain", Namespace(injection=False), kubernetes="1.23.17"),
            mtls.namespace("plain", Namespace(), kubernetes="1.23.17"),
            "metadata.labels",
        ),
        config={"mesh": {"mtlsGate": {"override": "measured by hand on 2027-01-04"}}},
    )


def authorization() -> str:
    def renamed(name: str, manifest: Manifest) -> Manifest:
        copy: Manifest = json.loads(json.dumps(manifest).replace("checkout", name))
        return copy

    return preview(
        object_change(callers(CART), callers(CLIENT, methods=["GET"], paths=["/api/*"])),
        object_change(None, renamed("cart", callers(CLIENT))),
        object_change(None, renamed("vault", callers())),
        object_change(renamed("open", callers(CART)), None),
        object_change(None, renamed("denied", callers(CART, action="DENY"))),
    )


def egress() -> str:
    return preview(
        object_change(None, host("api.partner.example", "shop", **BASIS)),
        object_change(None, host("*.cdn.example", "*")),
        object_change(None, host("bank.example", "shop", **OUTSIDE)),
        object_change(host("old.example", "shop", **BASIS), None),
        object_change(
            host("mail.example", "shop", **BASIS),
            host("mail.example", "shop", "backend", **BASIS, **{annotations.OWNER: "@ops"}),
            "spec.exportTo",
        ),
        script_change(
            "istio-install",
            "Istio",
            install("1.16.5"),
            install("1.16.5", outbound_traffic_policy="ALLOW_ANY"),
        ),
    )


def node_removed() -> str:
    remove = Script(
        file="node-remove.sh", node="cp-1", settings={"JOINED_NODE": "worker-2", "TEXT": "it's"}
    )
    ready = Script(file="node-ready.sh", node="cp-1", settings={"JOINED_NODE": "worker-2"})
    join = Script(file="kubeadm-join.sh", node="worker-2", settings={})
    flannel = mtls.namespace("kube-flannel", Namespace(), kubernetes="1.23.17")
    return preview(
        component("worker-2", "Node", "delete"),
        component("worker-2", "Worker", "delete"),
        component("worker-9", "Node", "create"),
        script_change("worker-2-ready", "Worker", ready, None, delete=remove),
        script_change("worker-2-join", "Worker", join, None),
        script_change("worker-2-prepare", "Node", prepare("worker-2", "1.23.17"), None),
        script_change("worker-9-prepare", "Node", None, prepare("worker-9", "1.23.17")),
        object_change(flannel, flannel),
        change(
            urn("pulumi:providers:kubernetes", "cluster"),
            {"kubeconfig": "[secret]"},
            {"kubeconfig": UNKNOWN},
            "kubeconfig",
        ),
        config=CONFIG,
    )


def first_preview() -> str:
    return preview(
        component("cp-1", "Node", "create"),
        component("cp-1", "ControlPlane", "create"),
        component("worker-9", "Node", "create"),
        script_change("cp-1-prepare", "Node", None, prepare("cp-1", "1.23.17")),
        script_change("worker-9-prepare", "Node", None, prepare("worker-9", "1.23.17")),
        change(
            urn("pulumi:providers:kubernetes", "cluster"),
            None,
            {"kubeconfig": UNKNOWN, "clusterIdentifier": "prod"},
        ),
        script_change("istio-install", "Istio", None, install("1.16.5")),
        object_change(None, mtls.namespace("shop", Namespace(), kubernetes="1.23.17")),
        object_change(None, mtls.peer_authentication("istio-system", "PERMISSIVE")),
        object_change(None, route(10)),
        config=CONFIG,
        first=True,
    )


def version_move() -> str:
    machine = urn("command:local:Command", "worker-1-machine")
    return preview(
        *(
            script_change(
                f"{node}-prepare", "Node", prepare(node, "1.23.16"), prepare(node, "1.23.17")
            )
            for node in ("cp-1", "worker-1")
        ),
        script_change("istio-install", "Istio", install("1.16.5"), install("1.16.7")),
        change(
            machine,
            {"environment": {"BRIDGE": "a"}},
            {"environment": {"BRIDGE": "b"}},
            "environment.BRIDGE",
            op="replace",
        ),
    )


def failed() -> str:
    traceback = (
        "error: Program failed with an unhandled exception:\n"
        "Traceback (most recent call last):\n"
        '  File "__main__.py", line 3, in <module>\n'
        "ValueError: no\n"
    )
    key = f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET_TEXT}\n-----END OPENSSH PRIVATE KEY-----"
    messages = [
        {"severity": "warning", "message": "warning: Kubernetes is old\n"},
        {"severity": "error", "message": f"error: nordmesh:mesh.x is wrong ```\n{key}\n"},
        {"severity": "error", "message": traceback, "urn": urn("pulumi:pulumi:Stack", "it")},
    ]
    return preview(object_change(route(10), route(25)), messages=messages)


def refused() -> str:
    """A weight edit that a policy pack refuses, with a policy warning."""
    refusal = [{"severity": "error", "message": "error: preview failed\n"}]
    return as_events(
        preview(object_change(route(10), route(25)), messages=refusal),
        {
            "policyName": "residency",
            "message": "Data stays in the EEA.\ns3.us-east-1.amazonaws.com is outside\n",
            "enforcementLevel": "mandatory",
        },
        {"policyName": "images", "message": "Tags move.\n", "enforcementLevel": "advisory"},
    )


def destroyed() -> str:
    """Deletion of the whole cluster, without draining nodes."""
    initialise = Script(file="kubeadm-init.sh", node="cp-1", settings={})
    remove = Script(file="node-remove.sh", node="cp-1", settings={"JOINED_NODE": "worker-1"})
    ready = Script(file="node-ready.sh", node="cp-1", settings={"JOINED_NODE": "worker-1"})
    return preview(
        component("cp-1", "Node", "delete"),
        component("cp-1", "ControlPlane", "delete"),
        component("worker-1", "Node", "delete"),
        script_change("cp-1-init", "ControlPlane", initialise, None),
        script_change("worker-1-ready", "Worker", ready, None, delete=remove),
        script_change("istio-install", "Istio", install("1.16.5"), None),
    )


def planes_replaced() -> str:
    """One control plane for another one, and a worker whose machine is lost."""
    initialise = Script(file="kubeadm-init.sh", node="cp-1", settings={})
    leave = Script(file="plane-leave.sh", node="cp-1", settings={"JOINED_NODE": "cp-1"})
    lost = Script(file="plane-leave.sh", node="cp-2", settings={"JOINED_NODE": "worker-2"})
    ready = Script(file="etcd-ready.sh", node="cp-1", settings={})
    return preview(
        component("cp-1", "Node", "delete"),
        component("cp-1", "ControlPlane", "delete"),
        component("cp-4", "Node", "create"),
        component("cp-4", "ControlPlane", "create"),
        change(
            urn(quorum.TYPE, "control-planes"),
            {"addresses": {"cp-1": "192.0.2.11"}},
            {"addresses": {"cp-4": "192.0.2.14"}, "gone": ["worker-2"]},
            "addresses",
        ),
        script_change("cp-1-init", "ControlPlane", initialise, None),
        script_change("cp-1-member", "ControlPlane", ready, None, delete=leave),
        script_change("worker-2-gone", "Node", None, lost),
    )


@cache
def huge() -> str:
    """Over a thousand resources, most of them deleted, and a warning for each."""
    steps: list[Step] = []
    for number in range(400):
        name = f"service-{number:03}"
        old, new = (
            json.loads(json.dumps(route(weight)).replace("checkout", name)) for weight in (10, 25)
        )
        steps += [
            object_change(old, new, "spec.http[0].route[0].weight"),
            object_change(
                mtls.namespace(f"{name}-{'x' * 40}", Namespace(), kubernetes="1.23.17"), None
            ),
            object_change(None, host(f"{name}.example", "shop", **BASIS)),
        ]
    messages = [
        {"severity": "warning", "message": f"warning: {number} {'is long ' * 200}"}
        for number in range(400)
    ]
    return preview(*steps, messages=messages)


CASES: dict[str, Callable[[], str]] = {
    "weight-edit": weight_edit,
    "traffic": traffic,
    "paths": paths,
    "tokens": tokens,
    "mode-edit": mode_edit,
    "authorization": authorization,
    "egress": egress,
    "node-removed": node_removed,
    "first-preview": first_preview,
    "version-move": version_move,
    "failed": failed,
    "refused": refused,
    "destroyed": destroyed,
    "planes-replaced": planes_replaced,
}


@pytest.mark.parametrize("name", CASES)
def test_the_summary_matches_its_golden_file(name: str) -> None:
    check(f"review-{name}.md", summary(parse(CASES[name]())).render())


def test_a_huge_preview_is_cut_and_counts_the_rest() -> None:
    check("review-huge.md", summary(parse(huge())).render(6000))


@pytest.mark.parametrize("limit", [1000, 3000, 10_000, LIMIT])
def test_a_summary_stays_within_its_limit(limit: int) -> None:
    text = summary(parse(huge())).render(limit)
    assert len(text) <= limit
    assert text.count("<details>") == text.count("</details>")


def test_a_cut_summary_keeps_some_rows_of_each_section() -> None:
    text = summary(parse(huge())).render()
    for title in ("Replacements and deletions", "Traffic", "Egress", "Warnings", "Every resource"):
        assert title in text
    assert "more rows cut here, for length" in text
    assert len(text) > LIMIT - 2000


@pytest.mark.parametrize("name", [name for name in CASES if name != "refused"])
def test_the_order_of_the_steps_does_not_matter(name: str) -> None:
    text = CASES[name]()
    document = json.loads(text)
    document["steps"].reverse()
    assert summary(parse(json.dumps(document))).render() == summary(parse(text)).render()


@pytest.mark.parametrize("name", [name for name in CASES if name != "refused"])
def test_a_stream_of_events_gives_the_same_summary(name: str) -> None:
    text = CASES[name]()
    assert summary(parse(as_events(text))).render() == summary(parse(text)).render()


@pytest.mark.parametrize("name", CASES)
def test_a_summary_contains_no_secret(name: str) -> None:
    text = CASES[name]()
    assert SECRET_TEXT not in summary(parse(text)).render()


def test_changed_values_are_shown_unless_they_are_secret() -> None:
    marker = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
    kind: Manifest = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "it"}}
    cases = [
        ({**kind, "type": "A"}, {**kind, "type": {**marker, "plaintext": SECRET_TEXT}}),
        ({**kind, "type": "[secret]"}, {**kind, "type": "B"}),
        ({**kind, "kind": "Secret", "type": SECRET_TEXT}, {**kind, "kind": "Secret", "type": "B"}),
    ]
    for old, new in cases:
        text = summary(parse(preview(object_change(old, new, "type")))).render()
        assert SECRET_TEXT not in text
        assert "`type`" in text
    visible = object_change({**kind, "type": "A"}, {**kind, "type": "B"}, "type")
    assert "`type: A to B`" in summary(parse(preview(visible))).render()


def test_the_namespace_default_is_summarized_as_joining_and_leaving_the_mesh() -> None:
    """Pulumi patches it, so its objects stay."""
    patch = {
        **mtls.namespace("default", Namespace(), kubernetes="1.23.17"),
        "kind": "NamespacePatch",
    }
    joins = summary(parse(preview(object_change(None, patch)))).render()
    assert "**default**: joins the mesh; its pods get a sidecar when they are restarted" in joins
    leaves = summary(parse(preview(object_change(patch, None)))).render()
    assert "**default**: leaves the mesh; its pods lose their sidecar when" in leaves
    assert "the namespace is deleted" not in leaves


def test_a_level_of_pods_is_summarized() -> None:
    def level(name: str) -> Manifest:
        settings = {"injection": False, "podSecurity": {"level": name}}
        return mtls.namespace("batch", Namespace.model_validate(settings), kubernetes="1.23.17")

    def text(old: Manifest | None, new: Manifest) -> str:
        return summary(parse(preview(object_change(old, new, "metadata.labels")))).render()

    relaxed = text(level("baseline"), level("privileged"))
    assert "**batch**: **pods may take over their node** (PodSecurity baseline to" in relaxed
    without = {**level("baseline"), "metadata": {"name": "batch", "labels": {}}}
    assert "**batch**: privileged pods will be refused" in text(without, level("baseline"))
    assert "must meet the level restricted" in text(level("baseline"), level("restricted"))


def test_versions_are_compared_by_the_names_of_their_subsets() -> None:
    def dotted(weight: int) -> Manifest:
        service = {
            "namespace": "shop",
            "port": 8080,
            "stable": "v1.2.0",
            "canary": {"subset": "v1.3.0", "weight": weight},
        }
        return routes.virtual_service("checkout", Service.model_validate(service))

    canary = {"subset": "v1.3.0", "weight": 25, "gate": {"minSuccessRate": 99.5}}
    settings = {"mesh": {"services": {"checkout": {"namespace": "shop", "canary": canary}}}}
    edit = object_change(dotted(10), dotted(25), "spec")
    text = summary(parse(preview(edit, config=settings))).render()
    assert "| `v1-2-0/v1-3-0` | 90/10 | **75/25** |" in text
    assert "measured first: minSuccessRate 99.5" in text


def test_a_preview_without_changes_is_summarized_as_such() -> None:
    text = summary(parse(preview(unchanged=12))).render()
    assert text.startswith("## Preview of `prod`: no changes\n\n12 resources unchanged.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "preview-empty"),
        ("error: no stack", "not the output of `pulumi preview --json`"),
        ("[1, 2]", "neither steps nor diagnostics"),
        ('{"kind": "Pod"}', "neither steps nor diagnostics"),
        ('{"sequence":0,"type":1}\n{"sequ', "not the output of `pulumi preview --json`"),
    ],
)
def test_input_that_is_not_a_preview_is_refused(text: str, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        parse(text)


@pytest.mark.parametrize(
    "message",
    [
        'resource "urn:pulumi:prod::nordmesh::Namespace::shop" cannot be deleted\n'
        "because it is protected. To unprotect the resource, ... use `pulumi state unprotect`",
        'unable to replace resource "urn:pulumi:prod::nordmesh::guest"\n'
        "as it is currently marked for protection",
    ],
)
def test_a_protected_resource_is_explained(message: str) -> None:
    document = json.dumps({"diagnostics": [{"severity": "error", "message": f"error: {message}"}]})
    text = " ".join(summary(parse(document, stack="prod")).render().split())
    assert "name it in `machines.allowDataLoss` with a reason" in text
    assert "Do not run `pulumi state unprotect`" in text
    assert "allowDataLoss" not in summary(parse(failed(), stack="prod")).render()


def test_changed_lines_of_scripts_are_shown_as_a_diff() -> None:
    same = "\n".join(f"line {number}" for number in range(20))
    old = {"lib.sh": f"{same}\nold\n", "apt.sh": "apt\n", "host.sh": "gone\n"}
    new = {"lib.sh": f"{same}\nnew\n", "apt.sh": "apt\n"}
    texts = urn("nordmesh:node:Scripts", "scripts")
    text = summary(parse(preview(change(texts, old, new)))).render()
    assert "host.sh, lib.sh" in text
    for line in ("-old", "+new", "-gone", " line 19"):
        assert f"\n{line}\n" in text
    assert "line 10" not in text
    assert "apt" not in text


def test_a_first_preview_shows_no_script_lines() -> None:
    texts = urn("nordmesh:node:Scripts", "scripts")
    step = change(texts, None, {"lib.sh": "a line\n"})
    assert "a line" not in summary(parse(preview(step, first=True))).render()


def test_reading_the_settings_of_a_script_undoes_rendering() -> None:
    written = {"A": "it's 'quoted'", "B": "", "C": "two\nlines\nexport D=not", "E": "bare"}
    command = Script(file="node-prepare.sh", node="cp-1", settings=written).command("debian")
    parsed = settings(command)
    assert {name: parsed[name] for name in ("A", "B", "E", "NODE_NAME")} == {
        **{name: written[name] for name in ("A", "B", "E")},
        "NODE_NAME": "cp-1",
    }
    assert parsed["C"] == written["C"]
    assert file(command) == "node-prepare.sh"


@pytest.mark.parametrize("text", ["a | b", "<img src=x>", "@everyone", "[x](http://y)", "# x", "`"])
def test_user_text_is_escaped_in_markdown(text: str) -> None:
    escaped = plain(text)
    for sign in "|<>@[]#`":
        assert sign not in escaped.replace(f"\\{sign}", "").replace("&#64;", "")


def test_a_section_within_its_limit_is_not_cut() -> None:
    for number in range(1, 40):
        section = Part(title="T", rows=["- row"] * number, folded=number % 2 == 0)
        assert "cut here" not in section.render(len(section))


def test_the_command_reads_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "preview.json"
    path.write_text(weight_edit())
    assert nordmesh(tmp_path, "review", str(path)) == 0
    assert "90/10" in capsys.readouterr().out
    assert nordmesh(tmp_path, "review", str(path), "--json") == 0
    document = json.loads(capsys.readouterr().out)
    (change,) = document["changes"]
    assert (change["op"], document["failed"]) == ("update", False)
    path.write_text(failed())
    assert nordmesh(tmp_path, "review", str(path)) == 1
    assert "failed" in capsys.readouterr().out
    path.write_text("no")
    assert nordmesh(tmp_path, "review", str(path)) == 3
    output = capsys.readouterr()
    assert not output.out
    assert "[preview-not-json]" in output.err
    assert nordmesh(tmp_path, "review", "absent") == 3
    assert "absent [preview-unreadable]" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--limit", "10", "-"], ["--policy-pack", "x", "-"]])
def test_the_command_refuses_invalid_arguments(tmp_path: Path, arguments: list[str]) -> None:
    assert nordmesh(tmp_path, "review", *arguments) == 2


@pytest.mark.parametrize(
    ("annotations_", "labels", "name"),
    [
        ({"nordmesh.io/service": "checkout"}, {"app": "pay"}, "checkout"),
        (None, {"app": "pay", "tier": "web"}, "pay"),
        ({"other": "x"}, {"app": "pay"}, "pay"),
        (None, {"tier": "web", "env": "live"}, "env=live, tier=web"),
        (None, {}, "every workload"),
    ],
)
def test_a_policy_is_named_by_its_service_or_by_its_labels(
    annotations_: dict[str, str] | None, labels: dict[str, str], name: str
) -> None:
    """Policies from other programs lack the annotation of nordmesh."""
    manifest = callers(CART)
    manifest["metadata"]["annotations"] = annotations_
    manifest["spec"]["selector"] = {"matchLabels": labels}
    text = summary(parse(preview(object_change(None, manifest), config=CONFIG))).render()
    assert f"**shop/{name}**: only" in text


def test_the_summary_names_the_callers_of_a_raised_canary() -> None:
    manifest = callers(CART)
    del manifest["metadata"]["annotations"]
    edit = object_change(route(10), route(25), "spec.http[0].route[0].weight")
    for app, is_found in (("checkout", True), ("other", False)):
        manifest["spec"]["selector"] = {"matchLabels": {"app": app}}
        rule = object_change(manifest, manifest, op="same")
        text = summary(parse(preview(edit, rule, config=CONFIG, unchanged=1))).render()
        assert ("`shop/cart`" in text) is is_found
