#!/usr/bin/env bash
# Makes this node a control plane of the cluster, or changes the settings of a running one. The program that
# runs Pulumi asks the other control planes whether they have the cluster, and hands over the answer
# (components/membership.py): this node either runs `kubeadm init`, or joins. Reads: NODE_NAME ENDPOINT
# INIT_CONFIG CLUSTER_CONFIG JOIN_CONFIG AUDIT_POLICY OIDC_CA ENCRYPTION_KEY SCHEDULABLE CLUSTER (`new`, or
# `exists` if this node was a control plane before). Prints one line of JSON, a secret: {"ca", "clientCertificate",
# "clientKey"}, each PEM in base64.
# Safe to run again after a kill: kubeadm's phases reuse existing files, and the last step writes a mark.
# Uses: identity.sh images.sh handover.sh static-pods.sh encryption.sh pod-settings.sh encryption-add.sh plane-join.sh

readonly CERTIFICATES=/usr/local/lib/nordmesh/certificates.sh
readonly TAINT=node-role.kubernetes.io/master
# The settings that a cluster keeps; the release decides the rest of its configuration.
readonly CLUSTER_SETTINGS='^ClusterConfiguration\.(clusterName|kubernetesVersion|controlPlaneEndpoint|networking\.|apiServer\.certSANs)|^Kube(let|Proxy)Configuration\.'
# What etcd logs when the others have removed it.
readonly REMOVED="member has been permanently removed from the cluster"

handed=""
# admin KEY: prints a value of kubeadm's admin.conf.
admin() { sed -n "s/^ *$1: //p" "$ADMIN_CONF"; }
api_ready() { kubectl --kubeconfig "$ADMIN_CONF" --request-timeout 3s get --raw /readyz; }

# allow_workloads: removes the taint if the node has it.
allow_workloads() {
    local taints
    taints=$(as_admin get node "$NODE_NAME" -o 'jsonpath={range .spec.taints[*]}{.key}:{.effect}{"\n"}{end}') &&
        if grep -qxF "$TAINT:NoSchedule" <<<"$taints"; then as_admin taint node "$NODE_NAME" "$TAINT:NoSchedule-"; fi
}

# create_cluster: runs `kubeadm init`.
create_cluster() {
    [ ! -f "$JOINING" ] || fail cluster-lost "this machine has begun to join a cluster that no other control plane has" \
        "kubeadm would create an empty cluster beside it" \
        "put the control plane that has the cluster back into the stack file; if it is lost for good, $CLEAR"
    mkdir -p /etc/kubernetes
    touch "$STARTED"
    # Before the API server starts, so that no Secret is ever written in the clear. A snapshot without keys has
    # Secrets in the clear: apply_settings adds the key.
    if [ ! -f "$ENCRYPTION" ]; then
        if [ -d /var/lib/etcd/member ]; then write_keys identity; else write_keys "$WANTED_KEY"; fi
    fi
    write_audit_policy
    write_oidc_ca
    write_pod_settings
    step "kubeadm init"
    logged kubeadm-init kubeadm init --config "$CONFIG" --skip-token-print
    record_settings
}

# refuse_unknown: ends the script because nobody knows whether the cluster exists.
refuse_unknown() {
    fail cluster-unknown "cannot find out whether another control plane has the cluster: ${handed#error: }" \
        "with a second \`kubeadm init\` there would be two clusters; nothing was changed" \
        "make sure that every control plane in the stack file answers over SSH, then run \`pulumi up\` again"
}

# refuse_removed: ends the script if this machine was taken out of the cluster while it was lost.
refuse_removed() {
    ! api_ready >/dev/null 2>&1 || return 0
    grep -qs "$REMOVED" /var/log/pods/kube-system_etcd-*/etcd/*.log || return 0
    fail removed-from-etcd "this machine came back after it was taken out of the cluster" \
        "etcd has removed its member for good; what the machine has is old" \
        "$CLEAR; then run \`pulumi up\` again: it joins as a new one"
}

single_run
refuse_other_owner
if [ -f "$INITIALISED_MARK" ]; then
    has_same_settings "$CLUSTER_SETTINGS" "$INITIALISED_MARK" "$CLUSTER_CONFIG" ||
        fail cluster-settings-differ "the cluster was created with other settings (shown above; < is what it has)" \
            "this release does not change a running cluster's version, networks or kubelet settings" \
            "set nordmesh:kubernetes back to its old values"
    refuse_removed
else
    [ "$CLUSTER" != exists ] || fail cluster-missing "this machine does not have the stack's cluster" \
        "the cluster already exists; kubeadm would create an empty one here, and the workers would join that" \
        "set the address and the hostKey of $NODE_NAME back to the machine that has the cluster. If that machine is lost for good, run \`pulumi destroy\` as in docs/state.md, then \`pulumi up\`"
    if [ ! -f "$STARTED" ] && [ ! -f "$JOINING" ]; then
        [ ! -d /var/lib/etcd/member ] || fail foreign-etcd-data "/var/lib/etcd has the data of another cluster" \
            "kubeadm would write into it" \
            "use another machine, or move that directory away yourself"
        [ ! -s "$KUBELET_CONF" ] || fail already-a-node "this machine is already a node of a cluster" \
            "kubeadm would take it out of that cluster" \
            "use another machine, or remove the node from its stack file and run \`pulumi up\`; if it is in no stack file, $CLEAR"
    fi
    # The images that kubeadm starts at once; the others may arrive later.
    wait_for_images '^registry\.k8s\.io/[^/]*:'
    if has_announced; then
        finish_join
    else
        read_handover "$JOIN_PIPE"
        case $handed in
        init) create_cluster ;;
        "join "*) join_cluster ;;
        *) refuse_unknown ;;
        esac
    fi
fi

# The endpoint's name leads where node-prepare.sh has set it again.
[ ! -f "$JOINING" ] || resolve_endpoint
wait_for_images
# After an interrupted change it may be down.
[ -d "$BEFORE" ] || until_true 120 "the API server" api_ready
if [ ! -f "$INITIALISED_MARK" ]; then
    write_file "$INITIALISED_MARK" 600 "$CLUSTER_CONFIG" || true
fi
rm -f "$JOINING" "$DISCOVERY"
keep_generated
if is_changed; then
    apply_settings
    # Control planes that join, and upgrades, read it.
    logged upload-config kubeadm init phase upload-config kubeadm --config "$CONFIG" --kubeconfig "$ADMIN_CONF"
    write_file "$INITIALISED_MARK" 600 "$CLUSTER_CONFIG" || true
    record_settings
fi
# Made by earlier releases: its token, which the state held, could make tokens for ever.
logged join-account as_admin -n kube-system delete --ignore-not-found \
    serviceaccount/nordmesh-join role/nordmesh-join rolebinding/nordmesh-join secret/nordmesh-join
# A cluster without workers runs its workloads here; with the first worker, new pods no longer do.
if [ "$SCHEDULABLE" = true ]; then
    logged taint allow_workloads
else
    logged taint as_admin taint node "$NODE_NAME" "$TAINT:NoSchedule" --overwrite
fi
# Otherwise the first report comes in the night; node-prepare.sh of an older release did not write the file.
[ ! -f "$CERTIFICATES" ] || logged certificates-report /bin/bash "$CERTIFICATES" report
step "control plane ready"
printf '{"ca":"%s","clientCertificate":"%s","clientKey":"%s"}\n' "$(admin certificate-authority-data)" \
    "$(admin client-certificate-data)" "$(admin client-key-data)"
