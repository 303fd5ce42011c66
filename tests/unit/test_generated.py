"""What holds for every stack: it is refused in words, or every object of it fits the others."""

from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from components.manifests import Manifest
from config import Mesh
from tests.generated_mesh import accepted, meshes
from tests.generated_routes import split
from tests.mocked import kubernetes_objects, run

Values = dict[str, Any]


def test_an_accepted_stack_routes_every_request_somewhere() -> None:
    seen: list[Mesh] = []

    @given(mesh=meshes)
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    def holds(mesh: Values) -> None:
        stack = accepted(mesh)
        if stack is None:
            return
        seen.append(stack.mesh)
        recorded, _ = run(stack)  # two resources of one name fail in it
        objects = kubernetes_objects(recorded)
        for route in (one["spec"] for one in objects if one["kind"] == "VirtualService"):
            assert_routes_lead_somewhere(route, objects)
        assert_stable_gets_the_rest(stack.mesh, objects)

    holds()
    # Fewer would mean that the test made up nonsense, not stacks.
    assert len(seen) >= 15


def assert_routes_lead_somewhere(route: Manifest, objects: list[Manifest]) -> None:
    subsets = {
        (rule["spec"]["host"], subset["name"])
        for rule in objects
        if rule["kind"] == "DestinationRule"
        for subset in rule["spec"].get("subsets", [])
    }
    for protocol in {"http", "tcp", "tls"} & route.keys():
        for one in route[protocol]:
            ways = one["route"]
            assert len(ways) == 1 or sum(way["weight"] for way in ways) == 100
            for destination in (way["destination"] for way in ways):
                if "subset" in destination:
                    assert (destination["host"], destination["subset"]) in subsets


def assert_stable_gets_the_rest(mesh: Mesh, objects: list[Manifest]) -> None:
    for name, service in mesh.services.items():
        (route,) = (
            one["spec"]
            for one in objects
            if one["kind"] == "VirtualService" and one["metadata"]["name"] == name
        )
        for protocol in {"http", "tcp", "tls"} & route.keys():
            ways = split(route, protocol)["route"]
            shares = {way["destination"]["subset"]: way["weight"] for way in ways}
            assert shares[service.stable] == 100 - (service.canary.weight if service.canary else 0)
