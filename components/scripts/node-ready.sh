#!/usr/bin/env bash
# Runs on a control plane: waits until the node JOINED_NODE is Ready.
# Takes no lock: other scripts may work while this one only waits.

readonly ADMIN=/etc/kubernetes/admin.conf

ready() {
    [ "$(kubectl --kubeconfig "$ADMIN" get node "$JOINED_NODE" \
        -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')" = True ]
}

until_true 300 "node $JOINED_NODE Ready" ready
