#!/usr/bin/env bash
# Three real members of etcd with kubeadm's certificates, one for each control plane, on a test's machine. Sourced.
set -euo pipefail

readonly PKI_OF_ETCD=/etc/kubernetes/pki/etcd
declare -A ADDRESS_OF=([cp-1]=192.0.2.11 [cp-2]=192.0.2.12 [cp-3]=192.0.2.13) PID_OF=()

# etcd_at NAME PATH DATA: the answer of a member.
etcd_at() {
    curl --silent --show-error --max-time 15 --cacert "$PKI_OF_ETCD/ca.crt" --data "$3" \
        --cert "$PKI_OF_ETCD/peer.crt" --key "$PKI_OF_ETCD/peer.key" "https://${ADDRESS_OF[$1]}:2379/v3/$2"
}

# start_member NAME: starts a member with the settings that kubeadm gives it.
start_member() {
    local name=$1 address=${ADDRESS_OF[$1]} cluster="" other
    for other in "${!ADDRESS_OF[@]}"; do cluster+="${cluster:+,}$other=https://${ADDRESS_OF[$other]}:2380"; done
    etcd --name "$name" --data-dir "/var/lib/etcd-$name" --initial-cluster "$cluster" \
        --listen-client-urls "https://$address:2379" --advertise-client-urls "https://$address:2379" \
        --client-cert-auth=true --cert-file "$PKI_OF_ETCD/server.crt" --key-file "$PKI_OF_ETCD/server.key" \
        --trusted-ca-file "$PKI_OF_ETCD/ca.crt" \
        --listen-peer-urls "https://$address:2380" --initial-advertise-peer-urls "https://$address:2380" \
        --peer-client-cert-auth=true --peer-cert-file "$PKI_OF_ETCD/peer.crt" --peer-key-file "$PKI_OF_ETCD/peer.key" \
        --peer-trusted-ca-file "$PKI_OF_ETCD/ca.crt" >"/var/log/etcd-$name.log" 2>&1 &
    PID_OF[$name]=$!
}

# answers NAME: whether a member reads with a majority.
answers() { [[ $(etcd_at "$1" kv/range '{"key": "YQ=="}' 2>&1) == *revision* ]]; }

# start_members: starts them all, and waits until they have a leader.
start_members() {
    local part name
    ip link set lo up
    ip link add br0 type bridge
    for name in "${!ADDRESS_OF[@]}"; do ip address add "${ADDRESS_OF[$name]}/24" dev br0; done
    ip link set br0 up
    for part in ca server peer healthcheck-client; do kubeadm init phase certs "etcd-$part" --config /config >&2; done
    for name in "${!ADDRESS_OF[@]}"; do start_member "$name"; done
    for name in "${!ADDRESS_OF[@]}"; do
        until answers "$name"; do sleep 0.2; done
    done
}

# lose NAME: ends a member at once, and waits until the others have a leader.
lose() {
    local name
    kill -KILL "${PID_OF[$1]}"
    wait "${PID_OF[$1]}" || true
    for name in "${!ADDRESS_OF[@]}"; do
        [ "$name" = "$1" ] || until answers "$name"; do sleep 0.2; done
    done
}

# member_field NAME FIELD: what a member says about itself.
member_field() { etcd_at "$1" maintenance/status '{}' | sed "s/.*\"$2\":\"\([0-9]*\)\".*/\1/"; }

# lead NAME: makes a member the leader.
lead() {
    local id name
    id=$(member_field "$1" member_id)
    for name in "${!ADDRESS_OF[@]}"; do
        [ "$(member_field "$name" leader)" != "$(member_field "$name" member_id)" ] || break
    done
    [ "$name" = "$1" ] || etcd_at "$name" maintenance/transfer-leadership "{\"targetID\": \"$id\"}" >&2
    until [ "$(member_field "$1" leader)" = "$id" ]; do sleep 0.1; done
}

# write_until FILE: writes into the etcd of cp-1 until a file exists; notes each write and its time.
write_until() {
    local answer
    until [ -e "$1" ]; do
        answer=$(etcd_at cp-1 kv/put '{"key": "d3JpdHRlbg==", "value": "eWVz"}' 2>&1) || true
        if [[ $answer == *revision* ]]; then answer=ok; fi
        printf '%s %s\n' "$EPOCHREALTIME" "$answer" >>/writes
        sleep 0.02
    done
}
