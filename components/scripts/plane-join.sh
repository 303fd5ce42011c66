#!/usr/bin/env bash
# Joins a machine to a cluster as a further control plane, for kubeadm-init.sh. Reads: NODE_NAME ENDPOINT
# JOIN_CONFIG. It is used after pod-settings.sh.
#
# etcd counts this machine as a member from the moment that kubeadm announces it, and needs it for its majority.
# Its manifest is written right after that, so a run that was killed later is continued with it.

readonly ETCD_MANIFEST=/etc/kubernetes/manifests/etcd.yaml
readonly DISCOVERY=$RUN_DIR/discovery.kubeconfig
readonly JOIN_LINE='^join ([0-9.]+) ([a-z0-9]{6}\.[a-z0-9]{16}) ([0-9a-f]{64}) ([A-Za-z0-9+/=]+) ([A-Za-z0-9+/=]+|-)$'
readonly JOIN_HOST="# nordmesh-join"

# has_announced: whether an earlier run was killed after etcd had counted this machine as a member.
has_announced() { [ -f "$JOINING" ] && [ -s "$ETCD_MANIFEST" ]; }

# resolve_endpoint ADDRESS: while this machine joins, the endpoint's name leads to a control plane that has the
# cluster; kubeadm and kubelet try each address of a name. Without an argument, undoes it.
resolve_endpoint() {
    local rest
    rest=$(sed "/$JOIN_HOST\$/d" /etc/hosts)
    [ "$#" = 0 ] || rest="$1 $ENDPOINT $JOIN_HOST"$'\n'"$rest"
    write_file /etc/hosts 644 "$rest" || true
}

# join_cluster: joins with what was handed over.
join_cluster() {
    local address token key discovery keys config
    [ ! -f "$STARTED" ] || fail two-clusters "this machine has begun to create a cluster, and another control plane has one" \
        "joining would remove the one on this machine" \
        "if it has nothing to keep, $CLEAR; then run \`pulumi up\` again"
    [[ $handed =~ $JOIN_LINE ]] || {
        handed="error: the answer is malformed"
        refuse_unknown
    }
    address=${BASH_REMATCH[1]} token=${BASH_REMATCH[2]} key=${BASH_REMATCH[3]} discovery=${BASH_REMATCH[4]}
    keys=${BASH_REMATCH[5]}
    mkdir -p /etc/kubernetes
    touch "$JOINING"
    # Left by an interrupted join, before etcd knew of it; none of it is data.
    logged kubelet-stop systemctl stop kubelet
    rm -rf /etc/kubernetes/{pki,manifests,nordmesh-made,nordmesh-before} /etc/kubernetes/*.conf /var/lib/kubelet/pki
    rm -f "$SETTINGS_MARK"
    resolve_endpoint "$address"
    write_file "$DISCOVERY" 600 "$(base64 -d <<<"$discovery")" || true
    # Before the API server starts: it reads what the others have written, and writes no Secret in the clear.
    write_handed_keys "$keys"
    write_audit_policy
    write_oidc_ca
    write_pod_settings
    step "kubeadm join"
    config=${JOIN_CONFIG//@TOKEN@/$token}
    logged kubeadm-join kubeadm join --config <(printf '%s\n' "${config//@KEY@/$key}")
    # They expire by themselves; nobody needs them until then.
    logged join-secrets as_admin -n kube-system delete --ignore-not-found \
        secret/kubeadm-certs "secret/bootstrap-token-${token%.*}"
}

# write_handed_keys KEYS: writes the file of another control plane, in base64. One that has none (`-`) is of an
# earlier release, and then no control plane encrypts Secrets yet.
write_handed_keys() {
    local text
    if [ "$1" = - ]; then
        write_keys identity
    else
        # Without a here-document, which could be a file.
        text=$(printf %s "$1" | base64 -d)
        write_key_file "$text"
    fi
}

# finish_join: continues after etcd has counted this machine as a member: starts its etcd and marks the node.
finish_join() {
    step "continue the interrupted join"
    is_active kubelet || logged kubelet systemctl start kubelet
    until_true 120 "the API server" api_ready
    logged label as_admin label node "$NODE_NAME" --overwrite node-role.kubernetes.io/control-plane= \
        node-role.kubernetes.io/master= node.kubernetes.io/exclude-from-external-load-balancers=
}
