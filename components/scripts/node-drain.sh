#!/usr/bin/env bash
# Runs on a control plane: drains the node JOINED_NODE before its machine restarts. Disruption budgets hold;
# a pod without a controller stops it; scratch volumes (emptyDir) are deleted with their pods.
# node-uncordon.sh undoes it: after the restart, and by a timer after UNDO_SECONDS if the run was killed.
# Reads: JOINED_NODE UNDO_SECONDS, UNCORDON (the command that the timer runs).
# It takes no lock: other scripts may run meanwhile, and the program drains one node at a time.
# Uses: cordon.sh

# finish_others: undoes what is left of an earlier restart; one node at a time.
finish_others() {
    local mark other name
    for mark in "$CORDONED".*; do
        other=${mark#"$CORDONED".}
        [ -e "$mark" ] && [ "$other" != "$JOINED_NODE" ] || continue
        name=$(fields "$other" '{.metadata.name}') || unknown
        if [ -z "$name" ]; then
            rm -f "$mark"
        elif ! is_ready "$other" || ! uncordon "$other"; then
            fail node-still-away "$other was drained for a restart and has not been Ready since" \
                "if $JOINED_NODE were drained too, two nodes would be missing; nothing was changed" \
                "find out why $other is not Ready (\`kubectl describe node $other\`), then run \`pulumi up\` again"
        fi
    done
}

unknown() {
    fail drain-without-answer "the API server does not answer, so $JOINED_NODE cannot be drained" \
        "its pods would stop without a replacement; nothing was changed" \
        "check that the API server runs on $NODE_NAME (\`kubectl get nodes\` there), then run \`pulumi up\` again"
}

undo() {
    [ -z "$drained" ] || return 0
    # Uncordon before printing: the connection may be gone.
    uncordon "$JOINED_NODE" && step "$JOINED_NODE was not drained, and accepts pods again"
}

finish_others
node=$(fields "$JOINED_NODE" '{.metadata.name}') || unknown
[ -n "$node" ] || exit 0
unschedulable=$(fields "$JOINED_NODE" '{.spec.unschedulable}') || unknown
ready=$(fields "$JOINED_NODE" '{.status.conditions[?(@.type=="Ready")].status}') || unknown
mark=$CORDONED.$JOINED_NODE timer=nordmesh-uncordon-$JOINED_NODE drained=''
trap undo EXIT
trap 'exit 143' TERM INT HUP
if [ "$unschedulable" != true ]; then
    mkdir -p "${mark%/*}"
    : >"$mark"
fi
if [ -e "$mark" ]; then
    systemctl stop "$timer.timer" 2>/dev/null || true
    logged "$timer" systemd-run --quiet --collect --unit "$timer" --on-active "$UNDO_SECONDS" bash -c "$UNCORDON"
fi
if [ "$ready" = True ]; then
    step "drain $JOINED_NODE"
    logged "drain-$JOINED_NODE" kubectl drain "$JOINED_NODE" --ignore-daemonsets --delete-emptydir-data --timeout=300s
else
    step "$JOINED_NODE is not Ready, so its pods cannot be moved"
    logged "drain-$JOINED_NODE" kubectl cordon "$JOINED_NODE"
fi
drained=yes
