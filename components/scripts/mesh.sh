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
    fail cluster-silent "the cluster does not return $1" \
        "the last attempt is shown above; without an answer nothing is removed and nothing counts as done" \
        "check that \`kubectl get nodes\` and \`istioctl proxy-status\` work on the node, then run \`pulumi up\` again"
}

# require_api [REMEDY]: waits for an API server that is restarting.
require_api() {
    ask look_up --raw /readyz >/dev/null || fail api-server-down "the API server does not answer" \
        "the mesh is installed and removed through it; nothing was changed" \
        "check \`journalctl -u kubelet\` on the node, then run \`pulumi up\` again${1-}"
}
