#!/usr/bin/env bash
# Runs on every node before each start of kubelet, as root: puts right what kubelet and the pods need from
# the host, and what other programs on the host may have changed since the last start. Takes: the node's
# address, the API server's address and name, and the network of services. With `resolver` alone, prints
# the file that it would choose, and changes nothing.
set -uo pipefail
export LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin

readonly HOSTS=/etc/hosts
readonly RESOLVER=/run/nordmesh/resolv.conf
# A host with a local resolver has only that one in the first file; systemd-resolved, NetworkManager and
# dnsmasq keep the name servers that they ask in the others.
readonly RESOLVERS=(/etc/resolv.conf /run/systemd/resolve/resolv.conf /run/NetworkManager/no-stub-resolv.conf
    /run/dnsmasq/resolv.conf)

# resolver: the first file with name servers, of which none is on the loopback: in a pod, that is the pod.
resolver() {
    local file servers
    for file in "${RESOLVERS[@]}"; do
        servers=$(awk '$1 == "nameserver" { print $2 }' "$file" 2>/dev/null)
        if [ -n "$servers" ] && ! grep -qE '^(127\.|0\.0\.0\.0$|::1$|::$)' <<<"$servers"; then
            printf '%s\n' "$file"
            return
        fi
    done
}

# pod_resolver ADDRESS: gives kubelet one path for whatever file this node has. Without a name server that
# pods reach, it is the node itself: then CoreDNS still answers for the cluster, and does not ask itself.
pod_resolver() {
    local file
    install -d -m 700 "${RESOLVER%/*}"
    file=$(resolver)
    if [ -n "$file" ]; then
        ln -sfn "$file" "$RESOLVER.new"
    else
        rm -f "$RESOLVER.new"
        printf 'nameserver %s\n' "$1" >"$RESOLVER.new"
    fi
    mv -fT "$RESOLVER.new" "$RESOLVER"
}

# endpoint ADDRESS NAME: the line that node-prepare.sh wrote. cloud-init, or a provider's own tool, may
# overwrite the file at each boot.
endpoint() {
    grep -qsxF "$1 $2 # nordmesh" "$HOSTS" && return
    echo "$HOSTS had lost the API server's name"
    [ ! -s "$HOSTS" ] || [ -z "$(tail -c 1 "$HOSTS")" ] || echo >>"$HOSTS"
    printf '%s\n' "$1 $2 # nordmesh" >>"$HOSTS"
}

# service_route ADDRESS NETWORK: without a default route, the kernel refuses connections of the host to
# services before kube-proxy's rules could send them to a pod. The API server calls webhooks like that. The
# rules decide where a packet goes; on the loopback, no network manager removes the route. node-reset.sh
# finds it by its protocol, 87.
service_route() {
    ip route get "${2%/*}" >/dev/null 2>&1 || ip route replace "$2" dev lo src "$1" proto 87
}

if [ "$1" = resolver ]; then
    resolver
    exit
fi
pod_resolver "$1"
endpoint "$2" "$3"
service_route "$1" "$4"
