#!/usr/bin/env bash
# Runs on a control plane: waits until the node JOINED_NODE is Ready.
# It only waits, so it takes no lock, and other scripts may run meanwhile.

readonly REGISTRATION_SECONDS=${REGISTRATION_SECONDS:-60}
readonly ADMIN=/etc/kubernetes/admin.conf

# is_missing: whether the API server says that the cluster does not have the node.
is_missing() {
    local node
    node=$(kubectl --kubeconfig "$ADMIN" --request-timeout 10s get node "$JOINED_NODE" \
        --ignore-not-found -o name) && [ -z "$node" ]
}

ready() {
    local status
    status=$(kubectl --kubeconfig "$ADMIN" --request-timeout 10s get node "$JOINED_NODE" \
        -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}') && [ "$status" = True ]
}

# kubelet adds its node soon after it has joined, and does not add it again once it was removed.
deadline=$((SECONDS + REGISTRATION_SECONDS))
while is_missing; do
    [ "$SECONDS" -lt "$deadline" ] ||
        fail node-not-in-cluster "$JOINED_NODE is not a node of the cluster" \
            "it joined and was removed since; it returns only when it joins again" \
            "run \`pulumi up --target-replace\` with the URN of $JOINED_NODE-join"
    sleep 1
done
until_true 270 "node $JOINED_NODE to become Ready" ready
