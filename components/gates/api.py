"""Reading proxies through the API server, with the stack's own kubeconfig.

The Kubernetes client is imported only here, and this module only when a gate measures: it takes
0.3 s, which a run without a change must not pay.
"""

import base64
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from typing import Any

import urllib3
import yaml
from kubernetes import client
from kubernetes.stream import stream

from components.gates.errors import GateError
from components.gates.inventory import (
    STATS_PORT,
    Inventory,
    Peers,
    Pod,
    Proxy,
    inventory_of,
    parse_peers,
    pods_of,
)

_AT_ONCE = 8
_TIMEOUT_SECONDS = 10
_LOOKED = "looked"

# Looks five times a second at who is connected to the port that all inbound traffic is led to
# (15006), says whether it could (each table has a heading, so no line means no table), and looks at
# whom the kernel remembers to have been connected.
_PEERS = """
end=$(($(date +%s) + $0))
while [ "$(date +%s)" -lt "$end" ]; do cat /proc/net/tcp /proc/net/tcp6; sleep 0.2; done |
  awk '$2 ~ /:3A9E$/ && $4 != "0A" {split($3, a, ":"); seen[($4 == "01" ? "open " : "ended ") a[1]]}
    END {for (peer in seen) print peer; if (NR) print "looked"}'
ip tcp_metrics show | awk -v most="$0" '$2 == "age" && $3 + 0 <= most {print "recent", $1}'
"""


class Api:
    """A connection to one cluster's API server."""

    def __init__(self, configuration: Any) -> None:
        self._configuration = configuration
        self._client = client.ApiClient(configuration)

    def inventory(self) -> Inventory:
        """All running pods and the nodes."""
        pods = self._get("/api/v1/pods", fieldSelector="status.phase=Running")
        nodes = self._get("/api/v1/nodes")
        return inventory_of(_object(pods, "items"), _object(nodes, "items"))

    def selector(self, namespace: str, service: str) -> Mapping[str, str] | None:
        """The labels of a Service's pods; {} where it selects none, None where it is not there."""
        status, text = self._ask(f"/api/v1/namespaces/{namespace}/services/{service}")
        if status == HTTPStatus.NOT_FOUND:
            return None
        labels: Mapping[str, str] = _object(_usable(status, text), "spec").get("selector") or {}
        return labels

    def pods(self, namespace: str) -> list[Pod]:
        """The pods of a namespace."""
        return pods_of(_object(self._get(f"/api/v1/namespaces/{namespace}/pods"), "items"))

    def stats(self, proxies: Sequence[Proxy], wanted: str) -> dict[str, str]:
        """The statistics of proxies, by their keys; what cannot be read is left out.

        wanted: a regular expression that the names match somewhere.
        """

        def read(proxy: Proxy) -> str | None:
            place = f"/api/v1/namespaces/{proxy.namespace}/pods/{proxy.pod}:{STATS_PORT}"
            try:
                return self._get(f"{place}/proxy/stats/prometheus", filter=wanted)
            except GateError:
                return None

        with ThreadPoolExecutor(_AT_ONCE) as threads:
            texts = dict(
                zip((proxy.key for proxy in proxies), threads.map(read, proxies), strict=True)
            )
        return {key: text for key, text in texts.items() if text is not None}

    def peers(self, proxy: Proxy, seconds: int) -> Peers | None:
        """Who is connected to a pod within some seconds, as seen from its sidecar's container.

        None if nobody could look: exec is refused, the proxy's image has no shell, the pod ended.
        """
        # stream() changes the client that it is given.
        with client.ApiClient(self._configuration) as own:
            try:
                said = stream(
                    client.CoreV1Api(own).connect_get_namespaced_pod_exec,
                    proxy.pod,
                    proxy.namespace,
                    container="istio-proxy",
                    command=["sh", "-c", _PEERS, str(seconds)],
                    stdout=True,
                    stderr=False,
                    stdin=False,
                    tty=False,
                    _request_timeout=seconds + _TIMEOUT_SECONDS,
                )
            except (client.ApiException, OSError):
                return None
        return parse_peers(str(said)) if _LOOKED in str(said).splitlines() else None

    def _get(self, path: str, **query: str) -> str:
        return _usable(*self._ask(path, **query))

    def _ask(self, path: str, **query: str) -> tuple[int, str]:
        """The status and the text of an answer; GateError if there is none."""
        try:
            response = self._client.call_api(
                *self._client.param_serialize(
                    "GET", path, query_params=list(query.items()), auth_settings=[]
                ),
                _request_timeout=_TIMEOUT_SECONDS,
            )
            body: bytes = response.read()  # type: ignore[no-untyped-call]
        except (client.ApiException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _no_answer(type(error).__name__) from None
        return response.status, body.decode(errors="replace")


def _usable(status: int, text: str) -> str:
    if status != HTTPStatus.OK:
        raise _no_answer(f"status {status}")
    return text


def _object(text: str, key: str) -> Any:
    """A value of an answer in JSON; whatever else answers with 200 is not the API server."""
    try:
        return json.loads(text)[key]
    except (ValueError, LookupError, TypeError):
        raise _no_answer(f"no JSON with {key}") from None


def _no_answer(reason: str) -> GateError:
    return GateError(
        f"the API server gave no answer that could be used ({reason})",
        why="what is not measured cannot be let through",
        fix="see whether `kubectl get pods -A` works, then run `pulumi up` again",
    )


@contextmanager
def connect(kubeconfig: str) -> Iterator[Api]:
    """The API server of a kubeconfig with one cluster and a client certificate.

    Python's TLS takes a certificate and its key from files only. Theirs are in memory, so that
    nothing is left of them when the engine ends the program in the middle of a measurement.
    """
    content = yaml.safe_load(kubeconfig)
    cluster, user = content["clusters"][0]["cluster"], content["users"][0]["user"]
    with ExitStack() as files:
        configuration = client.Configuration(host=cluster["server"])
        configuration.tls_server_name = cluster.get("tls-server-name")
        configuration.connection_pool_maxsize = _AT_ONCE
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
    """The path of a file that this process alone has, and that ends with it."""
    with os.fdopen(os.memfd_create(name), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
