"""Input of by_hand.sh: the files that an administrator would prepare, from the same models."""

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components import node
from components.host.table import registry_hosts
from components.machines import Machine
from components.manifests import coredns, hardening, istio_operator, kubeadm, mtls, routes
from components.manifests.flannel import flannel
from components.manifests.metrics_server import metrics_api, metrics_server
from components.node import NodeArgs
from components.remote.node_command import text_of
from components.remote.script import Connection, PrivateKey
from components.rollout import Rollout
from config import ROOT_NAMESPACE, Mesh, StackConfig, catalogue
from config.catalogue import Binaries
from config.machines import AnyNode
from tests.bench.bench_lab import BenchLab

SCRIPT = Path(__file__).with_name("by_hand.sh")
# by_hand.sh replaces the key.
_ENCRYPTION = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "EncryptionConfiguration",
    "resources": [
        {
            "resources": ["secrets"],
            "providers": [{"secretbox": {"keys": [{"name": "key1", "secret": "@KEY@"}]}}],
        }
    ],
}


def write_files(lab: BenchLab, directory: Path) -> dict[str, str]:
    """Write the files for the script into a directory; return its settings."""
    config, istio, binaries = lab.config, lab.config.istio, _binaries(lab)
    assert istio is not None
    assert binaries.istioctl is not None
    files = {
        "known_hosts": lab.known_hosts(),
        "audit-policy.yaml": hardening.audit_policy(),
        "encryption.yaml": json.dumps(_ENCRYPTION),
        "kubeadm-init.yaml": kubeadm.to_yaml(_init_documents(config)),
        "coredns.yaml": kubeadm.to_yaml([coredns.spread()]),
        "flannel.yaml": kubeadm.to_yaml(
            flannel(
                pod_cidr=config.kubernetes.pod_cidr,
                endpoint=config.kubernetes.endpoint,
                image=catalogue.FLANNEL_IMAGE,
                plugin_image=catalogue.FLANNEL_CNI_IMAGE,
            )
        ),
        "metrics-server.yaml": kubeadm.to_yaml(
            [*metrics_server(image=catalogue.METRICS_SERVER_IMAGE), metrics_api()]
        ),
        "istio-control-plane.yaml": kubeadm.to_yaml([istio_operator.control_plane(istio)]),
        "istio-gateways.yaml": kubeadm.to_yaml([istio_operator.gateways(istio)]),
        "mesh.yaml": kubeadm.to_yaml(_mesh_objects(config.mesh)),
    }
    for name in config.machines.nodes:
        files[f"prepare-{name}.sh"] = _prepare_script(config, binaries, name)
    for name, text in files.items():
        (directory / name).write_text(text)
    return {
        "CONTROL_PLANES": _addresses(config.machines.control_planes),
        "ENDPOINT": config.kubernetes.endpoint,
        "FILES": str(directory),
        "ISTIOCTL_SHA256": binaries.istioctl.sha256,
        "ISTIOCTL_URL": binaries.istioctl.source(config.artifacts.mirror),
        "KNOWN_HOSTS": str(directory / "known_hosts"),
        "REVISION": istio.revision,
        "SSH_KEY": str(lab.lab.directory / "id_ed25519"),
        "WORKERS": _addresses(config.machines.workers),
    }


def _addresses(nodes: Iterable[tuple[str, AnyNode]]) -> str:
    return " ".join(f"{name}={node.address}" for name, node in nodes)


def _binaries(lab: BenchLab) -> Binaries:
    config = lab.config
    lock = catalogue.read_lock(lab.project.directory / config.artifacts.lock)
    return catalogue.binaries(*_versions(config), lock)


def _versions(config: StackConfig) -> tuple[str, str]:
    assert config.istio is not None
    return config.kubernetes.version, config.istio.version


def _init_documents(config: StackConfig) -> list[dict[str, Any]]:
    name, cp = config.machines.control_planes[0]
    release = catalogue.KUBERNETES[config.kubernetes.version]
    return [
        kubeadm.init_document(name=name, address=cp.address),
        *kubeadm.cluster_documents(config.kubernetes, release, address=cp.address),
    ]


def _prepare_script(config: StackConfig, binaries: Binaries, name: str) -> str:
    """Render node-prepare.sh with its settings, as the program runs it, but without image pulls."""
    machine = config.machines.nodes[name]
    login = Connection(
        host=machine.address, user="root", port=22, private_key=PrivateKey(text=""), host_key=""
    )
    images = catalogue.images(*_versions(config))
    args = NodeArgs(
        machine=Machine(
            name=name,
            role=machine.role,
            address=machine.address,
            cluster_address=machine.cluster_address,
            connection=login,
        ),
        host=config.host,
        kubernetes=config.kubernetes,
        runtime=binaries.runtime,
        binaries=binaries.kubernetes,
        artifacts=config.artifacts,
        images={},
        pause_image=catalogue.KUBERNETES[config.kubernetes.version].pause_image,
        registry_hosts=registry_hosts(registry=config.artifacts.registry, images=images),
        network_policy=config.mesh.network_policy,
        rollout=Rollout(()),
    )
    return _exports({"NODE_NAME": name, **node.settings(args)}) + text_of("node-prepare.sh")


def _exports(settings: Mapping[str, str]) -> str:
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())


def _mesh_objects(mesh: Mesh) -> list[dict[str, Any]]:
    modes = {ROOT_NAMESPACE: mesh.mtls} | {
        name: namespace.mtls for name, namespace in mesh.namespaces.items() if namespace.mtls
    }
    return [
        *(
            mtls.namespace(name, settings, kubernetes="1.23.17")
            for name, settings in mesh.namespaces.items()
        ),
        *(mtls.peer_authentication(name, mode) for name, mode in modes.items()),
        *(
            rule
            for name, service in mesh.services.items()
            for rule in routes.subset_rules(name, service)
        ),
        *(routes.destination_rule(name, service) for name, service in mesh.services.items()),
        *(routes.virtual_service(name, service) for name, service in mesh.services.items()),
    ]
