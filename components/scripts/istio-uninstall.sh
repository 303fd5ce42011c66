#!/usr/bin/env bash
# Runs on a control plane: removes every revision of the mesh, its webhooks, what it
# put into each namespace, and its namespace. A custom resource definition stays while
# there is an object of its kind, since deleting it would delete the object.

export KUBECONFIG=/etc/kubernetes/admin.conf

# remove_definitions: the CRDs without objects; names those that stay.
remove_definitions() {
    local name
    for name in $(kubectl get customresourcedefinitions -o 'jsonpath={.items[*].metadata.name}'); do
        [[ $name == *.istio.io ]] || continue
        if [ -n "$(kubectl get "$name" --all-namespaces -o name --ignore-not-found 9>&-)" ]; then
            step "$name stays: there are objects of this kind"
        else
            logged istio-definitions kubectl delete customresourcedefinition "$name" --timeout 60s
        fi
    done
}

single_run
if [ ! -f "$KUBECONFIG" ] || ! kubectl get --raw /readyz >/dev/null 2>&1; then
    exit 0
fi
if kubectl get namespace istio-system >/dev/null 2>&1; then
    # First the webhooks: without istiod they would refuse pods and Istio's objects.
    logged istio-webhooks kubectl delete --ignore-not-found --selector 'app in (sidecar-injector,istiod)' \
        mutatingwebhookconfigurations,validatingwebhookconfigurations
    step "istioctl uninstall"
    logged istio-uninstall istioctl uninstall --purge --skip-confirmation
    logged istio-namespace kubectl delete namespace istio-system --ignore-not-found --timeout 120s
fi
logged istio-leftovers kubectl delete configmaps --all-namespaces --selector istio.io/config=true
remove_definitions
step "mesh removed"
