#!/usr/bin/env bash
# How the scripts of the mesh read the cluster; for scripts that use it after lib.sh. Only an answer
# without an object means that the object is gone: a failed kubectl or istioctl ends the script.

export KUBECONFIG=/etc/kubernetes/admin.conf
# shellcheck disable=SC2034 # for the scripts that use this
readonly SYSTEM=istio-system

# look_up ARGUMENT...: `kubectl get` that ends even if the API server hangs.
look_up() { kubectl get --request-timeout 20s "$@"; }

# no_answer WHAT: ends the script because the cluster could not be read.
no_answer() {
    fail cluster-silent "the cluster does not show $1" \
        "the last attempt is shown above; without an answer nothing is removed and nothing counts as done" \
        "check that \`kubectl get nodes\` and \`istioctl proxy-status\` work on the node, then run \`pulumi up\` again"
}

# require_api [FIX]: waits for an API server that is restarting. FIX is added to the error.
require_api() {
    ask look_up --raw /readyz >/dev/null || fail api-server-down "the API server does not answer" \
        "the mesh is installed and removed through it; nothing was changed" \
        "check \`journalctl -u kubelet\` on the node, then run \`pulumi up\` again${1-}"
}
