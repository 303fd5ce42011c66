#!/usr/bin/env bash
# The cordon of a node that restarts; for scripts on a control plane that use it after lib.sh.

export KUBECONFIG=/etc/kubernetes/admin.conf
# A file here has the name of a node that nordmesh, and not a person, has cordoned; node-remove.sh, too.
readonly CORDONED=/var/lib/nordmesh/cordoned

# fields NODE JSONPATH: prints fields of a node; nothing if the cluster does not have it.
fields() { kubectl --request-timeout 10s get node "$1" --ignore-not-found -o "jsonpath=$2"; }

# is_ready NODE: whether the API server reports that a node is Ready.
is_ready() {
    local status
    status=$(fields "$1" '{.status.conditions[?(@.type=="Ready")].status}') && [ "$status" = True ]
}

# uncordon NODE: undoes a cordon of nordmesh; a cordon of a person stays. A killed run may have left the timer.
uncordon() {
    local mark=$CORDONED.$1
    if [ -e "$mark" ]; then
        kubectl --request-timeout 30s uncordon "$1" >/dev/null || return 1
        rm -f "$mark"
    fi
    systemctl stop "nordmesh-uncordon-$1.timer" 2>/dev/null || true
}
