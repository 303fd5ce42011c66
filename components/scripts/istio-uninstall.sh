#!/usr/bin/env bash
# Runs on a control plane: removes every revision of the mesh, its webhooks, what it
# put into each namespace, and its namespace. A custom resource definition stays while
# a namespace of somebody else's has an object of its kind.

export KUBECONFIG=/etc/kubernetes/admin.conf
readonly SYSTEM=istio-system

# keep_definitions: takes the label by which istioctl finds what it removes off each definition
# that is in use: with the definition its objects would be deleted.
keep_definitions() {
    local name namespaces
    for name in $(kubectl get customresourcedefinitions --selector operator.istio.io/component \
        -o 'jsonpath={.items[*].metadata.name}'); do
        namespaces=$(kubectl get "$name" --all-namespaces \
            -o 'jsonpath={range .items[*]}{.metadata.namespace}{"\n"}{end}')
        if [ -n "$namespaces" ] && grep -qvxF "$SYSTEM" <<<"$namespaces"; then
            step "$name stays: there are objects of this kind"
            logged istio-definitions kubectl label customresourcedefinition "$name" operator.istio.io/component-
        fi
    done
}

single_run
if [ ! -f "$KUBECONFIG" ] || ! kubectl get --raw /readyz >/dev/null 2>&1; then
    exit 0
fi
if [ -x /usr/local/bin/istioctl ]; then
    # First the webhooks: without istiod they would refuse pods and Istio's objects.
    logged istio-webhooks kubectl delete --ignore-not-found --selector 'app in (sidecar-injector,istiod)' \
        mutatingwebhookconfigurations,validatingwebhookconfigurations
    keep_definitions
    step "istioctl uninstall"
    logged istio-uninstall istioctl uninstall --purge --skip-confirmation
fi
logged istio-namespace kubectl delete namespace "$SYSTEM" --ignore-not-found --timeout 120s
logged istio-leftovers kubectl delete configmaps --all-namespaces --selector istio.io/config=true
step "mesh removed"
