"""Invalid modes, steps and gates: each edit of a valid stack gives one error."""

import pytest

from config import StackConfig
from tests.unit.config.test_errors import CHECKOUT, Load, Values, Wrong, edited, expect, refusal

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
        "success-rate-fraction",
        ("0.99 is a fraction", "in percent", "use 99"),
    ),
    Wrong(
        "a rate above 100%",
        {GATE: {"minSuccessRate": 101}},
        f"{GATE}.minSuccessRate",
        "success-rate-range",
        ("101 is not a rate in percent", "for example 99.5"),
    ),
    Wrong(
        "a rate with a percent sign",
        {GATE: {"minSuccessRate": "99%"}},
        f"{GATE}.minSuccessRate",
        "success-rate-range",
        ("'99%' is not a rate in percent",),
    ),
    Wrong(
        "a rate that is true",
        {GATE: {"minSuccessRate": True}},
        f"{GATE}.minSuccessRate",
        "success-rate-range",
        ("True is not a rate",),
    ),
    Wrong(
        "p99 without a unit",
        {GATE: {"maxP99": 500}},
        f"{GATE}.maxP99",
        "duration-unit",
        ("500 has no unit", "use 500s or 500ms"),
    ),
    Wrong(
        "p99 of 0",
        {GATE: {"maxP99": "0s"}},
        f"{GATE}.maxP99",
        "latency-range",
        ("0s is outside 1ms to 1h", "0.5 ms to an hour"),
    ),
    Wrong(
        "p99 in days",
        {GATE: {"maxP99": "1d"}},
        f"{GATE}.maxP99",
        "duration-format",
        ("'1d' is not a", "ms, s, m or h", "such as 500ms"),
    ),
    Wrong(
        "0 requests",
        {GATE: {"minRequests": 0}},
        f"{GATE}.minRequests",
        "request-count-range",
        ("0 is not a number of requests", "for example 100"),
    ),
    Wrong(
        "half a request",
        {GATE: {"minRequests": 1.5}},
        f"{GATE}.minRequests",
        "whole-number",
        ("1.5 is not a whole number",),
    ),
    Wrong(
        "a window too short",
        {GATE: {"window": "1s"}},
        f"{GATE}.window",
        "window-range",
        ("1s is outside 10s to 15m",),
    ),
    Wrong(
        "a window of an hour",
        {GATE: {"window": "1h"}},
        f"{GATE}.window",
        "window-range",
        ("1h is outside 10s to 15m", "waits for the whole"),
    ),
    Wrong(
        "a window that is a list",
        {GATE: {"window": []}},
        f"{GATE}.window",
        "duration-format",
        ("[] is not a",),
    ),
    Wrong(
        "a misspelt key",
        {GATE: {"minSuccesRate": 99}},
        f"{GATE}.minSuccesRate",
        "key-unknown",
        ("there is no key minSuccesRate here", "use minSuccessRate"),
    ),
    # --- steps
    Wrong(
        "steps in descending order",
        {f"{CANARY}.steps": [50, 5]},
        f"{CANARY}.steps",
        "canary-steps-order",
        ("[50, 5] do not", "use [5, 50]"),
    ),
    Wrong(
        "a step twice",
        {f"{CANARY}.steps": [5, 5, 100]},
        f"{CANARY}.steps",
        "canary-steps-order",
        ("use [5, 100]",),
    ),
    Wrong(
        "a step of 0",
        {f"{CANARY}.steps": [0, 5]},
        f"{CANARY}.steps",
        "canary-steps-zero",
        ("0 is no", "for example 5"),
    ),
    Wrong(
        "a step above 100",
        {f"{CANARY}.steps": [5, 101]},
        f"{CANARY}.steps[1]",
        "canary-weight-range",
        ("101 is not a",),
    ),
    Wrong(
        "steps that are not a list", {f"{CANARY}.steps": 25}, f"{CANARY}.steps", "list-expected", ()
    ),
    # --- modes
    Wrong(
        "a mode in lower case",
        {f"{MTLS}": {"mode": "strict"}},
        f"{MTLS}.mode",
        "choice-unknown",
        ("of DISABLE, PERMISSIVE, STRICT", "use STRICT"),
    ),
    Wrong(
        "an invalid mode of a namespace",
        {"mesh.namespaces.shop.mtls": "UNSET"},
        "mesh.namespaces.shop.mtls",
        "choice-unknown",
        ("'UNSET' is",),
    ),
    Wrong(
        "modes without a value",
        {MTLS: {"selector": {"app": "checkout"}}},
        MTLS,
        "service-mtls-empty",
        ("neither mode nor ports is", "set mode: PERMISSIVE"),
    ),
    Wrong(
        "a port by name",
        {MTLS: {"ports": {"http": "PERMISSIVE"}}},
        f"{MTLS}.ports.http",
        "whole-number",
        ("'http' is not a whole number", "1 to 65535"),
    ),
    Wrong(
        "an invalid port",
        {MTLS: {"ports": {"70000": "PERMISSIVE"}}},
        f"{MTLS}.ports.70000",
        "port-range",
        ("70000 is not a port",),
    ),
    Wrong(
        "an invalid mode of a port",
        {MTLS: {"ports": {"9090": "OFF"}}},
        f"{MTLS}.ports.9090",
        "choice-unknown",
        ("'OFF' is",),
    ),
    Wrong(
        "an empty selector",
        {MTLS: {"mode": "PERMISSIVE", "selector": {}}},
        f"{MTLS}.selector",
        "selector-empty",
        ("the selector is empty", "every pod of the namespace"),
    ),
    Wrong(
        "a selector with an invalid label",
        {MTLS: {"mode": "PERMISSIVE", "selector": {"app": "check out"}}},
        f"{MTLS}.selector",
        "selector-label-format",
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
        "service-mtls-overlap",
        ("the same pods as mesh.services.checkout.mtls", "the older"),
    ),
    Wrong(
        "a service with the name of the namespace's policy",
        {"mesh.services.default": {**PAY, "mtls": {"mode": "STRICT"}}},
        "mesh.services.default.mtls",
        "service-mtls-default",
        ("mesh.namespaces.shop.mtls",),
    ),
    # --- the STRICT gate
    Wrong(
        "a reason that is too short",
        {"mesh.mtlsGate": {"override": "yes"}},
        "mesh.mtlsGate.override",
        "mtls-gate-override-reason",
        ("'yes' is not a reason",),
    ),
    Wrong(
        "a window of the STRICT gate without a unit",
        {"mesh.mtlsGate": {"window": "30"}},
        "mesh.mtlsGate.window",
        "duration-unit",
        ("'30' has no unit", "use 30s"),
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_an_invalid_gate_is_refused(load: Load, container_stack: Values, wrong: Wrong) -> None:
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


def test_gates_have_defaults(load: Load, container_stack: Values) -> None:
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
