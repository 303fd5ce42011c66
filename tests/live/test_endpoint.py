"""Nodes reach the API server by its name, workers through their own load balancer."""

from collections.abc import Iterator

import pytest

from tests.live.harness import Project

CP, WORKER = "10.67.0.11", "10.67.0.21"
# An address where nothing answers.
DEAD = "10.67.0.250"
PROGRAM = "/usr/local/lib/nordmesh/endpoint.sh"
SERVERS = "/etc/nordmesh/endpoint-servers.cfg"
# As kubelet asks, by the name.
ASK = "kubectl --kubeconfig /etc/kubernetes/kubelet.conf --request-timeout 5s get --raw /readyz"
CONNECT = "curl --silent --show-error --fail --max-time 10 --cacert /etc/kubernetes/pki/ca.crt"
VERSION = f"{CONNECT} $(sed -n 's/^ *server: //p' /etc/kubernetes/kubelet.conf)/version"


def name_on(project: Project, node: str) -> str:
    """The address of the API server's name on a node."""
    server = "sed -n 's,^ *server: https://\\(.*\\):[0-9]*$,\\1,p' /etc/kubernetes/kubelet.conf"
    return project.ssh(node, f"getent ahostsv4 $({server}) | awk 'NR == 1 {{print $1}}'").strip()


def wait(project: Project, command: str, *, seconds: int = 30) -> None:
    """Wait until a command succeeds on the worker."""
    project.ssh(WORKER, f"timeout {seconds} bash -c 'until {command}; do sleep 0.2; done'")


@pytest.fixture
def own_servers(project: Project) -> Iterator[None]:
    """The worker's load balancer, whose servers the test may change: nobody follows the list."""
    project.ssh(WORKER, "systemctl stop nordmesh-members")
    yield
    project.ssh(WORKER, f"bash {PROGRAM} {CP}; systemctl start nordmesh-members")


def test_the_name_leads_to_the_loopback_of_a_worker_and_to_the_control_plane_itself(
    project: Project,
) -> None:
    assert name_on(project, WORKER) == "127.0.0.1"
    assert name_on(project, CP) == CP
    assert project.ssh(WORKER, ASK).strip() == "ok"
    listening = project.ssh(WORKER, "ss -Hlnt 'sport = 6443' | awk '{print $4}'").split()
    assert listening == ["127.0.0.1:6443"]
    owner = project.ssh(
        WORKER, "ps -o user= -p $(systemctl show nordmesh-endpoint -p MainPID --value)"
    ).strip()
    assert owner == "haproxy"
    assert f"server {CP} {CP}\n" in project.ssh(WORKER, f"cat {SERVERS}")
    # The package's own service is off, and so not among the failed ones.
    assert project.ssh(WORKER, "systemctl --failed --no-legend").strip() == ""


def test_pods_on_the_nodes_network_use_the_load_balancer(project: Project) -> None:
    files = "/var/lib/kubelet/pods/*/etc-hosts"
    lines = project.ssh(WORKER, f"grep -h '# nordmesh$' {files}").splitlines()
    assert lines
    assert {line.split()[0] for line in lines} == {"127.0.0.1"}


def test_a_load_balancer_that_dies_is_back_at_once(project: Project) -> None:
    before = project.ssh(WORKER, "systemctl show nordmesh-endpoint -p MainPID --value").strip()
    project.ssh(WORKER, "systemctl kill --signal SIGKILL nordmesh-endpoint")
    wait(project, f"{ASK} >/dev/null", seconds=10)
    after = project.ssh(WORKER, "systemctl show nordmesh-endpoint -p MainPID --value").strip()
    assert after not in ("0", before)


@pytest.mark.usefixtures("own_servers")
def test_a_control_plane_that_does_not_answer_is_not_used(project: Project) -> None:
    """Through a real check of a real API server: /readyz with the cluster's CA."""
    project.ssh(WORKER, f"bash {PROGRAM} {CP} {DEAD}")
    journal = "journalctl -u nordmesh-endpoint --since -60s -o cat"
    wait(project, f'{journal} | grep -q "Server ready/{DEAD} is DOWN"')
    answers = project.ssh(
        WORKER, f"for _ in 1 2 3 4 5 6 7 8; do {VERSION} >/dev/null && echo ok; done"
    )
    assert answers.split() == ["ok"] * 8
    assert f"Server ready/{CP} is DOWN" not in project.ssh(WORKER, journal)


@pytest.mark.usefixtures("own_servers")
def test_a_reload_fails_no_request_of_a_node(project: Project) -> None:
    """A control plane comes and goes ten times, while a client opens connections."""
    project.ssh(
        WORKER,
        f"rm -f /run/failed /run/count; (while [ ! -e /run/over ]; do "
        f"if {VERSION} 2>>/run/failed >/dev/null; then echo ok >>/run/count; "
        f"else echo failed >>/run/failed; fi; "
        f"done) & for _ in 1 2 3 4 5; do bash {PROGRAM} {CP} {DEAD}; sleep 1; "
        f"bash {PROGRAM} {CP}; sleep 1; done; touch /run/over; wait; rm /run/over",
    )
    counted = project.ssh(WORKER, "wc -l </run/count; cat /run/failed 2>/dev/null || true").split()
    assert counted[1:] == []
    assert int(counted[0]) > 10
    print(f"{counted[0]} requests during 10 reloads, 0 failed")
