#!/usr/bin/env bash
# The removal of the node JOINED_NODE from the cluster, for the scripts that use it after lib.sh. Scratch volumes
# (emptyDir) are deleted with their pods. Losing local persistent volumes, or pods that have no controller,
# needs ALLOW_DATA_LOSS; disruption budgets always hold. A node that cannot be drained accepts pods again.

# Exists while this script, and not a person, has cordoned the node.
readonly CORDONED=/var/lib/nordmesh/cordoned.$JOINED_NODE
# The volumes on nodes' disks: name, phase, path, nodes, and the claim's namespace and name.
readonly VOLUMES='{range .items[*]}{.metadata.name}|{.status.phase}|{.spec.local.path}{.spec.hostPath.path}|{range .spec.nodeAffinity.required.nodeSelectorTerms[*].matchExpressions[*]}{.values[*]} {end}|{.spec.claimRef.namespace}/{.spec.claimRef.name}{"\n"}{end}'

# The local volumes that are lost with the node; `drain` finds them.
lost=""

# ask_api WHAT ARGUMENT...: prints the output of `kubectl get`; a failure is not an answer and ends the script.
ask_api() {
    local what=$1
    shift
    kubectl --request-timeout 30s get "$@" || fail no-answer-on-node "the API server does not show $what" \
        "without its answer $JOINED_NODE must not go; nothing was changed" \
        "check that the API server runs on $NODE_NAME (\`kubectl get nodes\` there), then run \`pulumi up\` again"
}

# local_volumes: prints the local volumes of the node that may have data, each with its claim.
local_volumes() {
    local volumes
    volumes=$(ask_api "which volumes $JOINED_NODE has" persistentvolumes -o "jsonpath=$VOLUMES") || return
    awk -F '|' -v node="$JOINED_NODE" \
        '$2 != "Available" && $3 != "" && index(" " $4 " ", " " node " ") {
            printf "%s%s%s", separator, $1, $5 ~ /^\/?$/ ? "" : " (" $5 ")"; separator = ", "
        }' <<<"$volumes"
}

# refuse_loss: ends the script if a volume would be lost with the node.
refuse_loss() {
    [ -z "$lost" ] || fail local-volumes "$JOINED_NODE has the data of the volumes $lost" \
        "a local volume is lost with its node; nothing was changed" \
        "move the data, delete these volumes, and run \`pulumi up\` again. To lose the data, put $JOINED_NODE back into the stack file, add the entry {volumes: $JOINED_NODE, reason: ...} to nordmesh:machines.allowDataLoss and run \`pulumi up\`; then remove it"
}

uncordon() {
    [ -f "$CORDONED" ] || return 0
    # Uncordon before printing: the connection may be gone.
    if kubectl --request-timeout 5s uncordon "$JOINED_NODE" >/dev/null 2>&1; then
        rm -f "$CORDONED"
        step "$JOINED_NODE was not removed, and accepts pods again"
    else
        step "$JOINED_NODE was not removed, and accepts no new pods: run \`kubectl uncordon $JOINED_NODE\`"
    fi
}

# drain: moves the pods of the node elsewhere. Until the script ends, it undoes the cordon.
drain() {
    local unschedulable arguments=(--ignore-daemonsets --delete-emptydir-data --timeout=120s)
    trap uncordon EXIT
    trap 'exit 143' TERM INT HUP
    lost=$(local_volumes)
    if [ "$ALLOW_DATA_LOSS" = true ]; then arguments+=(--force); else refuse_loss; fi
    unschedulable=$(ask_api "whether $JOINED_NODE accepts pods" node "$JOINED_NODE" -o 'jsonpath={.spec.unschedulable}')
    if [ "$unschedulable" != true ]; then
        mkdir -p "${CORDONED%/*}"
        : >"$CORDONED"
    fi
    step "drain $JOINED_NODE"
    logged "drain-$JOINED_NODE" kubectl drain "$JOINED_NODE" "${arguments[@]}"
}

# delete_node: removes the node from the cluster.
delete_node() {
    logged "delete-$JOINED_NODE" kubectl delete node "$JOINED_NODE"
    rm -f "$CORDONED"
    [ -z "$lost" ] || warn "lost with $JOINED_NODE: $lost. Delete these claims, and their pods get new volumes"
}
