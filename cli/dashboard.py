"""`nordmesh dashboard`: forward the programs of observability of a stack to this machine.

The cluster's credentials come from the stack's outputs and are in a private file while it runs.
"""

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from tempfile import NamedTemporaryFile

from cli.options import Stack
from cli.pulumi_cli import kubeconfig, project
from config import StackConfig
from config.errors import NAMESPACE, NordmeshError
from config.load import read_stack
from config.observability import MONITORING_NAMESPACE


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A program of observability. target: what kubectl forwards to. path: its first page."""

    title: str
    target: str
    port: int
    path: str = "/"


DASHBOARDS: Mapping[str, Dashboard] = {
    "prometheus": Dashboard(title="Prometheus", target="statefulset/prometheus", port=9090),
    "alertmanager": Dashboard(title="Alertmanager", target="deployment/alertmanager", port=9093),
    "grafana": Dashboard(title="Grafana", target="deployment/grafana", port=3000),
    "kiali": Dashboard(title="Kiali", target="deployment/kiali", port=20001, path="/kiali/"),
}
_START_SECONDS = 60.0


def enabled_in(config: StackConfig) -> list[str]:
    """Return the dashboards that a stack enables; raises NordmeshError if all are disabled."""
    observability = config.observability
    enabled = [name for name in DASHBOARDS if getattr(observability, name).enabled]
    if not enabled:
        raise NordmeshError(
            "observability is switched off in this stack",
            code="no-observability",
            path=f"{NAMESPACE}:observability.prometheus",
            fix="write enabled: true, and run `pulumi up`",
        )
    return enabled


def show(stack: str, *, say: Callable[[str], None]) -> None:
    """Forward until interrupted or until a port-forward ends; raises NordmeshError."""
    credentials = kubeconfig(stack)
    names = enabled_in(read_stack(project(), stack).usable())
    with ExitStack() as opened:
        file = opened.enter_context(
            NamedTemporaryFile("w", prefix="nordmesh-", suffix=".kubeconfig")  # mode 0600
        )
        file.write(credentials)
        file.flush()
        forwards = []
        for name in names:
            forward = _Forward(DASHBOARDS[name], file.name)
            opened.callback(forward.close)
            forwards.append(forward)
        for forward in forwards:
            say(f"{forward.dashboard.title:<14}{forward.address()}")
        say("Ctrl-C ends it.")
        _watch(forwards)


def _watch(forwards: Sequence["_Forward"]) -> None:
    while True:
        for forward in forwards:
            if forward.ended():
                raise NordmeshError(
                    f"the port-forward to {forward.dashboard.title} ended: {forward.error()}",
                    code="port-forward-ended",
                    fix="run the command again",
                )
        time.sleep(0.5)


class _Forward:
    """`kubectl port-forward` to one dashboard, on a free port of the loopback."""

    def __init__(self, dashboard: Dashboard, kubeconfig: str) -> None:
        self.dashboard = dashboard
        kubectl = which("kubectl")
        if kubectl is None:
            raise NordmeshError(
                "there is no kubectl on PATH",
                code="no-kubectl",
                fix="install kubectl; for a stack of the lab, run `. .lab/env`",
            )
        self._output = {
            name: NamedTemporaryFile("w+", prefix=f"nordmesh-{name}-")  # noqa: SIM115 (see close)
            for name in ("out", "err")
        }
        self._process = subprocess.Popen(
            [
                kubectl, f"--kubeconfig={kubeconfig}", "--namespace", MONITORING_NAMESPACE,
                "port-forward", "--address=127.0.0.1", dashboard.target, f":{dashboard.port}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output["out"],
            stderr=self._output["err"],
            start_new_session=True,  # Ctrl-C must reach this program only, which then ends kubectl
        )  # fmt: skip

    def address(self) -> str:
        """Return the dashboard's address, once the port-forward listens."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and not self.ended():
            # "Forwarding from 127.0.0.1:45678 -> 9090"
            if match := re.search(r"from (\S+) ->", Path(self._output["out"].name).read_text()):
                return f"http://{match[1]}{self.dashboard.path}"
            time.sleep(0.05)
        raise NordmeshError(
            f"{self.dashboard.title} does not answer: {self.error() or 'timeout'}",
            code="dashboard-unreachable",
            fix=f"check with `kubectl -n {MONITORING_NAMESPACE} get pods` whether its pod runs",
        )

    def ended(self) -> bool:
        return self._process.poll() is not None

    def error(self) -> str:
        """Return what kubectl wrote to standard error."""
        return Path(self._output["err"].name).read_text().strip()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        for file in self._output.values():
            file.close()


def command(stack: Stack = "") -> None:
    """Open Prometheus, Alertmanager, Grafana and Kiali of a stack on this machine, until Ctrl-C."""
    with suppress(KeyboardInterrupt):
        show(stack, say=lambda line: print(line, flush=True))
