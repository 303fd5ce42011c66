#!/usr/bin/env bash
# Runs on a control plane: lets pods start on the node JOINED_NODE, which has its labels and taints by now, and
# waits until it is Ready. It takes no lock, and other scripts may run meanwhile.

readonly REGISTRATION_SECONDS=${REGISTRATION_SECONDS:-60}
readonly ADMIN=/etc/kubernetes/admin.conf
# The taint that the node registered with (components/manifests/kubeadm.py).
readonly JOINING=nordmesh.io/joining:NoSchedule

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

# accept_pods: removes the taint, if the node has it.
accept_pods() {
    local taints
    taints=$(kubectl --kubeconfig "$ADMIN" --request-timeout 10s get node "$JOINED_NODE" \
        -o 'jsonpath={range .spec.taints[*]}{.key}:{.effect}{"\n"}{end}') || return
    ! grep -qxF "$JOINING" <<<"$taints" ||
        kubectl --kubeconfig "$ADMIN" --request-timeout 10s taint node "$JOINED_NODE" "$JOINING-"
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
until_true 30 "node $JOINED_NODE to accept pods" accept_pods
until_true 270 "node $JOINED_NODE to become Ready" ready
