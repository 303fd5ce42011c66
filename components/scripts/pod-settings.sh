#!/usr/bin/env bash
# The settings of the static pods, for kubeadm-init.sh: kubeadm renders the manifests. It is used after
# static-pods.sh and encryption.sh. Reads: INIT_CONFIG CLUSTER_CONFIG AUDIT_POLICY OIDC_CA (empty without one).

readonly CONFIG=$RUN_DIR/kubeadm.yaml
# The settings that the control plane runs with.
readonly SETTINGS_MARK=/etc/kubernetes/nordmesh-settings
readonly AUDIT_LOGS=/var/log/kubernetes/audit

# settings_id: prints a short hash of the settings of the pods and of the files that they read.
settings_id() {
    local settings
    settings=$(settings_in '^ClusterConfiguration\.(apiServer|controllerManager|scheduler)\.' <<<"$CLUSTER_CONFIG")
    printf '%s\n%s\n%s\n' "$settings" "$AUDIT_POLICY" "$OIDC_CA" | sha256sum | cut -c 1-12
}

# write_audit_policy: writes the policy, and makes the directory of the log.
write_audit_policy() {
    install -d -m 700 "$AUDIT_LOGS"
    write_file "$AUDIT_POLICY_FILE" 600 "$AUDIT_POLICY" || true
}

# write_oidc_ca: writes the CA of the identity provider, if it has its own.
write_oidc_ca() { [ -z "$OIDC_CA" ] || write_file "$OIDC_CA_FILE" 600 "$OIDC_CA" || true; }

# write_pod_settings: writes what kubeadm reads: the configuration, and the annotations.
write_pod_settings() {
    local pod id of_pod keys
    id=$(settings_id)
    keys=$(encryption_keys)
    for pod in $PODS; do
        of_pod="settings $id"
        # Only the API server reads the keys.
        [ "$pod" != kube-apiserver ] || of_pod+=", keys $keys"
        write_patch "$pod" "$of_pod"
    done
    write_file "$CONFIG" 600 "$INIT_CONFIG"$'\n---\n'"$CLUSTER_CONFIG" || true
}

# render_pods: makes the manifests in NEXT. kubeadm writes only into MANIFESTS, which kubelet watches: here
# another directory is in its place, for kubeadm alone.
render_pods() {
    write_pod_settings
    # shellcheck disable=SC2016 # the arguments of the inner bash
    logged render-static-pods unshare --mount bash -c \
        'mount --bind "$1" "$2" && exec kubeadm init phase control-plane all --config "$3"' \
        render "$NEXT" "$MANIFESTS" "$CONFIG"
}

# is_changed: whether the control plane runs with other settings, or has no key of this number.
is_changed() {
    local settings
    settings=$(settings_id)
    [ -d "$BEFORE" ] || ! has_key || [ "$(cat "$SETTINGS_MARK" 2>/dev/null)" != "$settings" ]
}

# record_settings: records that the control plane runs with the current settings.
record_settings() {
    local settings
    settings=$(settings_id)
    write_file "$SETTINGS_MARK" 600 "$settings" || true
}
