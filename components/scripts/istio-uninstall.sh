#!/usr/bin/env bash
# Runs on a control plane: removes every revision of the mesh, its webhooks, its config maps in all
# namespaces, and its namespace. A custom resource definition stays while another namespace has an object of
# its kind.
# Uses: mesh.sh

# cluster_is_gone: whether nothing of a control plane is left on this machine, as after `kubeadm reset`.
cluster_is_gone() {
    [ ! -e "$KUBECONFIG" ] && [ ! -e /etc/kubernetes/manifests/kube-apiserver.yaml ] && [ ! -e /var/lib/etcd/member ]
}

# keep_definitions NAMES: removes the label by which istioctl selects what it removes from each definition
# that is in use: its objects would be deleted with the definition.
keep_definitions() {
    local name objects
    for name in $1; do
        objects=$(ask look_up "$name" --all-namespaces \
            -o 'jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{"\n"}{end}') ||
            no_answer "whether $name has objects"
        if [ -n "$objects" ] && grep -qv "^$SYSTEM/" <<<"$objects"; then
            step "keep $name: it still has objects"
            logged istio-definitions kubectl label customresourcedefinition "$name" operator.istio.io/component-
        fi
    done
}

single_run
if cluster_is_gone; then
    warn "this machine no longer has a control plane, so it has no mesh to remove"
    exit 0
fi
require_api "; if the cluster is lost for good, first $CLEAR"
definitions=$(ask look_up customresourcedefinitions --selector operator.istio.io/component \
    -o 'jsonpath={.items[*].metadata.name}') || no_answer "which definitions belong to the mesh"
# The webhooks first: without istiod they would reject pods and Istio's objects.
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
