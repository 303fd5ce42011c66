#!/usr/bin/env bash
# Runs on a control plane: makes what another machine needs to become one. Prints, separated by spaces, a
# bootstrap token of ten minutes, the key of the certificates that kubeadm has stored encrypted in the cluster,
# the cluster's CA in base64, and the file with the keys of Secrets in base64 (`-` without one). Reads: NODE_NAME.
# Uses: identity.sh

readonly TTL=10m

token=$(kubeadm token create --ttl "$TTL" --kubeconfig "$ADMIN_CONF")
# With the configuration, kubeadm does not ask the internet for the newest version.
key=$(kubeadm init phase upload-certs --upload-certs --config "$INITIALISED_MARK" --kubeconfig "$ADMIN_CONF")
key=$(grep -xE '[0-9a-f]{64}' <<<"$key")
ca=$(base64 -w 0 /etc/kubernetes/pki/ca.crt)
keys=-
[ ! -f "$ENCRYPTION" ] || keys=$(base64 -w 0 "$ENCRYPTION")
printf '%s %s %s %s\n' "$token" "$key" "$ca" "$keys"
