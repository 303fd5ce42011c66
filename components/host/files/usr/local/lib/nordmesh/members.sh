#!/usr/bin/env bash
# Runs as the service nordmesh-members: follows the cluster's node table with what the node has of the
# firewall's set of members, and the servers of nordmesh-endpoint, which are the control planes. While the
# API server does not answer, and at a start of the machine, what was known last holds; it is never
# emptied. Takes nothing, or `once`, to look at the table once.
set -uo pipefail
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
# The API server is never behind the machine's proxy.
unset {http,https,ftp,all,no}_proxy {HTTP,HTTPS,FTP,ALL,NO}_PROXY

readonly KUBELET_CONF=/etc/kubernetes/kubelet.conf
readonly RULES=/etc/nordmesh/firewall.nft
readonly MEMBERS=/etc/nordmesh/members.nft
# Exists from before the members change until they are loaded, even if this is killed; a start of the machine
# loads them.
readonly PENDING=/run/nordmesh/members.pending
readonly ENDPOINT=/usr/local/lib/nordmesh/endpoint.sh
# Held from before the node table is read until what it says is loaded: the service and a script of nordmesh
# may come at once, and the older answer must not be the one that stays.
readonly LOCK=/run/nordmesh/members.lock
# A node's own address, and the one that its overlay packets come from.
readonly ADDRESSES='{range .items[*]}{range .status.addresses[?(@.type=="InternalIP")]}{.address}
{end}{.metadata.annotations.flannel\.alpha\.coreos\.com/public-ip}
{end}'

readonly OWN_ADDRESSES='{range .items[*]}{.status.addresses[?(@.type=="InternalIP")].address}
{end}'
readonly CONTROL_PLANE=node-role.kubernetes.io/control-plane

# As this node's kubelet, which may read all of them.
readonly NODES=(kubectl --kubeconfig "$KUBELET_CONF" --cache-dir /run/nordmesh/kubectl get nodes)

# write_members TEXT: replaces the file whole, for the rules include it.
write_members() { printf '%s\n' "$1" >"$MEMBERS.new" && mv -f "$MEMBERS.new" "$MEMBERS"; }

# addresses ARGUMENT...: the addresses of nodes, one on each line; false if nobody says.
addresses() {
    local found
    found=$("${NODES[@]}" --request-timeout 5s "$@" 2>/dev/null) || return 1
    found=$(grep -xE '([0-9]{1,3}\.){3}[0-9]{1,3}' <<<"$found" | sort -uV)
    [ -n "$found" ] || return 1
    printf '%s\n' "$found"
}

# update_firewall: loads the members that there are now, if they are others than before or were not loaded.
update_firewall() {
    local all text before
    all=$(addresses --output "jsonpath=$ADDRESSES") || return 1
    text="define members = { ${all//$'\n'/, } }"
    before=$(cat "$MEMBERS" 2>/dev/null)
    [ "$text" != "$before" ] || [ -e "$PENDING" ] || return 0
    : >"$PENDING"
    write_members "$text" || return 1
    if ! nft -f "$RULES"; then
        if [ -n "$before" ]; then write_members "$before"; else rm -f "$MEMBERS"; fi
        return 1
    fi
    rm -f "$PENDING"
    echo "members: ${all//$'\n'/ }"
}

# update_endpoint: gives the load balancer the control planes that there are now.
update_endpoint() {
    local all
    all=$(addresses --selector "$CONTROL_PLANE" --output "jsonpath=$OWN_ADDRESSES") || return 1
    # shellcheck disable=SC2086 # a list of addresses
    bash "$ENDPOINT" $all
}

# update: false if nobody says which nodes there are, or if they could not be used.
update() {
    local status=0
    flock --wait 60 7 || return 1
    [ ! -f "$ENDPOINT" ] || update_endpoint || status=1
    [ ! -f "$RULES" ] || update_firewall || status=1
    return "$status"
} 7>"$LOCK"

# Another firewall's script may have flushed the rules of all.
present() { [ ! -f "$RULES" ] || nft list table inet nordmesh >/dev/null 2>&1 || nft -f "$RULES"; }

# follow: until the API server ends the watch. For a minute after its start, and after a node has come or
# gone or has other roles, looks at all nodes at each event and every ten seconds: a new node gets its
# address, and a control plane its label, after it is there. Otherwise every five minutes, however many
# events there are.
follow() {
    local -A roles=()
    local event name role rest status closely=$((SECONDS + 60)) next=$((SECONDS + 300))
    while :; do
        IFS=' ' read -r -t 10 event name _ role rest <&3
        status=$?
        present
        if [ "$status" = 0 ]; then
            case $event in ADDED | DELETED) closely=$((SECONDS + 60)) ;; esac
            [ "${roles[$name]-$role}" = "$role" ] || closely=$((SECONDS + 60))
            roles[$name]=$role
        elif [ "$status" -le 128 ]; then
            return
        fi
        [ "$SECONDS" -lt "$closely" ] || [ "$SECONDS" -ge "$next" ] || continue
        next=$((SECONDS + 300))
        update || return
    done
}

mkdir -p /run/nordmesh
if [ "${1-}" = once ]; then
    update
    exit
fi
while :; do
    present
    if [ -f "$KUBELET_CONF" ] && update; then
        exec 3< <(exec "${NODES[@]}" --watch-only --no-headers --output-watch-events 2>/dev/null)
        follow
        kill "$!" 2>/dev/null
        exec 3<&-
    fi
    sleep 2
done
