"""Whole meshes that hypothesis makes up: most are good, some contradict themselves."""

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from config import (
    Canary,
    CanaryGate,
    EgressHost,
    Namespace,
    StackConfig,
    access,
    canary,
    egress,
    mtls,
)
from config.checks import CHECKS
from config.scalars import durations, names, networks, numbers, quantities
from config.sections import Sections
from config.workloads import Workload
from lab import paths
from tests.generated import Values, of, section
from tests.generated_routes import GATEWAYS, services
from tests.mocked import base_sections

_names = st.sampled_from(["shop", "back"])
_ports = st.sampled_from([80, 443, 8080, 9090])
_reasons = st.just("made up by a test, for a test")
_SCALARS: dict[Any, SearchStrategy[Any]] = {
    names.Label: _names,
    numbers.PodCount: st.integers(0, 40),
    numbers.Concurrency: st.integers(0, 4),
    quantities.Cpu: st.sampled_from(["50m", "100m", "600m"]),
    quantities.Memory: st.sampled_from(["64Mi", "128Mi", "256Mi"]),
    numbers.Port: _ports,
    numbers.Weight: st.integers(0, 100),
    networks.Ipv4: st.sampled_from(["192.0.2.50", "192.0.2.51"]),
    access.AccountReference: st.sampled_from(["shop/one", "back/two", "back/client"]),
    access.ServiceReference: st.sampled_from(["one", "shop/one", "back/two"]),
    access.Method: st.sampled_from(["GET", "POST"]),
    access.HttpPath: st.sampled_from(["/", "/pay/*", "/healthz"]),
    durations.Window: st.sampled_from(["10s", "1m"]),
    canary.Steps: st.sampled_from([[5, 25, 50, 100], [1], []]),
    canary.SuccessRate: st.sampled_from([99, 99.9, 100]),
    durations.Latency: st.sampled_from(["250ms", "2s"]),
    numbers.RequestCount: st.integers(1, 1000),
    egress.Host: st.sampled_from(["api.partner.example", "*.store.example", "mail.example"]),
    egress.Owner: st.just("team-payments@example.no"),
    egress.Purpose: _reasons,
    egress.LegalBasis: _reasons,
    egress.TransferBasis: _reasons,
    egress.WildcardReason: _reasons,
    egress.Country: st.sampled_from(["NO", "SE", "US"]),
    mtls.OverrideReason: _reasons,
    mtls.Selector: st.just({"app": "one"}),
}
_callers = st.one_of(
    st.fixed_dictionaries({"service": _SCALARS[access.ServiceReference]}),
    st.fixed_dictionaries({"serviceAccount": _SCALARS[access.AccountReference]}),
    st.just({"gateway": "istio-ingressgateway"}),
)
_limits = st.fixed_dictionaries(
    {},
    optional={
        "methods": of(list[access.Method], _SCALARS),
        "paths": of(list[access.HttpPath], _SCALARS),
        "ports": of(list[numbers.Port], _SCALARS),
    },
)
_canaries = section(
    Canary,
    _SCALARS,
    subset=st.sampled_from(["v1", "v2", "canary-3"]),
    gate=section(CanaryGate, _SCALARS),
)


def _service(name: str, namespace: str) -> SearchStrategy[Values]:
    more = st.fixed_dictionaries(
        {"namespace": st.just(namespace), "serviceAccount": st.just(name)},
        optional={
            "canary": _canaries,
            "callers": st.lists(st.builds(lambda a, b: a | b, _callers, _limits), max_size=2),
            "mtls": section(mtls.ServiceMtls, _SCALARS),
        },
    )
    return st.builds(lambda routes, rest: routes | rest, services, more)


def _namespace(*, injection: SearchStrategy[bool]) -> SearchStrategy[Values]:
    return section(Namespace, _SCALARS, injection=injection)


meshes: SearchStrategy[Values] = st.fixed_dictionaries(
    {
        "mtls": st.sampled_from(["PERMISSIVE", "STRICT"]),
        "namespaces": st.fixed_dictionaries(
            {name: _namespace(injection=st.just(True)) for name in ("shop", "back")},
            optional={"plain": _namespace(injection=st.booleans())},
        ),
        "gateways": st.just(GATEWAYS),
    },
    optional={
        "services": st.fixed_dictionaries(
            {}, optional={"one": _service("one", "shop"), "two": _service("two", "back")}
        ),
        "egress": st.fixed_dictionaries(
            {
                "hosts": st.dictionaries(
                    st.sampled_from(["partner", "store"]),
                    section(EgressHost, _SCALARS, namespaces=st.just(["shop"])),
                    max_size=2,
                )
            }
        ),
        "workloads": st.dictionaries(
            st.sampled_from(["one-v1", "two-v1"]), section(Workload, _SCALARS), max_size=2
        ),
        "mtlsGate": section(mtls.MtlsGate, _SCALARS),
    },
)


def accepted(mesh: Values) -> StackConfig | None:
    """A stack with the mesh; None where a preview would refuse the mesh."""
    sections = Sections({**base_sections(), "mesh": mesh}, paths.PROJECT)
    found = [*sections.problems, *(problem for check in CHECKS for problem in check(sections))]
    if any(problem.path[0] in ("mesh", "istio") for problem in found):
        return None
    return StackConfig.model_validate(sections.by_name, by_name=True)
