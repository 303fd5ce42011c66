"""Wrong modes, steps and gates: each is one edit of a good stack, with one clear error."""

import pytest

from config import StackConfig
from tests.unit.test_config_errors import CHECKOUT, Load, Values, Wrong, edited, expect, refused

CANARY = f"{CHECKOUT}.canary"
GATE = f"{CANARY}.gate"
MTLS = f"{CHECKOUT}.mtls"
PAY = {"namespace": "shop", "port": 80, "stable": "v1"}

WRONG = [
    # --- the canary's gate
    Wrong(
        "a fraction as rate",
        {GATE: {"minSuccessRate": 0.99}},
        f"{GATE}.minSuccessRate",
        ("0.99 is a fraction", "in percent", "write 99"),
    ),
    Wrong(
        "more than all succeed",
        {GATE: {"minSuccessRate": 101}},
        f"{GATE}.minSuccessRate",
        ("101 is not a rate in percent", "such as 99.5"),
    ),
    Wrong(
        "a rate with a sign behind it",
        {GATE: {"minSuccessRate": "99%"}},
        f"{GATE}.minSuccessRate",
        ("'99%' is not a rate in percent",),
    ),
    Wrong(
        "a rate that is true",
        {GATE: {"minSuccessRate": True}},
        f"{GATE}.minSuccessRate",
        ("True is not a rate",),
    ),
    Wrong(
        "p99 without a unit",
        {GATE: {"maxP99": 500}},
        f"{GATE}.maxP99",
        ("500 has no unit", "seconds or as milliseconds", "write 500s or 500ms"),
    ),
    Wrong(
        "p99 of nothing",
        {GATE: {"maxP99": "0s"}},
        f"{GATE}.maxP99",
        ("0s is outside 1ms to 1h", "0.5 ms to an hour"),
    ),
    Wrong(
        "p99 in days",
        {GATE: {"maxP99": "1d"}},
        f"{GATE}.maxP99",
        ("'1d' is not a length of time", "ms, s, m or h", "such as 500ms"),
    ),
    Wrong(
        "no requests to judge by",
        {GATE: {"minRequests": 0}},
        f"{GATE}.minRequests",
        ("0 is not a number of requests", "such as 100"),
    ),
    Wrong(
        "half a request",
        {GATE: {"minRequests": 1.5}},
        f"{GATE}.minRequests",
        ("1.5 is not a whole number", "judged by"),
    ),
    Wrong(
        "a window too short",
        {GATE: {"window": "1s"}},
        f"{GATE}.window",
        ("1s is outside 10s to 15m", "next to no requests"),
    ),
    Wrong(
        "a window of an hour",
        {GATE: {"window": "1h"}},
        f"{GATE}.window",
        ("1h is outside 10s to 15m", "waits for the whole of it"),
    ),
    Wrong(
        "a window that is a list",
        {GATE: {"window": []}},
        f"{GATE}.window",
        ("[] is not a length of time",),
    ),
    Wrong(
        "a misspelt key",
        {GATE: {"minSuccesRate": 99}},
        f"{GATE}.minSuccesRate",
        ("there is no key minSuccesRate here", "write minSuccessRate"),
    ),
    # --- steps
    Wrong(
        "steps that fall",
        {f"{CANARY}.steps": [50, 5]},
        f"{CANARY}.steps",
        ("[50, 5] do not rise", "write [5, 50]"),
    ),
    Wrong(
        "a step twice",
        {f"{CANARY}.steps": [5, 5, 100]},
        f"{CANARY}.steps",
        ("do not rise", "write [5, 100]"),
    ),
    Wrong(
        "a step of nothing",
        {f"{CANARY}.steps": [0, 5]},
        f"{CANARY}.steps",
        ("0 is no step", "such as 5"),
    ),
    Wrong(
        "a step beyond all",
        {f"{CANARY}.steps": [5, 101]},
        f"{CANARY}.steps[1]",
        ("101 is not a share in percent",),
    ),
    Wrong("one step alone", {f"{CANARY}.steps": 25}, f"{CANARY}.steps", ()),
    # --- modes
    Wrong(
        "a mode in small letters",
        {f"{MTLS}": {"mode": "strict"}},
        f"{MTLS}.mode",
        ("'strict' is none of DISABLE, PERMISSIVE, STRICT", "write STRICT"),
    ),
    Wrong(
        "a mode of a namespace that is none",
        {"mesh.namespaces.shop.mtls": "UNSET"},
        "mesh.namespaces.shop.mtls",
        ("'UNSET' is none of",),
    ),
    Wrong(
        "modes that say nothing",
        {MTLS: {"selector": {"app": "checkout"}}},
        MTLS,
        ("neither mode nor ports is here", "write mode: PERMISSIVE"),
    ),
    Wrong(
        "a port by name",
        {MTLS: {"ports": {"http": "PERMISSIVE"}}},
        f"{MTLS}.ports.http",
        ("'http' is not a whole number", "1 to 65535"),
    ),
    Wrong(
        "a port that there is not",
        {MTLS: {"ports": {"70000": "PERMISSIVE"}}},
        f"{MTLS}.ports.70000",
        ("70000 is not a port",),
    ),
    Wrong(
        "a mode of a port that is none",
        {MTLS: {"ports": {"9090": "OFF"}}},
        f"{MTLS}.ports.9090",
        ("'OFF' is none of",),
    ),
    Wrong(
        "an empty selector",
        {MTLS: {"mode": "PERMISSIVE", "selector": {}}},
        f"{MTLS}.selector",
        ("the selector is empty", "every pod of the namespace"),
    ),
    Wrong(
        "a selector that is no label",
        {MTLS: {"mode": "PERMISSIVE", "selector": {"app": "check out"}}},
        f"{MTLS}.selector",
        ("app: 'check out' is not a label",),
    ),
    Wrong(
        "two policies for the same pods",
        {
            f"{MTLS}": {"mode": "PERMISSIVE"},
            "mesh.services.pay": {
                **PAY,
                "mtls": {"mode": "STRICT", "selector": {"app": "checkout"}},
            },
        },
        "mesh.services.pay.mtls.selector",
        ("the same pods as mesh.services.checkout.mtls", "the older"),
    ),
    Wrong(
        "a service named as the namespace's policy",
        {"mesh.services.default": {**PAY, "mtls": {"mode": "STRICT"}}},
        "mesh.services.default.mtls",
        ("the name default", "mesh.namespaces.shop.mtls"),
    ),
    # --- the STRICT gate
    Wrong(
        "no reason to speak of",
        {"mesh.mtlsGate": {"override": "yes"}},
        "mesh.mtlsGate.override",
        ("'yes' is not a reason", "cut off unmeasured"),
    ),
    Wrong(
        "a window of the STRICT gate without a unit",
        {"mesh.mtlsGate": {"window": "30"}},
        "mesh.mtlsGate.window",
        ("'30' has no unit", "write 30s or 30ms"),
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_wrong_gates(load: Load, container_stack: Values, wrong: Wrong) -> None:
    expect(refused(load, edited(container_stack, wrong.edit)), wrong)


def test_defaults(load: Load, container_stack: Values) -> None:
    stack: StackConfig = load(
        edited(container_stack, {GATE: {}, MTLS: {"ports": {"9090": "DISABLE"}}})
    )
    service = stack.mesh.services["checkout"]
    assert service.canary is not None
    assert service.canary.gate is not None
    assert service.canary.gate.min_success_rate == 99
    assert service.mtls is not None
    assert service.mtls.ports == {9090: "DISABLE"}
    assert stack.mesh.mtls_gate.window == "30s"
