#!/usr/bin/env bash
# Runs on workers: gives nordmesh-endpoint, the load balancer in front of the API servers, its servers. Takes
# the addresses of the control planes; none before the node joins. Reloads only if they have changed, and
# keeps the servers of before if the load balancer does not accept the new ones.
set -uo pipefail
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin

readonly SERVERS=/etc/nordmesh/endpoint-servers.cfg
# Exists from before the servers change until they are loaded, even if this is killed; a start of the machine
# loads them.
readonly PENDING=/run/nordmesh/endpoint.pending
# Of the cluster; kubeadm writes it when the node joins.
readonly CA=/etc/kubernetes/pki/ca.crt

# servers OPTIONS ADDRESS...: a line for each server; its port is the one that the client asked for.
servers() {
    local options=$1 address
    shift
    for address in "$@"; do printf '    server %s %s%s\n' "$address" "$address" "$options"; done
}

# text ADDRESS...: the two backends. `ready` has the servers that pass their check: /readyz with the
# cluster's CA, or a connection before the node has that. A single server is not checked: there is no
# other one to use instead.
text() {
    local check=''
    echo "# Written by nordmesh; changes are overwritten."
    echo "backend ready"
    if [ "$#" -gt 1 ]; then
        check=' check'
        if [ -s "$CA" ]; then
            # A backend with this option does not inherit the rest from the defaults.
            printf '    %s\n' "option httpchk" "http-check send meth GET uri /readyz" "http-check expect status 200"
            check+=" check-ssl ca-file $CA"
        fi
    fi
    servers "$check" "$@"
    echo "backend any"
    servers '' "$@"
}

# write TEXT: replaces the file whole.
write() { printf '%s\n' "$1" >"$SERVERS.new" && mv -f "$SERVERS.new" "$SERVERS"; }

# The members' service and a script of nordmesh may come at once.
mkdir -p /run/nordmesh
exec 8>/run/nordmesh/endpoint.lock
flock 8 || exit
mapfile -t addresses < <(printf '%s\n' "$@" | grep -xE '([0-9]{1,3}\.){3}[0-9]{1,3}' | sort -uV)
wanted=$(text "${addresses[@]}")
before=$(cat "$SERVERS" 2>/dev/null)
[ "$wanted" != "$before" ] || [ -e "$PENDING" ] || exit 0
: >"$PENDING"
write "$wanted" || exit
if ! systemctl reload-or-restart nordmesh-endpoint 8>&-; then
    if [ -n "$before" ]; then write "$before"; else rm -f "$SERVERS"; fi
    exit 1
fi
rm -f "$PENDING"
echo "endpoint: ${addresses[*]:-no control plane}"
