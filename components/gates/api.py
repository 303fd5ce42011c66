"""Read pods, proxies and peers through the API server, with the stack's own kubeconfig.

The Kubernetes client is imported only here, and this module only when a gate measures: the import
takes 0.3 s, which a run without a change must not pay.
"""

import base64
import json
import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import urllib3
import websocket
import yaml
from kubernetes import client

from components.gates.inventory import (
    Inventory,
    Peers,
    Pod,
    Proxy,
    inventory_of,
    parse_destinations,
    parse_peers,
    pods_of,
)
from config import ports
from config.errors import NordmeshError

_CONNECTIONS = 8
_TIMEOUT_SECONDS = 10
REPORT_SECONDS = 3
"""The limit for each answer that a report can do without; one over the API server takes 0.1 s."""
_LOOKED = "looked"
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')  # the text of a Warning header: 299 - "text"

# The connections of the proxy's user that are not to its own ports and not to istiod: the remote
# address and port, as the kernel writes them.
_DESTINATIONS = """
cat /proc/net/tcp /proc/net/tcp6 | awk '$8 == 1337 && $4 == "01" {
  split($2, l, ":"); split($3, r, ":")
  if (l[2] !~ /^(3A9[89E]|3AAC|3AAD|3AF2)$/ && r[2] !~ /^3AA[24]$/) seen[r[1] " " r[2]]
} END {for (peer in seen) print peer}'
"""
_PROTOCOL, _STDOUT = "v4.channel.k8s.io", 1

# Samples five times a second who is connected to the port that receives all inbound traffic
# (15006), prints "looked" if it could read a table (each has a heading, so no line means no table),
# and prints the addresses that the kernel remembers.
_PEERS = """
end=$(($(date +%s) + $0))
while cat /proc/net/tcp /proc/net/tcp6; [ "$(date +%s)" -lt "$end" ]; do sleep 0.2; done |
  awk '$2 ~ /:3A9E$/ && $4 != "0A" {split($3, a, ":"); seen[($4 == "01" ? "open " : "ended ") a[1]]}
    END {for (peer in seen) print peer; if (NR) print "looked"}'
ip tcp_metrics show | awk -v most="$0" '$2 == "age" && $3 + 0 <= most {print "recent", $1}'
"""


class Api:
    """A client of one cluster's API server."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._client = client.ApiClient(configuration)

    def items(self, path: str, **query: str) -> list[Any]:
        """The objects of a list."""
        items: list[Any] = _object(self._get(path, **query), "items")
        return items

    def inventory(self) -> Inventory:
        """All running pods and the nodes."""
        pods = self.items("/api/v1/pods", fieldSelector="status.phase=Running")
        return inventory_of(pods, self.items("/api/v1/nodes"))

    def selector(self, namespace: str, service: str) -> Mapping[str, str] | None:
        """The labels that a Service selects; {} without a selector, None without a Service."""
        spec = self.service(namespace, service)
        return None if spec is None else spec.get("selector") or {}

    def service(self, namespace: str, service: str) -> Mapping[str, Any] | None:
        """The spec of a Service; None if it does not exist."""
        status, text = self._ask(f"/api/v1/namespaces/{namespace}/services/{service}")
        if status == HTTPStatus.NOT_FOUND:
            return None
        spec: Mapping[str, Any] = _object(_usable(status, text), "spec")
        return spec

    def existing(
        self, manifests: Sequence[Mapping[str, Any]], *, limit: float | None = None
    ) -> list[Mapping[str, Any] | None]:
        """The metadata of the object that each manifest names; None if it does not exist.

        limit: the seconds that each response may take.
        """
        # One after another: the first fails if the API server does not answer.
        versions = dict.fromkeys(manifest["apiVersion"] for manifest in manifests)
        plurals = {version: self._plurals(version, limit) for version in versions}

        def look(manifest: Mapping[str, Any]) -> Mapping[str, Any] | None:
            version, metadata = manifest["apiVersion"], manifest["metadata"]
            plural = plurals[version].get(manifest["kind"])
            if plural is None:
                return None  # its CustomResourceDefinition does not exist yet
            place = f"/namespaces/{metadata['namespace']}" if metadata.get("namespace") else ""
            path = f"{_group(version)}{place}/{plural}/{metadata['name']}"
            status, text = self._ask(path, limit=limit)
            if status == HTTPStatus.NOT_FOUND:
                return None
            found: Mapping[str, Any] = _object(_usable(status, text), "metadata")
            return found

        with ThreadPoolExecutor(_CONNECTIONS) as threads:
            return list(threads.map(look, manifests))

    def _plurals(self, version: str, limit: float | None) -> Mapping[str, str]:
        """The name in paths of each kind of a group's version; none if that does not exist."""
        status, text = self._ask(_group(version), limit=limit)
        if status == HTTPStatus.NOT_FOUND:
            return {}
        kinds = _object(_usable(status, text), "resources")
        return {one["kind"]: one["name"] for one in kinds if "/" not in one["name"]}

    def dry_run(self, path: str, patch: object) -> list[str]:
        """The warnings of the API server about a merge patch, which changes nothing."""
        response, text = self._respond(
            path,
            {"dryRun": "All"},
            method="PATCH",
            body=patch,
            content_type="application/merge-patch+json",
        )
        _usable(response.status, text)
        headers = response.headers.getlist("Warning")
        return [json.loads(text) for one in headers for text in _QUOTED.findall(one)]

    def pods(self, namespace: str) -> list[Pod]:
        """The pods of a namespace."""
        return pods_of(_object(self._get(f"/api/v1/namespaces/{namespace}/pods"), "items"))

    def stats(
        self, proxies: Sequence[Proxy], wanted: str, *, limit: float | None = None
    ) -> dict[str, str]:
        """The statistics of proxies, by their keys, without those that cannot be read.

        wanted: a regular expression that is searched for in the names. limit: of `texts`.
        """

        port = f":{ports.PROXY_STATS}/proxy/stats/prometheus"
        paths = {p.key: f"/api/v1/namespaces/{p.namespace}/pods/{p.pod}{port}" for p in proxies}
        return self.texts(paths, limit=limit, filter=wanted)

    def texts(
        self, paths: Mapping[str, str], *, limit: float | None = None, **query: str
    ) -> dict[str, str]:
        """The texts at some paths, by their keys, without those that cannot be read.

        limit: the seconds that each may take, where a report must not wait for a dead machine.
        """

        def read(path: str) -> str | None:
            try:
                return _usable(*self._ask(path, query, limit=limit))
            except NordmeshError:
                return None

        with ThreadPoolExecutor(_CONNECTIONS) as threads:
            texts = dict(zip(paths, threads.map(read, paths.values()), strict=True))
        return {key: text for key, text in texts.items() if text is not None}

    def peers(self, proxy: Proxy, seconds: int) -> Peers | None:
        """A pod's peers within some seconds, as its sidecar's container sees them.

        None if the script could not look: exec is refused, the proxy's image has no shell, the pod
        ended, or nothing answers in time.
        """
        command = ["sh", "-c", _PEERS, str(seconds)]
        try:
            output = self._exec(proxy, command, seconds=seconds + _TIMEOUT_SECONDS)
        except (websocket.WebSocketException, OSError):
            return None
        return parse_peers(output) if _LOOKED in output.splitlines() else None

    def destinations(self, proxy: Proxy) -> frozenset[str]:
        """The addresses with ports that a sidecar has open connections to; none if it is blind."""
        try:
            output = self._exec(proxy, ["sh", "-c", _DESTINATIONS], seconds=_TIMEOUT_SECONDS)
        except (websocket.WebSocketException, OSError):
            return frozenset()
        return parse_destinations(output)

    def _exec(self, proxy: Proxy, command: Sequence[str], *, seconds: float) -> str:
        """The output of a command in a sidecar's container until it ends or the time is up.

        Not kubernetes.stream: it has no time limit for the handshake.
        """
        query = {"container": "istio-proxy", "command": command, "stdout": "true"}
        host = str(self._configuration.host).replace("http", "ws", 1)
        path = f"/api/v1/namespaces/{proxy.namespace}/pods/{proxy.pod}/exec"
        end = time.monotonic() + seconds
        connection = websocket.create_connection(
            f"{host}{path}?{urlencode(query, doseq=True)}",
            timeout=_TIMEOUT_SECONDS,
            subprotocols=[_PROTOCOL],
            sslopt=self._tls(),
        )
        output = b""
        with ExitStack() as stack:
            stack.callback(connection.shutdown)
            while (left := end - time.monotonic()) > 0:
                connection.settimeout(left)
                message = connection.recv()
                if not isinstance(message, bytes) or not message:
                    break
                if message[0] == _STDOUT:
                    output += message[1:]
        return output.decode(errors="replace")

    def _tls(self) -> dict[str, Any]:
        options = {
            "cert_reqs": ssl.CERT_REQUIRED,
            "ca_certs": self._configuration.ssl_ca_cert,
            "certfile": self._configuration.cert_file,
            "keyfile": self._configuration.key_file,
            "server_hostname": self._configuration.tls_server_name,
        }
        return {name: value for name, value in options.items() if value is not None}

    def send(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Send a request with an object as JSON; returns the status and the object in the response.

        A response that refuses the request has an object too, with a message.
        """
        status, text = self._ask(path, method=method, body=body)
        try:
            return status, dict(json.loads(text))
        except (ValueError, TypeError):
            raise _no_answer(f"status {status} without an object") from None

    def _get(self, path: str, **query: str) -> str:
        return _usable(*self._ask(path, query))

    def _ask(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: object = None,
        limit: float | None = None,
    ) -> tuple[int, str]:
        """The status and the text of a response; fails without one."""
        response, text = self._respond(path, query, method=method, body=body, limit=limit)
        return response.status, text

    def _respond(
        self,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: object = None,
        content_type: str = "application/json",
        limit: float | None = None,
    ) -> tuple[Any, str]:
        """A response and its text; fails without one."""
        json_type = {"Content-Type": content_type} if body is not None else {}
        try:
            response = self._client.call_api(
                *self._client.param_serialize(
                    method,
                    path,
                    header_params=json_type,
                    body=body,
                    query_params=list((query or {}).items()),
                    auth_settings=[],
                ),
                _request_timeout=limit or _TIMEOUT_SECONDS,
            )
            content: bytes = response.read()  # type: ignore[no-untyped-call]
        except (client.ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _no_answer(type(error).__name__) from None
        return response, content.decode(errors="replace")


def _group(version: str) -> str:
    """The path of a group's version."""
    return f"/apis/{version}" if "/" in version else f"/api/{version}"


def _usable(status: int, text: str) -> str:
    if status != HTTPStatus.OK:
        raise _no_answer(f"status {status}")
    return text


def _object(text: str, key: str) -> Any:
    """A value of a JSON response; anything else is not a response of the API server."""
    try:
        return json.loads(text)[key]
    except (ValueError, LookupError, TypeError):
        raise _no_answer(f"not JSON with the key {key}") from None


def _no_answer(reason: str) -> NordmeshError:
    return NordmeshError(
        f"the API server gave no usable response ({reason})",
        code="gate-no-api-server",
        why="nordmesh does not make a change that it cannot check on the cluster",
        fix="check that `kubectl get pods -A` works, then run `pulumi up` again",
    )


@contextmanager
def connect(kubeconfig: str) -> Iterator[Api]:
    """Connect to the API server of a kubeconfig with one cluster and a client certificate.

    Python's TLS reads a certificate and its key from files only. These files are in memory, so
    nothing is left of them if the engine ends the program in the middle of a measurement.
    """
    content = yaml.safe_load(kubeconfig)
    cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    with ExitStack() as files:
        configuration = client.Configuration(host=cluster["server"])
        configuration.tls_server_name = cluster.get("tls-server-name")
        configuration.connection_pool_maxsize = _CONNECTIONS
        configuration.retries = False
        for attribute, data in (
            ("ssl_ca_cert", cluster["certificate-authority-data"]),
            ("cert_file", user["client-certificate-data"]),
            ("key_file", user["client-key-data"]),
        ):
            path = files.enter_context(_file_in_memory(attribute, base64.b64decode(data)))
            setattr(configuration, attribute, path)
        yield Api(configuration)


@contextmanager
def _file_in_memory(name: str, content: bytes) -> Iterator[str]:
    """The path of a file that only this process has, and that ends with it."""
    with os.fdopen(os.memfd_create(name), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
