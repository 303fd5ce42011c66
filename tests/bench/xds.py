"""Simulated proxies: xDS clients of istiod over gRPC, like the Envoy of a sidecar.

They request clusters, listeners and routes, and acknowledge each response. They deliberately leave
out endpoints and certificates, which a weight edit does not send. istiod treats them as proxies.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import grpc  # type: ignore[import-untyped]
from google.protobuf import (  # type: ignore[import-untyped]
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    struct_pb2,
)

from lab.errors import LabError

_METHOD = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources"
_TYPES = "type.googleapis.com/envoy.config"
_CLUSTERS = f"{_TYPES}.cluster.v3.Cluster"
_LISTENERS = f"{_TYPES}.listener.v3.Listener"
_ROUTES = f"{_TYPES}.route.v3.RouteConfiguration"

# istiod accepts 25 new connections a second (PILOT_MAX_REQUESTS_PER_SECOND) and refuses the rest.
_CONNECT_SECONDS = 0.1

# The fields of envoy/service/discovery/v3/discovery.proto that are used; the rest is ignored.
_STRING, _MESSAGE, _BYTES = 9, 11, 12
_FIELDS = {
    "Node": (("id", 1, _STRING, False, ""), ("metadata", 3, _MESSAGE, False, "Struct")),
    "DiscoveryRequest": (
        ("version_info", 1, _STRING, False, ""),
        ("node", 2, _MESSAGE, False, "Node"),
        ("resource_names", 3, _STRING, True, ""),
        ("type_url", 4, _STRING, False, ""),
        ("response_nonce", 5, _STRING, False, ""),
    ),
    "DiscoveryResponse": (
        ("version_info", 1, _STRING, False, ""),
        ("resources", 2, _BYTES, True, ""),
        ("type_url", 4, _STRING, False, ""),
        ("nonce", 5, _STRING, False, ""),
    ),
}


def _messages() -> dict[str, Any]:
    """Create the message classes from the fields above."""
    file = descriptor_pb2.FileDescriptorProto(name="xds.proto", package="xds", syntax="proto3")
    file.dependency.append("google/protobuf/struct.proto")
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated, of in fields:
            added = message.field.add(name=field, number=number, type=kind)
            added.label = added.LABEL_REPEATED if repeated else added.LABEL_OPTIONAL
            if of:
                added.type_name = ".google.protobuf.Struct" if of == "Struct" else f".xds.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(struct_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"xds.{name}"))
        for name in _FIELDS
    }


_MESSAGES = _messages()


class _Proxy:
    """One stream, which runs in a separate thread until closed."""

    def __init__(
        self,
        number: int,
        address: str,
        namespace: str,
        routes: Sequence[str],
        gateway: Mapping[str, str] | None = None,
    ) -> None:
        # Documentation addresses, which no pod has.
        ip = f"198.51.100.{number + 1}"
        domain = f"{namespace}.svc.cluster.local"
        kind = "sidecar" if gateway is None else "router"
        self._node = _MESSAGES["Node"](id=f"{kind}~{ip}~simulated-{number}.{namespace}~{domain}")
        self._node.metadata["LABELS"] = dict(gateway or {})
        self._node.metadata["NAMESPACE"] = namespace
        self._node.metadata["CLUSTER_ID"] = "Kubernetes"
        self._node.metadata["ISTIO_VERSION"] = "1.16.5"
        self._routes = routes
        self._requests: SimpleQueue[Any] = SimpleQueue()
        self._seen: list[tuple[float, bytes]] = []
        self.has_routes = threading.Event()
        self.failure: str | None = None
        # A separate connection, as for a real proxy.
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
            ],
        )
        self._call = self._channel.stream_stream(
            _METHOD,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=_MESSAGES["DiscoveryResponse"].FromString,
        )(iter(self._requests.get, None), wait_for_ready=True)
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def arrival(self, marker: bytes) -> float | None:
        """Return when routes with the marker first arrived, in seconds since the epoch."""
        return next((when for when, routes in list(self._seen) if marker in routes), None)

    def forget(self) -> None:
        """Discard the arrivals so far."""
        self._seen.clear()

    def close(self) -> None:
        self._requests.put(None)
        self._call.cancel()
        self._channel.close()
        self._thread.join(5)

    def _follow(self) -> None:
        for kind in (_CLUSTERS, _LISTENERS, _ROUTES):
            self._ask(kind)
        try:
            for response in self._call:
                now = time.time()
                self._ask(response.type_url, response)
                if response.type_url == _ROUTES:
                    self._seen.append((now, b"".join(response.resources)))
                    self.has_routes.set()
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.CANCELLED:
                self.failure = f"{error.code().name}: {error.details()}"

    def _ask(self, kind: str, response: Any = None) -> None:
        request = _MESSAGES["DiscoveryRequest"](type_url=kind, node=self._node)
        if kind == _ROUTES:
            request.resource_names.extend(self._routes)
        if response is not None:  # an acknowledgement
            request.version_info, request.response_nonce = response.version_info, response.nonce
        self._requests.put(request)


class Simulated:
    """Simulated proxies that have received their initial configuration."""

    def __init__(self, proxies: Sequence[_Proxy]) -> None:
        self._proxies = proxies

    def forget(self) -> None:
        """Discard the arrivals so far; only later ones count."""
        for proxy in self._proxies:
            proxy.forget()

    def arrivals(self, marker: str, *, seconds: float) -> list[float]:
        """Return when each proxy received routes with the marker; raise LabError on timeout."""
        deadline = time.monotonic() + seconds
        while True:
            arrivals = [proxy.arrival(marker.encode()) for proxy in self._proxies]
            if all(when is not None for when in arrivals):
                return [when for when in arrivals if when is not None]
            if failure := next((p.failure for p in self._proxies if p.failure), None):
                raise LabError(f"istiod dropped a simulated proxy: {failure}", code="bench")
            if time.monotonic() > deadline:
                missing = arrivals.count(None)
                raise LabError(
                    f"{missing} simulated proxies did not get {marker} in {seconds:.0f} s",
                    code="bench",
                )
            time.sleep(0.05)


@contextmanager
def open_simulated(
    count: int,
    address: str,
    *,
    namespace: str,
    routes: Sequence[str],
    gateway: Mapping[str, str] | None = None,
) -> Iterator[Simulated]:
    """Open proxies of a namespace on the plaintext port of istiod; close them at the end.

    address: host:port. routes: names of the route configurations to request. gateway: the labels
    of an ingress gateway; None for sidecars.
    """
    proxies: list[_Proxy] = []
    try:
        for number in range(count):
            proxies.append(_Proxy(number, address, namespace, routes, gateway))
            time.sleep(_CONNECT_SECONDS)
        for proxy in proxies:
            if not proxy.has_routes.wait(30):
                raise LabError(
                    f"istiod sent a simulated proxy no routes: {proxy.failure or 'silent'}",
                    code="bench",
                )
        yield Simulated(proxies)
    finally:
        for proxy in proxies:
            proxy.close()
