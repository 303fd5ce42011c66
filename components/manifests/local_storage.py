"""local-path-provisioner: creates a directory on a node's disk for each claim of its class."""

import json

from components.manifests import CONTAINER_SECURITY, SYSTEM_POD, Manifest, deployment
from components.manifests.kubeadm import to_yaml
from config import STORAGE_CLASS, LocalStorage

NAMESPACE = "kube-system"
NAME = "local-path-provisioner"
_CONFIG = "local-path-config"
_MOUNT = "/etc/config"
_HELPER = "helperPod.yaml"
_LABELS = {"app": NAME}
_RBAC = "rbac.authorization.k8s.io"
_READ = ["get", "list", "watch"]
_WRITE = [*_READ, "create", "patch", "update", "delete"]

# Pods of any user write to a volume, and kubelet changes the group of those that ask for one.
_SETUP = '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n'
_TEARDOWN = '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n'


def provisioner(settings: LocalStorage, *, image: str) -> list[Manifest]:
    """Every object of the provisioner but its storage class.

    image: has the shell with which a pod of the provisioner makes and deletes a directory.
    """
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _metadata()},
        *_access(),
        _config(settings, image),
        _deployment(image),
    ]


def storage_class(settings: LocalStorage) -> Manifest:
    """The class of claims. A claim gets its volume when a pod uses it, on the node of that pod."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": STORAGE_CLASS,
            "annotations": {
                "storageclass.kubernetes.io/is-default-class": str(settings.default).lower(),
                # With `hostPath`, a new machine of the same name would start with empty volumes;
                # a pod does not start while the directory of a `local` volume is missing.
                "defaultVolumeType": "local",
            },
        },
        "provisioner": "rancher.io/local-path",
        "reclaimPolicy": settings.reclaim_policy,
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _metadata() -> Manifest:
    return {"name": NAME, "namespace": NAMESPACE, "labels": _LABELS}


def _access() -> list[Manifest]:
    """To manage volumes, and to run pods in its own namespace; these run as root on the nodes."""
    return [
        _role(
            "ClusterRole",
            {
                "apiGroups": [""],
                "resources": ["nodes", "persistentvolumeclaims"],
                "verbs": _READ,
            },
            {"apiGroups": [""], "resources": ["persistentvolumes"], "verbs": _WRITE},
            {"apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"]},
            {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": _READ},
        ),
        _binding("ClusterRole"),
        _role(
            "Role",
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "create", "delete"]},
            {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
        ),
        _binding("Role"),
    ]


def _role(kind: str, *rules: Manifest) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": kind,
        "metadata": _scoped(kind),
        "rules": list(rules),
    }


def _binding(kind: str) -> Manifest:
    return {
        "apiVersion": f"{_RBAC}/v1",
        "kind": f"{kind}Binding",
        "metadata": _scoped(kind),
        "roleRef": {"apiGroup": _RBAC, "kind": kind, "name": NAME},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    }


def _scoped(kind: str) -> Manifest:
    return {"name": NAME, "labels": _LABELS} if kind == "ClusterRole" else _metadata()


def _config(settings: LocalStorage, image: str) -> Manifest:
    """The provisioner uses a change of it within two minutes; volumes that exist keep their path.

    It reads config.json and helperPod.yaml itself; the helper pods mount the two scripts.
    """
    paths = [{"node": "DEFAULT_PATH_FOR_NON_LISTED_NODES", "paths": [settings.path]}]
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {**_metadata(), "name": _CONFIG},
        "data": {
            "config.json": json.dumps({"nodePathMap": paths}),
            _HELPER: to_yaml([_helper(image)]),
            "setup": _SETUP,
            "teardown": _TEARDOWN,
        },
    }


def _helper(image: str) -> Manifest:
    """The pod that makes or deletes a directory; the provisioner adds its node and its mounts."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "local-path"},
        "spec": {
            "priorityClassName": "system-node-critical",
            "automountServiceAccountToken": False,
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "helper-pod",  # the provisioner reads the log of this name
                    "image": image,
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        # Of the files of any user, which is all that root is needed for.
                        "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE", "FOWNER"]},
                        "readOnlyRootFilesystem": True,
                    },
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }
            ],
        },
    }


def _deployment(image: str) -> Manifest:
    pod = {
        "serviceAccountName": NAME,
        **SYSTEM_POD,
        "containers": [_container(image)],
        "volumes": [{"name": "config", "configMap": {"name": _CONFIG}}],
    }
    template = {"metadata": {"labels": _LABELS}, "spec": pod}
    # Two would both create the pods of a claim.
    return deployment(_metadata(), template, strategy={"type": "Recreate"})


def _container(image: str) -> Manifest:
    return {
        "name": NAME,
        "image": image,
        "command": [
            NAME,
            "start",
            f"--config={_MOUNT}/config.json",
            f"--helper-pod-file={_MOUNT}/{_HELPER}",
            f"--configmap-name={_CONFIG}",
            f"--service-account-name={NAME}",
        ],
        "env": [
            {
                "name": "POD_NAMESPACE",
                "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}},
            },
            # Where it reads a changed helper pod.
            {"name": "CONFIG_MOUNT_PATH", "value": _MOUNT},
        ],
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "config", "mountPath": _MOUNT, "readOnly": True}],
    }
