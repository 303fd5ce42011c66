"""Checks of sizes in the section `istio`: replicas, and requests and limits that fit together."""

from collections.abc import Iterator

from config.errors import KeyPath, Problem
from config.istio.checks import gateways_of
from config.istio.gateways import Replicas
from config.resources import KINDS, Resources, check_proxy_limit, check_request
from config.scalars.quantities import quantity
from config.sections import Sections

# Istio's profiles: manifests/profiles.
_FULL = Resources(cpu="500m", memory="2048Mi")
_PILOT_REQUESTS = {
    "default": _FULL,
    "minimal": _FULL,
    "demo": Resources(cpu="10m", memory="100Mi"),
}


def _check_replicas(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    pilot = sections.istio.pilot.replicas
    places: list[tuple[KeyPath, Replicas]] = [(("istio", "pilot", "replicas"), pilot)]
    places += [
        ((*path, "replicas"), gateway.replicas)
        for path, _, gateway in gateways_of(sections.istio)
        if gateway.replicas
    ]
    for path, replicas in places:
        if replicas.min > replicas.max:
            yield Problem(
                code="replicas-min-above-max",
                path=(*path, "max"),
                what=f"max is {replicas.max}, which is below min: {replicas.min}",
                why="the API server refuses such an autoscaler, and the install would fail",
                fix=f"use {replicas.min} or more, or a smaller min",
                about=((*path, "min"),),
            )


def _check_resources(sections: Sections) -> Iterator[Problem]:
    if sections.istio is None:
        return
    pilot, proxy = sections.istio.pilot, sections.istio.proxy
    gateways = gateways_of(sections.istio)
    places: list[tuple[KeyPath, Resources, Resources]] = [
        (("istio", "proxy"), proxy.requests, proxy.limits),
        *((path, gateway.requests, gateway.limits) for path, _, gateway in gateways),
    ]
    if pilot.requests and pilot.limits:
        places.append((("istio", "pilot"), pilot.requests, pilot.limits))
    elif pilot.limits:
        yield from _check_pilot_limits(pilot.limits, sections.istio.profile)
    for path, requests, limits in places:
        for kind in KINDS:
            yield from check_request(
                (*path, "requests", kind),
                getattr(requests, kind),
                getattr(limits, kind),
                limit_path=(*path, "limits", kind),
            )
    for kind in KINDS:
        limit = getattr(proxy.limits, kind)
        yield from check_proxy_limit(("istio", "proxy", "limits", kind), kind, limit)


def _check_pilot_limits(limits: Resources, profile: str) -> Iterator[Problem]:
    """The problems of istiod's limits below the profile's requests."""
    requests = _PILOT_REQUESTS[profile]
    for kind in KINDS:
        limit, request = getattr(limits, kind), getattr(requests, kind)
        if quantity(limit) < quantity(request):
            yield Problem(
                code="pilot-limit-below-profile",
                path=("istio", "pilot", "limits", kind),
                what=f"the limit of {limit} is below the {request} that the profile {profile} "
                "requests",
                why="the API server refuses such pods, so istiod could not start",
                fix=f"use at least {request}, or set istio.pilot.requests as well",
                about=(("istio", "profile"), ("istio", "pilot", "requests")),
            )


CHECKS = (_check_replicas, _check_resources)
