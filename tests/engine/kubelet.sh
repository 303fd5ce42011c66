# shellcheck shell=bash
# A kubelet that runs static pods as processes, for a test's machine: etcd and the API server for real. The other
# pods of a control plane need nodes, so it only reports them as Ready.

readonly MANIFESTS=/etc/kubernetes/manifests
declare -A running=() pids=() reported=()

admin() { kubectl --kubeconfig /etc/kubernetes/admin.conf --request-timeout 20s "$@"; }

# start NAME: starts a pod's process with the command in its manifest.
start() {
    local -a words
    running[$1]=$(cat "$MANIFESTS/$1.yaml")
    mapfile -t words < <(sed -n '/^  - command:/,/^    image:/s/^    - //p' <<<"${running[$1]}")
    local log="/var/log/pods/kube-system_$1-cp-1_uid/$1"
    mkdir -p "$log"
    "${words[@]}" >>"$log/0.log" 2>&1 &
    pids[$1]=$!
}

# stop NAME: ends a pod's process.
stop() {
    kill "${pids[$1]}" 2>/dev/null || true
    wait "${pids[$1]}" 2>/dev/null || true
}

# report NAME MANIFEST: tells the API server that a pod runs as its manifest says, as the real kubelet does.
report() {
    local id object
    id=$(sed -n 's,^ *nordmesh\.io/settings: ,,p' <<<"$2")
    object='{"apiVersion":"v1","kind":"Pod","metadata":{"name":"'$1-cp-1'","namespace":"kube-system","labels":{"component":"'$1'"},"annotations":{"kubernetes.io/config.mirror":"m","nordmesh.io/settings":"'$id'"}},"spec":{"nodeName":"cp-1","containers":[{"name":"c","image":"i"}]},"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    admin -n kube-system delete pod "$1-cp-1" --ignore-not-found --force &&
        admin create -f - <<<"$object" &&
        admin replace --raw "/api/v1/namespaces/kube-system/pods/$1-cp-1/status" -f - <<<"$object"
}

while true; do
    for pod in etcd kube-apiserver; do
        [ -f "$MANIFESTS/$pod.yaml" ] || continue
        if [ -z "${pids[$pod]-}" ]; then start "$pod"; fi
        if [ "${running[$pod]}" != "$(cat "$MANIFESTS/$pod.yaml")" ] || ! kill -0 "${pids[$pod]}" 2>/dev/null; then
            stop "$pod"
            start "$pod"
        fi
    done
    for pod in kube-apiserver kube-controller-manager kube-scheduler; do
        # What runs: the file may have changed since.
        manifest=${running[$pod]-$(cat "$MANIFESTS/$pod.yaml")}
        [ "${reported[$pod]-}" = "$manifest" ] || ! admin get --raw /readyz || ! report "$pod" "$manifest" ||
            reported[$pod]=$manifest
    done >/dev/null 2>&1
    sleep 0.5
done
