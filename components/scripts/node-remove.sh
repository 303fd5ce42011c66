#!/usr/bin/env bash
# Runs on a control plane: drains the node JOINED_NODE and takes it out of the
# cluster. Pods with data on the node's own disk must be allowed to go; disruption
# budgets hold in any case.

export KUBECONFIG=/etc/kubernetes/admin.conf

if [ ! -f "$KUBECONFIG" ] || ! kubectl get node "$JOINED_NODE" >/dev/null 2>&1; then
    exit 0
fi
single_run
arguments=(--ignore-daemonsets --timeout=120s)
[ "$ALLOW_DATA_LOSS" != true ] || arguments+=(--delete-emptydir-data --force)
step "drain $JOINED_NODE"
logged "drain-$JOINED_NODE" kubectl drain "$JOINED_NODE" "${arguments[@]}"
logged "delete-$JOINED_NODE" kubectl delete node "$JOINED_NODE"
