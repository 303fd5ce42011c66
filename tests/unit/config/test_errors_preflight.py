"""Invalid limits and overrides of the preflight: each edit gives one error."""

import pytest

from config import StackConfig
from tests.unit.config.test_errors import Load, Values, Wrong, edited, expect, refusal

LIMITS, OVERRIDE = "preflight.limits", "preflight.override"
REASON = "the hypervisor hides the flag"

WRONG = [
    Wrong(
        "a window without a unit",
        {"preflight.window": 10},
        "preflight.window",
        "duration-unit",
        ("10 has no unit", "use 10s"),
    ),
    Wrong(
        "a window that is too short",
        {"preflight.window": "100ms"},
        "preflight.window",
        "steal-window-range",
        ("100ms is outside 1s to 10m", "too few ticks"),
    ),
    Wrong(
        "steal above 100%",
        {f"{LIMITS}.steal": 120},
        f"{LIMITS}.steal",
        "steal-limit-range",
        ("120 is not a", "2.0"),
    ),
    Wrong(
        "no cores",
        {f"{LIMITS}.cores": 0},
        f"{LIMITS}.cores",
        "core-count-range",
        ("0 is below 1", "kubeadm refuses"),
    ),
    Wrong(
        "memory without a unit",
        {f"{LIMITS}.memory": "1700"},
        f"{LIMITS}.memory",
        "memory-minimum",
        ("less than a mebibyte", "use 1700Mi"),
    ),
    Wrong(
        "space in percent",
        {f"{LIMITS}.diskSpace": "10%"},
        f"{LIMITS}.diskSpace",
        "memory-format",
        ("'10%' is not",),
    ),
    Wrong(
        "a latency limit below the minimum",
        {f"{LIMITS}.syncLatency": "0s"},
        f"{LIMITS}.syncLatency",
        "latency-limit-range",
        ("0s is outside 0.1ms to 10s",),
    ),
    Wrong(
        "a warning above the limit",
        {LIMITS: {"latency": "2ms", "latencyWarning": "5ms"}},
        f"{LIMITS}.latencyWarning",
        "latency-warning-above-limit",
        ("5ms is above the limit of 2ms", "use at most 2ms"),
    ),
    Wrong(
        "a clock limit below the minimum",
        {f"{LIMITS}.clockSkew": "1ms"},
        f"{LIMITS}.clockSkew",
        "clock-skew-range",
        ("1ms is outside 50ms to 1m",),
    ),
    Wrong(
        "an unknown limit",
        {f"{LIMITS}.stolen": 2},
        f"{LIMITS}.stolen",
        "key-unknown",
        ("there is no key stolen",),
    ),
    Wrong(
        "an override without a reason",
        {f"{OVERRIDE}.aes": {}},
        f"{OVERRIDE}.aes.reason",
        "key-missing",
        ("reason is missing", "why a failure is acceptable"),
    ),
    Wrong(
        "a reason without meaning",
        {f"{OVERRIDE}.aes": {"reason": "because"}},
        f"{OVERRIDE}.aes.reason",
        "preflight-override-reason",
        ("not a reason", "why the machine is good enough"),
    ),
    Wrong(
        "an override of an unknown check",
        {f"{OVERRIDE}.aes-ni": {"reason": REASON}},
        f"{OVERRIDE}.aes-ni",
        "preflight-check-unknown",
        ("'aes-ni' is no", "use aes"),
    ),
    Wrong(
        "an override of the login",
        {f"{OVERRIDE}.login": {"reason": REASON}},
        f"{OVERRIDE}.login",
        "preflight-check-unknown",
        ("'login' is no",),
    ),
    Wrong(
        "an override on an unknown node",
        {f"{OVERRIDE}.aes": {"reason": REASON, "nodes": ["worker-9"]}},
        f"{OVERRIDE}.aes.nodes[0]",
        "override-node-unknown",
        ("there is no node worker-9", "use worker-1"),
    ),
]


@pytest.mark.parametrize("wrong", WRONG, ids=[wrong.name for wrong in WRONG])
def test_an_invalid_preflight_setting_is_refused(
    load: Load, container_stack: Values, wrong: Wrong
) -> None:
    container_stack["preflight"] = {"limits": {}, "override": {}}
    expect(refusal(load, edited(container_stack, wrong.edit)), wrong)


def test_valid_preflight_settings_load(load: Load, container_stack: Values) -> None:
    container_stack["preflight"] = {
        "window": "1m",
        "limits": {"steal": "1.5", "latency": "5ms"},
        "override": {"aes": {"reason": REASON, "nodes": ["worker-1"]}},
    }
    config: StackConfig = load(container_stack)
    assert config.preflight.limits.steal == 1.5
    assert config.preflight.limits.latency_warning == "1ms"
    assert config.preflight.override["aes"].nodes == ["worker-1"]
