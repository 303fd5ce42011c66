#!/usr/bin/env bash
# Runs on a control plane: drains the node JOINED_NODE and removes it from the cluster. Reads: NODE_NAME
# JOINED_NODE ALLOW_DATA_LOSS.
# Uses: removal.sh

export KUBECONFIG=/etc/kubernetes/admin.conf
[ -f "$KUBECONFIG" ] || fail no-cluster-here "this machine has no cluster: $KUBECONFIG is missing" \
    "without the cluster nobody knows whether $JOINED_NODE runs pods; nothing was changed" \
    "set the address of $NODE_NAME back to the machine that has the cluster; if the cluster is gone, run \`pulumi state delete --force --target-dependents\` with the URN of $JOINED_NODE-ready"
single_run
node=$(ask_api "whether $JOINED_NODE is a node" node "$JOINED_NODE" --ignore-not-found -o name)
if [ -z "$node" ]; then
    rm -f "$CORDONED"
    exit 0
fi
drain
delete_node
