#!/usr/bin/env bash
# Joins this node to the cluster as a worker. Reads: NODE_NAME ENDPOINT JOIN_CONFIG, and
# from stdin a kubeconfig with the cluster's address and CA. The program that runs Pulumi makes a bootstrap
# token on a control plane when this script is ready, and writes it into a pipe, with the addresses of all
# control planes (components/join_token.py). The token is never in a file, and expires after ten minutes.
#
# A node that has joined is left alone unless the API server does not have it, or refuses its expired
# certificate.
# Uses: identity.sh images.sh handover.sh

readonly ENDPOINT_PROGRAM=/usr/local/lib/nordmesh/endpoint.sh
readonly DISCOVERY=$RUN_DIR/discovery.kubeconfig
# The settings that a node keeps; the release decides the rest of its configuration.
readonly NODE_SETTINGS='^JoinConfiguration\.nodeRegistration\.(name|kubeletExtraArgs\.node-ip)$'

handed=""

# is_member: whether this machine has joined, or is a control plane; after an interrupted join it is not.
is_member() { [ -f "$JOINED_MARK" ] || [ -f "$ADMIN_CONF" ]; }

# in_cluster: whether the cluster has this node. Ends the script if that is unknown for a node that has
# joined; after an interrupted join, the node may start again.
in_cluster() {
    local answer=''
    [ -s "$KUBELET_CONF" ] || return 1
    if [ -f "$JOINED_MARK" ] && ! has_same_settings "$NODE_SETTINGS" "$JOINED_MARK" "$JOIN_CONFIG"; then
        fail node-settings-differ "this node joined with other settings (shown above; < is what it has)" \
            "a node keeps the name and the address that it joined with" \
            "set them back; or remove the node from the stack file, run \`pulumi up\`, and add it again"
    fi
    if ! has_ca "$discovery"; then
        ! is_member || fail another-cluster "this machine belongs to another cluster" \
            "joining would take it out of that cluster" \
            "use another machine; or remove the node from the other stack file, run \`pulumi up\`, then add it here"
        return 1
    fi
    if ! has_answer; then
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

# read_token: sets `token` to the bootstrap token that comes through the pipe, and `control_planes` to the
# addresses after it, or ends the script.
read_token() {
    read_handover "$JOIN_PIPE"
    read -r token control_planes <<<"$handed"
    [[ $handed =~ ^[a-z0-9]{6}\.[a-z0-9]{16}(\ [0-9.]+)+$ ]] || {
        # Never shows what could be a token.
        [[ $handed = "error: "* ]] || handed="its answer cannot be read"
        fail no-bootstrap-token "no control plane made a bootstrap token: ${handed#error: }" \
            "a node needs one to join; nothing was changed" \
            "check that a control plane answers, then run \`pulumi up\` again"
    }
}

# Before the lock: if the connection is gone, it may never come.
discovery=$(cat)
single_run
refuse_other_owner

if in_cluster; then
    is_active kubelet || logged kubelet systemctl start kubelet
    write_file "$JOINED_MARK" 600 "$JOIN_CONFIG" || true
    keep_generated
    step "has joined already"
    exit 0
fi

wait_for_images
step "kubeadm join"
# Before anything is removed: without the API server nothing can replace it.
read_token
# Left by an interrupted join, or by a node that the cluster no longer has; none of it is data.
logged kubelet-stop systemctl stop kubelet
rm -f "$JOINED_MARK" "$KUBELET_CONF" /etc/kubernetes/bootstrap-kubelet.conf /etc/kubernetes/pki/ca.crt
rm -rf /var/lib/kubelet/pki /etc/kubernetes/nordmesh-made
# Until the node has joined, and follows the cluster's node table.
# shellcheck disable=SC2086 # a list of addresses
logged endpoint-servers bash "$ENDPOINT_PROGRAM" $control_planes
printf '%s\n' "$discovery" >"$DISCOVERY"
logged kubeadm-join kubeadm join --config <(printf '%s\n' "${JOIN_CONFIG//@TOKEN@/$token}")
write_file "$JOINED_MARK" 600 "$JOIN_CONFIG" || true
keep_generated
step "joined"
