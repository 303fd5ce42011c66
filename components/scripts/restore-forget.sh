#!/usr/bin/env bash
# Runs on the restored control plane: removes the nodes of the other control planes, and their pods, from the
# cluster, before any of them joins. Their machines are empty, and kubeadm refuses to join a node that the
# cluster calls Ready. Reads: NODE_NAME ENDPOINT.
# Uses: identity.sh

single_run
refuse_other_owner
nodes=$(ask as_admin get nodes --selector node-role.kubernetes.io/control-plane \
    --output 'jsonpath={range .items[*]}{.metadata.name}{"\n"}{end}') ||
    fail restore-nodes-unknown "the restored API server does not list its nodes" \
        "nodes of machines that are gone would keep other control planes from joining" \
        "check \`journalctl -u kubelet\` on this machine, then run \`nordmesh restore\` again"
for node in $nodes; do
    [ "$node" != "$NODE_NAME" ] || continue
    step "remove the node $node, whose machine is empty"
    # The node last: the next run of an interrupted script finds its pods only by the node.
    logged node-cordon as_admin cordon "$node"
    logged pods-delete as_admin delete pods --all-namespaces --field-selector "spec.nodeName=$node" \
        --force --grace-period 0
    logged node-delete as_admin delete node "$node" --ignore-not-found
done
