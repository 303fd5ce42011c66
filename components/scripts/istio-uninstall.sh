#!/usr/bin/env bash
# Runs on a control plane: removes every revision of the mesh, its webhooks, what it
# put into each namespace, and its namespace. A custom resource definition stays while
# a namespace of somebody else's has an object of its kind.
# Uses: mesh.sh

# cluster_is_gone: whether this machine has nothing left of a control plane, as after `kubeadm reset`.
cluster_is_gone() {
    [ ! -e "$KUBECONFIG" ] && [ ! -e /etc/kubernetes/manifests/kube-apiserver.yaml ] && [ ! -e /var/lib/etcd/member ]
}

# keep_definitions NAMES: takes the label by which istioctl finds what it removes off each definition
# that is in use: with the definition its objects would be deleted.
keep_definitions() {
    local name objects
    for name in $1; do
        objects=$(ask look_up "$name" --all-namespaces \
            -o 'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}') ||
            no_answer "whether $name has objects"
        if [ -n "$objects" ] && grep -qv "^$SYSTEM/" <<<"$objects"; then
            step "$name stays: there are objects of this kind"
            logged istio-definitions kubectl label customresourcedefinition "$name" operator.istio.io/component-
        fi
    done
}

single_run
if cluster_is_gone; then
    warn "this machine has no control plane any more, so there is no mesh to remove"
    exit 0
fi
require_api "; if the cluster is lost for good, run \`kubeadm reset\` on the node first"
definitions=$(ask look_up customresourcedefinitions --selector operator.istio.io/component \
    -o 'jsonpath={.items[*].metadata.name}') || no_answer "which definitions belong to the mesh"
# First the webhooks: without istiod they would refuse pods and Istio's objects.
logged istio-webhooks kubectl delete --ignore-not-found --selector 'app in (sidecar-injector,istiod)' \
    mutatingwebhookconfigurations,validatingwebhookconfigurations
if [ -x /usr/local/bin/istioctl ]; then
    keep_definitions "$definitions"
    step "istioctl uninstall"
    logged istio-uninstall istioctl uninstall --purge --skip-confirmation
elif [ -n "$definitions" ]; then
    fail no-istioctl "the node has no istioctl" \
        "it removes the mesh, which is still in the cluster" \
        "run \`pulumi up\`, which installs it, then try again"
fi
logged istio-namespace kubectl delete namespace "$SYSTEM" --ignore-not-found --timeout 120s
logged istio-leftovers kubectl delete configmaps --all-namespaces --selector istio.io/config=true
step "mesh removed"
