#!/usr/bin/env bash
# Joins this node to the cluster as a worker. Reads: NODE_NAME JOIN_CONFIG, and
# from stdin the kubeconfig of the service account that may create bootstrap
# tokens. The token that kubeadm uses is made here, lives ten minutes, and is
# only ever in a file of root's in memory.
# Uses: images.sh

readonly MARK=/etc/kubernetes/nordmesh-joined.yaml
readonly KUBELET_CONF=/etc/kubernetes/kubelet.conf
readonly JOINER=$RUN_DIR/join.kubeconfig
readonly CONFIG=$RUN_DIR/join.yaml
readonly DISCOVERY=$RUN_DIR/discovery.kubeconfig

joined() {
    [ -f "$KUBELET_CONF" ] && systemctl is-active --quiet kubelet &&
        kubectl --kubeconfig "$KUBELET_CONF" --request-timeout 5s get node "$NODE_NAME"
}

# Before the lock: where the connection is gone, it may never come.
joiner=$(cat)
single_run
trap 'rm -f "$JOINER" "$CONFIG" "$DISCOVERY"' EXIT
(umask 077 && printf '%s\n' "$joiner" >"$JOINER")
sed '/^    token: /d' "$JOINER" >"$DISCOVERY"

if joined >/dev/null 2>&1; then
    cmp -s /etc/kubernetes/pki/ca.crt <(sed -n 's/^ *certificate-authority-data: //p' "$JOINER" | base64 -d) ||
        fail "this machine belongs to another cluster" "joining would take it away from there" \
            "take another machine, or remove it from the other cluster first"
    if [ -f "$MARK" ] && ! difference=$(diff "$MARK" - <<<"$JOIN_CONFIG"); then
        printf '%s\n' "$difference" >&2
        fail "this node joined with other settings (shown above, < is what it has)" \
            "a node keeps the name and the address that it joined with" \
            "set them back, or take the node out of the stack file, run \`pulumi up\`, and add it again"
    fi
    write_file "$MARK" 600 "$JOIN_CONFIG" || true
    keep_made
    step "has joined already"
    exit 0
fi

wait_for_images
step "kubeadm join"
# What an interrupted join left; nothing here is data.
systemctl stop kubelet 9>&- || true
rm -f "$KUBELET_CONF" /etc/kubernetes/bootstrap-kubelet.conf /etc/kubernetes/pki/ca.crt
rm -rf /var/lib/kubelet/pki /etc/kubernetes/nordmesh-made
token=$(kubeadm token create --kubeconfig "$JOINER" --ttl 10m 2>"$LOG_DIR/token.log") || {
    cat "$LOG_DIR/token.log" >&2
    fail "no bootstrap token from the API server" "a node joins with one" \
        "check that this node reaches the control plane on port 6443, then run \`pulumi up\` again"
}
(umask 077 && printf '%s\n' "${JOIN_CONFIG//@TOKEN@/$token}" >"$CONFIG")
logged kubeadm-join kubeadm join --config "$CONFIG"
write_file "$MARK" 600 "$JOIN_CONFIG" || true
keep_made
step "joined"
