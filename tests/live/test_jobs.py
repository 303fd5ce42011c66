"""Jobs in the mesh: they end with the status of their work, as docs/sidecars.md shows."""

import json
from typing import Any

import pytest

from components.manifests import CONTAINER_SECURITY, Manifest, echo
from lab.screen import Cluster
from tests.live.counted import wait_for
from tests.support.applied import apply

NAMESPACE = "shop"
# bash instead of wget, which no image of the lab has: a request to a host, a port and a path.
_SEND = r"""
send() {
  exec 3<>"/dev/tcp/$1/$2" || return
  printf '%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' \
    "$4" "$3" "$1" >&3
  IFS= read -r line <&3
  [[ $line == *" 200 "* ]]
}
"""
_CALL = "send checkout.shop.svc.cluster.local 8080 / GET"
_END = "send 127.0.0.1 15020 /quitquitquit POST"


def job(name: str, image: str, work: str) -> Manifest:
    """A Job that works, stops its proxy, and ends with the status of the work."""
    script = f"{_SEND}\n{work}; status=$?\n{_END}\nexit $status"
    container = {
        "name": "work",
        "image": image,
        "command": ["bash", "-c", script],
        "securityContext": {**CONTAINER_SECURITY, "runAsNonRoot": True, "runAsUser": 10001},
    }
    waits = {"proxy.istio.io/config": json.dumps({"holdApplicationUntilProxyStarts": True})}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "metadata": {"annotations": waits},
                "spec": {
                    "containers": [container],
                    "restartPolicy": "Never",
                    "automountServiceAccountToken": False,
                },
            },
        },
    }


@pytest.mark.parametrize(
    ("work", "condition"), [(_CALL, "Complete"), (f"{_CALL} && false", "Failed")]
)
def test_a_job_ends_with_the_status_of_its_work(
    cluster: Cluster, work: str, condition: str
) -> None:
    """The namespace is STRICT, so the work succeeds only through its sidecar."""
    name = f"settle-{condition.lower()}"
    apply(cluster, [job(name, proxy_image(cluster), work)])
    try:
        ended = wait_for(f"{name} ends", lambda: conditions(cluster, name), seconds=180)
        assert ended == [condition]
        (pod,) = cluster.items("pods", "-n", NAMESPACE, f"--selector=job-name={name}")
        codes = {
            status["name"]: status["state"]["terminated"]["exitCode"]
            for status in pod["status"]["containerStatuses"]
        }
        assert codes == {"work": 0 if condition == "Complete" else 1, "istio-proxy": 0}
    finally:
        cluster.kubectl("-n", NAMESPACE, "delete", "job", name)


def conditions(cluster: Cluster, name: str) -> list[str]:
    """The conditions of a Job that has ended; none while it runs."""
    text = cluster.kubectl("-n", NAMESPACE, "get", "job", name, "--output=json")
    listed: list[dict[str, Any]] = json.loads(text)["status"].get("conditions", [])
    return [entry["type"] for entry in listed if entry["status"] == "True"]


def proxy_image(cluster: Cluster) -> str:
    """The image of the sidecars: the only one in the mesh with a shell."""
    (client, *_) = cluster.items("pods", "-n", NAMESPACE, f"--selector=app={echo.CLIENT}")
    containers = client["spec"]["containers"]
    return next(str(entry["image"]) for entry in containers if entry["name"] == "istio-proxy")
