#!/usr/bin/env bash
# Runs on a control plane: removes every revision of the mesh, its webhooks and
# its namespace. Custom resource definitions stay: deleting one deletes every
# object of its kind.

export KUBECONFIG=/etc/kubernetes/admin.conf

single_run
if [ ! -f "$KUBECONFIG" ] || ! kubectl get namespace istio-system >/dev/null 2>&1; then
    exit 0
fi
step "istioctl uninstall"
logged istio-uninstall istioctl uninstall --purge --skip-confirmation
logged istio-namespace kubectl delete namespace istio-system --timeout 120s
