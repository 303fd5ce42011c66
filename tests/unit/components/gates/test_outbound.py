"""The outbound gate: calls to hosts that are not listed, before REGISTRY_ONLY refuses them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from components.gates import outbound
from components.gates.inventory import Inventory, Proxy, parse_destinations
from components.istio import _documents
from components.manifests import proxy_stats
from components.remote.node_command import Script
from config import Egress, Istio
from config.egress.warnings import warnings
from config.errors import NordmeshError
from tests.support.mocked import config
from tests.unit.components.gates.test_verdicts import ignore_progress, proxy

pytestmark = pytest.mark.usefixtures("clock")

EGRESS = Egress.model_validate({"gate": {"window": "10s"}})


def statistics(total: int = 0, *, is_open: int = 0, requests: int = 0) -> str:
    name = '{cluster_name="PassthroughCluster"}'
    return f"""\
envoy_cluster_upstream_cx_total{name} {total}
envoy_cluster_upstream_rq_total{name} {requests}
envoy_cluster_upstream_cx_active{name} {is_open}
envoy_cluster_upstream_cx_total{{cluster_name="outbound|443||api.partner.example"}} 99
"""


@dataclass
class FakeApi:
    """Proxies with a text for each reading, and the addresses that they are connected to."""

    texts: Mapping[str, Sequence[str | None]]
    addresses: Mapping[str, Sequence[str]] = field(default_factory=dict)
    proxies: Sequence[Proxy] = ()
    _readings: Iterator[int] = field(default_factory=lambda: iter(range(1000)))

    def inventory(self) -> Inventory:
        return Inventory(
            proxies=self.proxies or [proxy(name) for name in self.texts],
            without_sidecar={"10.0.0.7": "old/importer"},
            with_sidecar={"10.0.0.9": "shop/cart"},
        )

    def stats(self, proxies: Sequence[Proxy], _filter: str) -> dict[str, str]:
        at = next(self._readings)
        texts = {p.key: self.texts[p.pod][min(at, len(self.texts[p.pod]) - 1)] for p in proxies}
        return {key: text for key, text in texts.items() if text is not None}

    def destinations(self, proxy: Proxy) -> frozenset[str]:
        return frozenset(self.addresses.get(proxy.pod, ()))


def check(api: FakeApi) -> str:
    return outbound.check(api, EGRESS, ignore_progress)  # type: ignore[arg-type]


def refusal(api: FakeApi) -> str:
    with pytest.raises(NordmeshError) as caught:
        check(api)
    return " ".join(str(caught.value).split())


def test_workloads_and_the_addresses_that_they_call_are_named() -> None:
    api = FakeApi(
        {
            "checkout": [statistics(5), statistics(7, is_open=1)],
            "quiet": [statistics(3)],
        },
        {"checkout": ["203.0.113.9:443", "10.0.0.9:8080", "10.0.0.7:80"]},
    )
    text = refusal(api)
    assert "nordmesh:istio.outboundTrafficPolicy [gate-outbound]" in text
    assert "in 10s, 1 workload called hosts that are not listed; Istio stays as it was" in text
    assert "shop/checkout: 2 calls, to 203.0.113.9:443 why" in text
    assert "quiet" not in text
    assert "mesh.egress.gate.trial" in text
    assert "mesh.egress.gate.override" in text


@pytest.mark.parametrize(
    "texts",
    [
        [statistics(4, is_open=1)],  # opened before the window
        [statistics(4, requests=9), statistics(4, requests=10)],  # on a kept connection
        [statistics(9), statistics(1)],  # restarted
        [statistics(0), statistics(1), statistics(1)],  # closed before the last reading
    ],
)
def test_every_call_counts(texts: list[str]) -> None:
    assert "shop/checkout: 1 calls, to an address that was not seen" in refusal(
        FakeApi({"checkout": texts})
    )


def test_no_call_passes() -> None:
    """Also if a connection from before the window ended."""
    assert "no call to a host that is not listed in 10s" in check(
        FakeApi({"checkout": [statistics(7, requests=8)]})
    )


def test_a_gateway_is_not_measured() -> None:
    gateway = proxy("egress", sidecar=False)
    api = FakeApi({"egress": [statistics(1, is_open=5)]}, proxies=[gateway])
    assert "no call" in check(api)


def test_a_proxy_that_keeps_no_statistics_is_refused() -> None:
    assert "[gate-proxy-outdated]" in refusal(FakeApi({"checkout": ["envoy_server_live{} 1\n"]}))
    assert "[gate-proxy-unreadable]" in refusal(FakeApi({"checkout": [None]}))


@pytest.mark.parametrize("kept", ["cx_total", "cx_active", "rq_total"])
def test_a_proxy_that_keeps_some_of_the_statistics_is_refused(kept: str) -> None:
    """With the others, the gate would not see a call, or a connection that is open."""
    lines = [line for line in statistics().splitlines() if f"upstream_{kept}{{" in line]
    assert "[gate-proxy-outdated]" in refusal(FakeApi({"checkout": ["\n".join(lines) + "\n"]}))


def test_proxies_keep_the_statistics_of_the_gate() -> None:
    kept = proxy_stats.matcher()["inclusionRegexps"]
    for name in ("cx_total", "cx_active", "rq_total"):
        statistic = f"cluster.PassthroughCluster.upstream_{name}"
        assert any(re.fullmatch(pattern, statistic) for pattern in kept)
        assert re.search(outbound._STATS, statistic)


def test_destinations_are_parsed() -> None:
    output = "097100CB 01BB\nB80D0120000000000000000001000000 0050\n\n"
    assert parse_destinations(output) == {"203.0.113.9:443", "2001:db8::1:80"}


# --- which edit is measured ----------------------------------------------------------------------


def installation(policy: str, **istio: Any) -> dict[str, str]:
    settings = {"version": "1.16.5", "outboundTrafficPolicy": policy, **istio}
    documents = _documents(Istio.model_validate(settings))
    script = Script(file="istio-install.sh", node="cp-1", settings=documents)
    return {"create": script.command("root", patience=1)}


@pytest.mark.parametrize(
    ("before", "after", "is_measured"),
    [
        ("ALLOW_ANY", "REGISTRY_ONLY", True),
        ("REGISTRY_ONLY", "REGISTRY_ONLY", False),
        ("REGISTRY_ONLY", "ALLOW_ANY", False),
        ("ALLOW_ANY", "ALLOW_ANY", False),
    ],
)
def test_only_a_policy_that_closes_is_measured(before: str, after: str, is_measured: bool) -> None:
    edit = installation(before), installation(after, hub="mirror.example/istio")
    assert outbound.closes(*edit) is is_measured


def test_a_first_installation_is_not_measured() -> None:
    assert not outbound.closes({}, installation("REGISTRY_ONLY"))


def test_a_trial_and_an_override_are_warnings() -> None:
    istio = {"version": "1.16.5", "outboundTrafficPolicy": "ALLOW_ANY"}
    gate = {"trial": "until all callers are known", "override": "measured by hand"}
    lines = list(warnings(config(istio=istio, mesh={"egress": {"gate": gate}})))
    assert [line.split(":")[0] for line in lines] == [
        "mesh.egress.gate.override",
        "mesh.egress.gate.trial",
    ]
    assert "until all callers are known" in lines[1]
