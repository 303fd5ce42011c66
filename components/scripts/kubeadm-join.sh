#!/usr/bin/env bash
# Joins this node to the cluster as a worker. Reads: NODE_NAME ENDPOINT JOIN_CONFIG, and
# from stdin the kubeconfig of the service account that may create bootstrap
# tokens. The token that kubeadm uses is made here, lives ten minutes, and is
# only ever in a file of root's in memory.
#
# A node that has joined is left as it is, unless the API server says that the
# cluster does not have it, or refuses its expired certificate.
# Uses: identity.sh images.sh

readonly JOINER=$RUN_DIR/join.kubeconfig
readonly CONFIG=$RUN_DIR/join.yaml
readonly DISCOVERY=$RUN_DIR/discovery.kubeconfig

# is_member: whether this machine has joined, or is a control plane; an interrupted join is neither.
is_member() { [ -f "$JOINED_MARK" ] || [ -f "$ADMIN_CONF" ]; }

# same_ca: whether the machine's cluster is the one that the joiner is of.
same_ca() {
    cmp -s /etc/kubernetes/pki/ca.crt <(sed -n 's/^ *certificate-authority-data: //p' "$JOINER" | base64 -d)
}

# in_cluster: whether the cluster has this node. Ends the script where it cannot be known of a node
# that has joined; what an interrupted join left may go.
in_cluster() {
    local answer='' difference
    [ -s "$KUBELET_CONF" ] || return 1
    if [ -f "$JOINED_MARK" ] && ! difference=$(diff "$JOINED_MARK" - <<<"$JOIN_CONFIG"); then
        printf '%s\n' "$difference" >&2
        fail node-settings-differ "this node joined with other settings (shown above; < is what it has)" \
            "a node keeps the name and the address that it joined with" \
            "set them back; or remove the node from the stack file, run \`pulumi up\`, and add it again"
    fi
    if ! same_ca; then
        ! is_member || fail another-cluster "this machine belongs to another cluster" \
            "joining would take it out of that cluster" \
            "use another machine; or remove the node from the other stack file, run \`pulumi up\`, then add it here"
        return 1
    fi
    if ! answered; then
        ! is_member || {
            cat "$ANSWER_LOG" >&2
            fail api-server-silent "the API server has not answered for $API_SECONDS s" \
                "this node has joined, and only the API server knows whether it must join again; nothing was changed" \
                "check that the control plane runs and that this node can reach it on port 6443, then run \`pulumi up\` again"
        }
        return 1
    fi
    [ -n "$answer" ]
}

# Before the lock: where the connection is gone, it may never come.
joiner=$(cat)
single_run
trap 'rm -f "$JOINER" "$CONFIG" "$DISCOVERY"' EXIT
refuse_other_owner
(umask 077 && printf '%s\n' "$joiner" >"$JOINER")
sed '/^    token: /d' "$JOINER" >"$DISCOVERY"

if in_cluster; then
    systemctl is-active --quiet kubelet || logged kubelet systemctl start kubelet
    write_file "$JOINED_MARK" 600 "$JOIN_CONFIG" || true
    keep_made
    step "has joined already"
    exit 0
fi

wait_for_images
step "kubeadm join"
# Before anything is removed: without the API server nothing can be put in its place.
token=$(kubeadm token create --kubeconfig "$JOINER" --ttl 10m 2>"$LOG_DIR/token.log") || {
    cat "$LOG_DIR/token.log" >&2
    fail no-bootstrap-token "the API server did not issue a bootstrap token" \
        "a node needs one to join" \
        "check that this node can reach the control plane on port 6443, then run \`pulumi up\` again"
}
# What an interrupted join left, or a node that the cluster does not have; nothing here is data.
systemctl stop kubelet 9>&- || true
rm -f "$JOINED_MARK" "$KUBELET_CONF" /etc/kubernetes/bootstrap-kubelet.conf /etc/kubernetes/pki/ca.crt
rm -rf /var/lib/kubelet/pki /etc/kubernetes/nordmesh-made
(umask 077 && printf '%s\n' "${JOIN_CONFIG//@TOKEN@/$token}" >"$CONFIG")
logged kubeadm-join kubeadm join --config "$CONFIG"
write_file "$JOINED_MARK" 600 "$JOIN_CONFIG" || true
keep_made
step "joined"
