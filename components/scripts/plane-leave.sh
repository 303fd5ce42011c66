#!/usr/bin/env bash
# Takes the control plane JOINED_NODE out of the cluster: drains its node, removes its member from etcd, stops its
# API server, and deletes the node, in this order. Runs on that machine before it is reset, and asks another
# control plane: this one cannot answer once its member is gone. With GONE, it runs on another control plane, for a
# machine that is lost, whose pods nobody can move. Each step looks first, so the next run continues a killed one.
# Reads: NODE_NAME ENDPOINT JOINED_NODE ADDRESS (of that node in the cluster) GONE ALLOW_DATA_LOSS.
# Uses: identity.sh removal.sh

readonly PKI=/etc/kubernetes/pki/etcd
# The addresses of the other control planes, for a run after this machine's API server has stopped.
readonly OTHERS=/etc/kubernetes/nordmesh-leaving
# Exists once this machine's member has been removed. Without its node, the others' firewall hides etcd from it.
readonly NO_MEMBER=/etc/kubernetes/nordmesh-no-member
readonly API_MANIFEST=/etc/kubernetes/manifests/kube-apiserver.yaml
readonly PLANES='{range .items[*]}{.metadata.name} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}'
readonly HEALTHY='"health":"true"'
export KUBECONFIG=/etc/kubernetes/admin.conf
server=""

# kubectl ARGUMENT...: asks the control plane at `server`; this machine's without one.
kubectl() {
    command kubectl ${server:+--server "https://$server:6443" --tls-server-name "$ENDPOINT"} "$@"
}

# ask_etcd URL [DATA]: the answer of an etcd of the cluster, as JSON; also an error. It has the whole API over HTTP,
# and neither the node nor every image of etcd has etcdctl.
ask_etcd() {
    curl --silent --show-error --noproxy '*' --max-time 10 ${2+--data "$2"} \
        --cacert "$PKI/ca.crt" --cert "$PKI/healthcheck-client.crt" --key "$PKI/healthcheck-client.key" "$1"
}

# value NAME JSON: the first text of a field.
value() { sed -n "s/.*\"$1\":\[\?\"\([^\"]*\)\".*/\1/p" <<<"$2"; }

# find_others: writes the addresses of the other control planes, unless this machine's API server is silent
# because an earlier run has removed its member.
find_others() {
    local nodes
    if nodes=$(kubectl --request-timeout 10s get nodes \
        --selector node-role.kubernetes.io/control-plane -o "jsonpath=$PLANES" 2>&1); then
        write_file "$OTHERS" 600 "$(awk -v node="$JOINED_NODE" 'NF == 2 && $1 != node { print $2 }' <<<"$nodes")" || true
    fi
    [ -s "$OTHERS" ] || fail planes-unknown "the API server on $NODE_NAME does not list the control planes: $nodes" \
        "nobody knows whether the cluster survives without $JOINED_NODE; nothing was changed" \
        "check \`journalctl -u kubelet\` on $NODE_NAME, then run \`pulumi up\` again"
}

# find_server: sets `server` to the address of another control plane that is ready.
find_server() {
    while read -r server; do
        [ -n "$server" ] || continue
        ! kubectl --request-timeout 5s get --raw /readyz </dev/null >/dev/null 2>&1 9>&- || return 0
    done <"$OTHERS"
    fail no-other-plane "no other control plane is ready" \
        "$JOINED_NODE may be the last one with the cluster's data; nothing was changed" \
        "bring another control plane back (\`nordmesh status\` shows which are silent), then run \`pulumi up\` again"
}

# find_members: sets `members` to etcd's members, one a line, and `own` to the one that leaves.
find_members() {
    local answer fix="check the pod etcd there (\`kubectl get pods -n kube-system\`), then run \`pulumi up\` again"
    answer=$(ask_etcd "https://$server:2379/v3/cluster/member/list" '{}') || answer=""
    [ -n "$node" ] || [ "$GONE" = true ] ||
        fix="someone has deleted the node $JOINED_NODE, and the firewall there lets only nodes in: put $JOINED_NODE back into the stack file with \`gone: REASON\`, and run \`pulumi up\`; then remove it"
    members=$(grep -o '{"ID":"[0-9]*"[^{}]*}' <<<"$answer") ||
        fail etcd-silent "etcd on $server does not list its members" \
            "nobody knows whether it keeps its quorum without $JOINED_NODE; nothing was changed" "$fix"
    # A machine that was lost while it joined has no name yet.
    own=$(grep -F -e "\"name\":\"$JOINED_NODE\"" -e "\"https://$ADDRESS:2380\"" <<<"$members" || true)
}

# is_healthy URL: whether an etcd reads with a majority of the members.
is_healthy() {
    local answer
    answer=$(ask_etcd "$1/health") && [[ $answer == *"$HEALTHY"* ]]
}

# require_quorum: ends the script unless etcd keeps a majority of healthy members.
require_quorum() {
    local member name rest=0 healthy=0 sick=""
    while read -r member; do
        [ "$member" != "$own" ] || continue
        rest=$((rest + 1))
        if is_healthy "$(value clientURLs "$member")" 2>/dev/null; then
            healthy=$((healthy + 1))
        else
            name=$(value name "$member")
            sick+="${sick:+, }${name:-one that never started}"
        fi
    done <<<"$members"
    [ "$healthy" -ge "$((rest / 2 + 1))" ] || fail quorum-at-risk "$healthy of the $rest other members of etcd are healthy, and $((rest / 2 + 1)) must be; not healthy: ${sick:-none}" \
        "without $JOINED_NODE nobody could read or write; nothing was changed" \
        "bring them back, then run \`pulumi up\` again; or put $JOINED_NODE back into the stack file"
}

# require_gone: ends the script if the cluster hears of the machine that is lost.
require_gone() {
    local status
    status=$(ask_api "whether $JOINED_NODE is Ready" node "$JOINED_NODE" --ignore-not-found \
        -o 'jsonpath={.status.conditions[?(@.type=="Ready")].status}')
    [ "$status" != True ] || fail node-not-gone "$JOINED_NODE is Ready, so its machine is not gone" \
        "its pods would be started twice; nothing was changed" \
        "if it was lost within the last minute, run \`pulumi up\` again; otherwise remove \`gone\`, and take the node out of the stack file"
}

# hand_over_leadership: makes another member the leader if the leaving one is it. Otherwise no write succeeds until
# the others have elected one, and those under way are lost.
hand_over_leadership() {
    local id url answer other
    id=$(value ID "$own") url=$(value clientURLs "$own")
    answer=$(ask_etcd "$url/v3/maintenance/status" '{}') || return 0
    [ "$(value leader "$answer")" = "$id" ] || return 0
    other=$(grep -F "\"https://$server:2379\"" <<<"$members") || return 0
    answer=$(ask_etcd "$url/v3/maintenance/transfer-leadership" "{\"targetID\": \"$(value ID "$other")\"}") || answer=""
    [[ $answer == *'"header"'* ]] || step "$JOINED_NODE stays the leader of etcd until it is removed: $answer"
}

# remove_member: removes the leaving member from etcd. Tries again for a while: etcd refuses it within 5 s after
# another member has connected.
remove_member() {
    local answer deadline=$((SECONDS + 60))
    [ "$GONE" = true ] || hand_over_leadership
    step "remove $JOINED_NODE from etcd"
    while [ -n "$own" ]; do
        answer=$(ask_etcd "https://$server:2379/v3/cluster/member/remove" "{\"ID\": \"$(value ID "$own")\"}") || answer=""
        [[ $answer != *'"members"'* ]] || break
        [ "$SECONDS" -lt "$deadline" ] || fail member-not-removed "etcd on $server does not remove $JOINED_NODE: ${answer:-no answer}" \
            "etcd still counts it as a member" \
            "check the pods of etcd (\`kubectl get pods -n kube-system\`), then run \`pulumi up\` again: it continues from here"
        sleep 2
        # An answer may be lost.
        find_members
    done
    # It has gone too far to be undone.
    rm -f "$CORDONED"
    until_true 60 "etcd without $JOINED_NODE" is_healthy "https://$server:2379"
}

# stop_api_server: stops this machine's, which has no etcd any more. It would hold each request of the clients that
# are connected to it until they give up, and a node could be NotReady before; without it, they go to another one.
stop_api_server() {
    local running id
    rm -f "$API_MANIFEST"
    running=$(ctr --namespace k8s.io containers ls -q 'labels."io.kubernetes.container.name"==kube-apiserver') ||
        step "containerd does not answer: the API server here runs until the machine is reset"
    for id in $running; do
        ctr --namespace k8s.io tasks kill --signal SIGKILL "$id" >/dev/null 2>&1 || true
    done
}

# delete_pods: deletes what the API server still shows of the static pods. A control plane that joins asks all
# members that have such a pod, and keys of Secrets change only where every API server has them.
delete_pods() {
    logged "pods-of-$JOINED_NODE" kubectl --request-timeout 30s -n kube-system delete pod "etcd-$JOINED_NODE" \
        "kube-apiserver-$JOINED_NODE" --ignore-not-found --grace-period=0 --force
}

single_run
if [ "$GONE" != true ]; then
    owner=$(other_owner)
    if [ -n "$owner" ] || [ ! -s "$KUBECONFIG" ]; then
        fail plane-not-here "this machine is not the control plane $JOINED_NODE: ${owner:+it is node }${owner:-it has no cluster}" \
            "etcd may still count $JOINED_NODE as a member; nothing was changed" \
            "put $JOINED_NODE back into the stack file with \`gone: REASON\`, and run \`pulumi up\`; then remove it"
    fi
fi
find_others
find_server
node=$(ask_api "whether $JOINED_NODE is a node" node "$JOINED_NODE" --ignore-not-found -o name)
if [ "$GONE" = true ] || [ -n "$node" ] || [ ! -f "$NO_MEMBER" ]; then
    find_members
    [ "$GONE" != true ] || require_gone
    if [ -n "$own" ]; then
        require_quorum
        [ -z "$node" ] || [ "$GONE" = true ] || drain
        remove_member
    fi
    [ "$GONE" = true ] || : >"$NO_MEMBER"
fi
[ "$GONE" = true ] || stop_api_server
[ -z "$node" ] || delete_node
delete_pods
# On the machine itself the reset removes it: without it, a run whose success nobody has seen could not run again.
[ "$GONE" != true ] || rm -f "$OTHERS"
step "$JOINED_NODE has left the cluster"
