"""The state that a stack would have after `pulumi up`, derived from its first preview.

The engine can then preview an edit without a machine or a cluster. Secrets in the state are
plaintext dummies.
"""

import datetime
import functools
import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from components.manifests import kubeadm
from components.remote.node_command import settings

Resource = dict[str, Any]
_UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"
_PROVIDER_ID = "11111111-2222-4333-8444-555555555555"
_HOST_KEY = "ssh-ed25519 AAAA"


class Deployed:
    """State of a stack whose nodes have these addresses.

    host_keys, private_key: for nodes that are reached over SSH. hypervisors: host keys by name.
    age: of the cluster's certificates, in days. made: what kubeadm-init.sh printed, instead of that
    of a made-up cluster.
    """

    def __init__(
        self,
        preview: Resource,
        *,
        addresses: dict[str, str],
        endpoint: str,
        host_keys: Mapping[str, str] | None = None,
        private_key: str = "key",
        hypervisors: Mapping[str, str] | None = None,
        age: int = 0,
        made: Mapping[str, str] | None = None,
    ) -> None:
        self._hypervisors = hypervisors or {}
        self._addresses = addresses
        self._host_keys, self._private_key = host_keys or {}, private_key
        made = self._credentials = made or credentials(age=age)
        api = next(iter(addresses.values()))
        self._kubeconfig = kubeadm.admin_kubeconfig(made, endpoint=endpoint, address=api)
        self._discovery = kubeadm.discovery_kubeconfig(made, endpoint=endpoint)
        self._resources = [self._resource(step["newState"]) for step in preview["steps"]]

    def deployment(self, exported: Resource) -> str:
        """Return the input of `pulumi stack import`: an exported stack with these resources."""
        resources = [*self._default_providers(), *self._resources]
        exported["deployment"]["resources"] = _in_order(resources)
        return json.dumps(exported)

    def _resource(self, state: Resource) -> Resource:
        resource = {key: state[key] for key in state if key not in ("sourcePosition", "stackTrace")}
        if not resource["custom"]:
            return resource
        name = resource["urn"].rpartition("::")[2]
        inputs = self._inputs(resource["inputs"])
        provider, _, identity = resource.get("provider", "").rpartition("::")
        if identity == _UNKNOWN:
            resource["provider"] = f"{provider}::{_PROVIDER_ID}"
        is_provider = resource["type"].startswith("pulumi:providers:")
        return {
            **resource,
            "id": _PROVIDER_ID if is_provider else name,
            "inputs": inputs,
            "outputs": {**inputs, **self._outputs(resource["type"], inputs)},
        }

    def _inputs(self, inputs: Resource) -> Resource:
        known: dict[str, Callable[[], Any]] = {
            "connection": lambda: self._connection(**_machine(settings(inputs["create"]))),
            "kubeconfig": lambda: _secret(self._kubeconfig),
            "stdin": lambda: _secret(self._discovery),
        }
        return {
            key: known[key]() if key in known else value
            for key, value in inputs.items()
            if key != "__internal"
        }

    def _outputs(self, type_: str, inputs: Resource) -> Resource:
        if type_.startswith("command:"):
            keys = {
                "hostKey": _HOST_KEY,
                "privateKey": "key",
                "public": _HOST_KEY,
                "private": "key",
            }
            return {"stdout": _secret(json.dumps({**self._credentials, **keys}))}
        if type_ == "pulumi:index:Stash":
            return {"output": inputs["input"]}
        if type_.startswith("kubernetes:"):
            # The provider compares new inputs with these.
            return {"__inputs": inputs, "__initialApiVersion": inputs["apiVersion"]}
        return {}

    def _connection(self, node: str, hypervisor: str | None) -> Resource:
        host_key = self._host_keys.get(node, _HOST_KEY)
        return {
            "dialErrorLimit": 5,
            "host": self._addresses.get(hypervisor or node, self._addresses[node]),
            "hostKey": self._hypervisors[hypervisor] if hypervisor else host_key,
            "perDialTimeout": 10,
            "port": 22,
            "privateKey": _secret(self._private_key),
            "user": "root",
        }

    def _default_providers(self) -> list[Resource]:
        references = {resource.get("provider", "") for resource in self._resources}
        made = {resource["urn"] for resource in self._resources}
        urns = {reference.rpartition("::")[0] for reference in references} - made - {""}
        return [
            {
                "urn": urn,
                "custom": True,
                "id": _PROVIDER_ID,
                "type": urn.split("::")[2],
                "inputs": {"version": "1.2.1"},
                "outputs": {"version": "1.2.1"},
            }
            for urn in sorted(urns)
        ]


def _machine(of_script: Mapping[str, str]) -> dict[str, Any]:
    """Return the machine that a script with these settings runs on."""
    return {"node": of_script["NODE_NAME"], "hypervisor": of_script.get("HYPERVISOR")}


def _secret(value: str) -> Resource:
    """Return a secret in the form that an import expects; the engine encrypts it."""
    signature = {"4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270"}
    return {**signature, "plaintext": json.dumps(value)}


def _in_order(resources: list[Resource]) -> list[Resource]:
    """Sort the resources so that each follows those that it refers to."""
    ordered: dict[str, Resource] = {}
    waiting = list(resources)
    while waiting:
        ready = [resource for resource in waiting if _named(resource) <= ordered.keys()]
        assert ready, [resource["urn"] for resource in waiting]
        ordered |= {resource["urn"]: resource for resource in ready}
        waiting = [resource for resource in waiting if resource["urn"] not in ordered]
    return list(ordered.values())


def _named(resource: Resource) -> set[str]:
    provider = resource.get("provider", "").rpartition("::")[0]
    named = {resource.get("parent"), resource.get("deletedWith"), provider}
    return {urn for urn in (*named, *resource.get("dependencies", [])) if urn}


@functools.cache
def credentials(name: str = "nobody", *, age: int = 0) -> dict[str, str]:
    """Return output of kubeadm-init.sh for a made-up cluster. name: the host in its certificate.

    age: of the certificate, in days.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=age))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public, secret = b64encode(certificate).decode(), b64encode(private).decode()
    return {"ca": public, "clientCertificate": public, "clientKey": secret}
