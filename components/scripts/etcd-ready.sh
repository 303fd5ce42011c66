#!/usr/bin/env bash
# Runs on a control plane: waits until its etcd is healthy, so that it counts for the quorum. Reads: NODE_NAME.

readonly PKI=/etc/kubernetes/pki/etcd

healthy() {
    curl --silent --show-error --fail --noproxy '*' --max-time 5 --cacert "$PKI/ca.crt" \
        --cert "$PKI/healthcheck-client.crt" --key "$PKI/healthcheck-client.key" https://127.0.0.1:2379/health
}

until_true 120 "etcd on this machine" healthy
