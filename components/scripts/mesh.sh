#!/usr/bin/env bash
# How the scripts of the mesh ask the cluster, for the scripts that use it; lib.sh is before it. Only
# an answer that does not have an object means that it is gone: a failed kubectl or istioctl ends the
# script.

export KUBECONFIG=/etc/kubernetes/admin.conf
# shellcheck disable=SC2034 # for the scripts that use this
readonly SYSTEM=istio-system

# look_up ARGUMENT...: `kubectl get` that ends even if the API server hangs.
look_up() { kubectl get --request-timeout 20s "$@"; }

# unanswered WHAT: ends the script, since nobody knows what the cluster has.
unanswered() {
    fail "the cluster does not say $1" \
        "the last try is shown above; without an answer nothing is removed and nothing counts as done" \
        "see that \`kubectl get nodes\` and \`istioctl proxy-status\` work on the node, then run \`pulumi up\` again"
}

# require_api [REMEDY]: waits for an API server that is restarting.
require_api() {
    ask look_up --raw /readyz >/dev/null || fail "the API server does not answer" \
        "without it the mesh can be neither seen nor changed; nothing was changed" \
        "look at \`journalctl -u kubelet\` on the node, then run \`pulumi up\` again${1-}"
}
