#!/usr/bin/env bash
# Runs on a control plane: prints the keys of all objects in etcd with their revisions, without their values, as
# etcd's JSON API answers. Changes nothing. Reads: NODE_NAME KEY RANGE_END (a range of keys in base64).

readonly PKI=/etc/kubernetes/pki/etcd

curl --silent --show-error --fail --noproxy '*' --max-time 60 \
    --data "{\"key\":\"$KEY\",\"range_end\":\"$RANGE_END\",\"keys_only\":true}" \
    --cacert "$PKI/ca.crt" --cert "$PKI/healthcheck-client.crt" --key "$PKI/healthcheck-client.key" \
    https://127.0.0.1:2379/v3/kv/range || fail etcd-keys-unread "etcd does not answer on this node" \
    "the stored snapshot cannot be compared with the cluster; nothing was changed" \
    "check \`journalctl -u kubelet\` and the pod etcd-$NODE_NAME"
