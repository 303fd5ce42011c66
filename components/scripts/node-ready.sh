#!/usr/bin/env bash
# Runs on a control plane: waits until the node JOINED_NODE is Ready.
# It only waits, so it takes no lock, and other scripts may run meanwhile.

readonly ADMIN=/etc/kubernetes/admin.conf

ready() {
    local status
    status=$(kubectl --kubeconfig "$ADMIN" --request-timeout 10s get node "$JOINED_NODE" \
        -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') && [ "$status" = True ]
}

until_true 270 "node $JOINED_NODE to become Ready" ready
