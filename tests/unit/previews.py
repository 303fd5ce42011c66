"""Outputs of `pulumi preview --json`, built from the program's objects and commands.

The format is that of Pulumi 3.259.0 for the shipped stacks. tests/engine/test_review.py checks the
summary with the real engine.
"""

import json
from typing import Any

from components.manifests import Manifest, istio_operator, kubeadm
from components.remote.node_command import Script
from config import Istio

STACK = "prod"
SECRET_TEXT = "hunter2-hunter2"  # noqa: S105 (no summary may show it)
UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_COMPONENTS = {
    "Node": "nordmesh:node:Node",
    "Worker": "nordmesh:kubernetes:Worker",
    "ControlPlane": "nordmesh:kubernetes:ControlPlane",
    "MeshPolicy": "nordmesh:mesh:MeshPolicy",
    "Istio": "nordmesh:mesh:Istio",
}
_CONNECTION = {
    "host": "192.0.2.11",
    "user": "root",
    "privateKey": {"4dabf18193072939515e22adb298388d": "1b47", "plaintext": SECRET_TEXT},
}

Step = dict[str, Any]


def urn(type_: str, name: str, component: str | None = None) -> str:
    """The URN of a resource, with the component that owns it, if any."""
    qualified_type = f"{_COMPONENTS[component]}${type_}" if component else type_
    return f"urn:pulumi:{STACK}::nordmesh::{qualified_type}::{name}"


def change(
    of: str,
    old: Manifest | None,
    new: Manifest | None,
    *fields: str,
    op: str | None = None,
) -> Step:
    """The step of a resource. Without `op`, derive it from the old and new inputs."""
    if op is None:
        op = "create" if old is None else "delete" if new is None else "update"
    step: Step = {"op": op, "urn": of}
    for key, inputs in (("oldState", old), ("newState", new)):
        if inputs is not None:
            outputs = {"stdout": SECRET_TEXT}
            step[key] = {"urn": of, "inputs": inputs, "outputs": outputs}
    step["detailedDiff"] = {path: {"kind": "update", "inputDiff": False} for path in fields} or None
    return step


def object_change(
    old: Manifest | None, new: Manifest | None, *fields: str, op: str | None = None
) -> Step:
    """The step of a Kubernetes object."""
    manifest = new or old or {}
    metadata, version = manifest["metadata"], manifest["apiVersion"]
    group = version if "/" in version else f"core/{version}"
    name = "/".join(filter(None, (metadata.get("namespace"), metadata["name"])))
    of = urn(f"kubernetes:{group}:{manifest['kind']}", name, "MeshPolicy")
    return change(of, old, new, *fields, op=op)


def script_change(
    name: str,
    component: str,
    old: Script | None,
    new: Script | None,
    *,
    delete: Script | None = None,
) -> Step:
    """The step of a script on a node."""

    def state(script: Script | None) -> Manifest | None:
        if script is None:
            return None
        deletes = {"delete": delete.command("root")} if delete else {}
        command = script.command("root")
        return {"connection": _CONNECTION, "create": command, "stdin": "[secret]", **deletes}

    fields = ("create",) if old and new else ()
    of = urn("command:remote:Command", name, component)
    return change(of, state(old), state(new), *fields)


def prepare(node: str, version: str) -> Script:
    """The script that prepares a node for a version of Kubernetes."""
    settings = {"KUBERNETES_VERSION": version, "IMAGES": f"kube-proxy:v{version} it's"}
    return Script(file="node-prepare.sh", node=node, settings=settings)


def install(version: str, **values: Any) -> Script:
    """The script that installs a version of Istio."""
    istio = Istio(version=version, **values)
    settings = {
        "CONTROL_PLANE": kubeadm.to_yaml([istio_operator.control_plane(istio)]),
        "GATEWAYS": kubeadm.to_yaml([istio_operator.gateways(istio)]),
        "REVISION": istio.revision,
    }
    return Script(file="istio-install.sh", node="cp-1", settings=settings)


def component(name: str, kind: str, op: str) -> Step:
    """The step of one of the program's components."""
    state: Step = {"oldState": {}} if op == "delete" else {"newState": {}}
    return {"op": op, "urn": urn(_COMPONENTS[kind], name), **state}


def preview(
    *steps: Step,
    messages: list[dict[str, str]] | None = None,
    config: dict[str, Any] | None = None,
    unchanged: int = 40,
    first: bool = False,
) -> str:
    """The output of `pulumi preview --json` for these steps."""
    stack = change(
        urn("pulumi:pulumi:Stack", f"nordmesh-{STACK}"),
        None if first else {},
        {},
        op="create" if first else "same",
    )
    document = {
        "config": {f"nordmesh:{key}": json.dumps(value) for key, value in (config or {}).items()},
        "steps": [stack, *steps],
        "diagnostics": messages
        or [{"severity": "warning", "message": "warning: Kubernetes is old\n"}],
        "changeSummary": {} if first else {"same": unchanged},
    }
    return json.dumps(document)


def as_events(text: str, *policies: dict[str, str]) -> str:
    """The same preview as an event stream, with the violations of a policy pack."""
    document = json.loads(text)
    events: list[dict[str, Any]] = [{"preludeEvent": {"config": document["config"]}}]
    for step in document["steps"]:
        names = {"oldState": "old", "newState": "new"}
        metadata = {names.get(key, key): value for key, value in step.items()}
        events.append({"resourcePreEvent": {"metadata": metadata}})
    events += [{"diagnosticEvent": message} for message in document["diagnostics"]]
    events.append({"diagnosticEvent": {"severity": "debug", "message": "debug: of no interest"}})
    events += [{"policyEvent": policy} for policy in policies]
    events.append({"summaryEvent": {"resourceChanges": document["changeSummary"]}})
    lines = [
        json.dumps({"sequence": n, **event}, separators=(",", ":"))
        for n, event in enumerate(events)
    ]
    return "\n".join(lines) + "\n"
