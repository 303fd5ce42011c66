#!/usr/bin/env bash
# Changes the static pods of a running control plane; for the scripts that use it after lib.sh and identity.sh.
#
# The manifests from before stay in BEFORE, with the files that the API server reads, until the new pods are
# Ready; if they are not within PODS_SECONDS, the old ones come back. An interrupted run leaves BEFORE behind, and
# the next run continues: it never takes manifests that were not proven as those to go back to.

readonly MANIFESTS=/etc/kubernetes/manifests
readonly MADE=/etc/kubernetes/nordmesh-made
readonly BEFORE=/etc/kubernetes/nordmesh-before
readonly NEXT=/etc/kubernetes/nordmesh-pods.new
# kubeadm adds an annotation from there to each pod: kubelet restarts a pod only if its manifest differs. It is
# `settings HASH`, and for the API server also `, keys NAMES`.
readonly PATCHES=/etc/kubernetes/nordmesh-patches
readonly AUDIT_POLICY_FILE=/etc/kubernetes/audit/policy.yaml
# As in components/manifests/oidc.py.
readonly OIDC_CA_FILE=/etc/kubernetes/pki/nordmesh-oidc-ca.pem
readonly PODS="kube-apiserver kube-controller-manager kube-scheduler"
# How long the changed pods, and then the ones from before, may take to become Ready.
readonly PODS_SECONDS=${PODS_SECONDS:-300} BACK_SECONDS=${BACK_SECONDS:-600}
readonly POD_STATE='jsonpath={.metadata.annotations.nordmesh\.io/settings} {.status.conditions[?(@.type=="Ready")].status}'

# write_patch POD ANNOTATION: writes what kubeadm adds to a pod.
write_patch() {
    write_file "$PATCHES/$1+merge.json" 600 "{\"metadata\":{\"annotations\":{\"nordmesh.io/settings\":\"$2\"}}}" || true
}

# annotation_of POD: prints the annotation in a pod's manifest.
annotation_of() { sed -n 's,^ *nordmesh\.io/settings: ,,p' "$MANIFESTS/$1.yaml"; }

# keep_before: keeps what runs now, unless an interrupted run has kept it.
keep_before() {
    local pod file
    [ ! -d "$BEFORE" ] || return 0
    rm -rf "$BEFORE.new"
    install -d -m 700 "$BEFORE.new"
    for pod in $PODS; do cp -p "$MANIFESTS/$pod.yaml" "$BEFORE.new/"; done
    for file in "$ENCRYPTION" "$AUDIT_POLICY_FILE" "$OIDC_CA_FILE"; do
        [ ! -f "$file" ] || cp -p "$file" "$BEFORE.new/"
    done
    mv -T "$BEFORE.new" "$BEFORE"
}

# put FILE DIRECTORY: copies a file atomically. kubelet would also start a pod from a partial or second file in
# MANIFESTS, so the copy is made in NEXT.
put() {
    cp -p "$1" "$NEXT/${1##*/}"
    mv -f "$NEXT/${1##*/}" "$2/${1##*/}"
}

# has_new_pods: whether every pod is Ready with the annotation in its manifest, as kubelet reports to the API
# server.
has_new_pods() {
    local pod state annotation
    for pod in $PODS; do
        annotation=$(annotation_of "$pod")
        state=$(kubectl --kubeconfig "$ADMIN_CONF" --request-timeout 5s -n kube-system \
            get pod "$pod-$NODE_NAME" -o "$POD_STATE" 2>/dev/null) || return 1
        [ "$state" = "$annotation True" ] || return 1
    done
}

# wait_for_pods SECONDS: waits until has_new_pods; false if that takes longer.
wait_for_pods() {
    local deadline=$((SECONDS + $1))
    until has_new_pods; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.5
    done
}

# show_pod_logs: prints the end of each pod's newest log.
show_pod_logs() {
    local pod log
    [ -d /var/log/pods ] || return 0
    for pod in $PODS; do
        log=$(find /var/log/pods -path "*/kube-system_$pod-${NODE_NAME}_*" -name '*.log' -printf '%T@ %p\n' |
            sort -n | tail -n 1 | cut -d ' ' -f 2-)
        [ -z "$log" ] || { echo "$log:" && tail -n 5 "$log"; }
    done
}

# go_back: puts back what ran before; ends the script if that is not Ready either.
go_back() {
    local pod file
    step "going back to the control plane from before"
    # First what the old API server reads when it starts.
    for file in "$ENCRYPTION" "$AUDIT_POLICY_FILE" "$OIDC_CA_FILE"; do
        [ ! -f "$BEFORE/${file##*/}" ] || put "$BEFORE/${file##*/}" "${file%/*}"
    done
    for pod in $PODS; do put "$BEFORE/$pod.yaml" "$MANIFESTS"; done
    wait_for_pods "$BACK_SECONDS" || fail control-plane-down "the control plane is not Ready, neither as changed nor as before" \
        "the manifests from before are back; a copy is in $BEFORE" \
        "find the cause in \`journalctl -u kubelet\` and /var/log/pods on the node, then run \`pulumi up\` again"
    rm -rf "$BEFORE" "$NEXT"
}

# refuse_changes_by_hand: ends the script if a manifest is not what kubeadm wrote: rendering it again would lose
# the change.
refuse_changes_by_hand() {
    local pod
    [ ! -d "$BEFORE" ] || return 0
    for pod in $PODS; do
        [ ! -f "$MADE/$pod.yaml" ] || cmp -s "$MADE/$pod.yaml" "$MANIFESTS/$pod.yaml" || {
            diff "$MADE/$pod.yaml" "$MANIFESTS/$pod.yaml" >&2 || true
            fail static-pod-changed "$MANIFESTS/$pod.yaml was changed by hand (shown above; > is what it has)" \
                "nordmesh writes it again for a change of the control plane's settings, and the change by hand would be lost; nothing was changed" \
                "run \`cp $MADE/$pod.yaml $MANIFESTS/$pod.yaml\` on the node, then run \`pulumi up\` again"
        }
    done
}

# apply_pods RENDER [CHECK]: makes the pods run with the current settings and files; what ran before comes back if
# they are not Ready. RENDER: makes the manifests in NEXT. CHECK: runs before the files from before are removed, and
# may go back.
apply_pods() {
    local pod changed=()
    rm -rf "$NEXT"
    install -d -m 700 "$NEXT"
    "$1"
    for pod in $PODS; do cmp -s "$NEXT/$pod.yaml" "$MANIFESTS/$pod.yaml" || changed+=("$pod"); done
    if [ "${#changed[@]}" -gt 0 ]; then
        keep_before
        # Only with the settings that kubeadm renders.
        if [ "$1" = render_pods ]; then
            write_audit_policy
            write_oidc_ca
        fi
        step "restart ${changed[*]}"
        for pod in "${changed[@]}"; do mv -f "$NEXT/$pod.yaml" "$MANIFESTS/$pod.yaml"; done
    fi
    if [ -d "$BEFORE" ]; then
        wait_for_pods "$PODS_SECONDS" || {
            show_pod_logs >&2
            go_back
            fail control-plane-not-ready "the control plane was not Ready within $PODS_SECONDS s after the change" \
                "it runs as before the change again; the end of its logs is shown above" \
                "set back what you changed, or fix the errors above; then run \`pulumi up\` again"
        }
        "${2:-true}"
        [ ! -d "$MADE" ] || for pod in $PODS; do put "$MANIFESTS/$pod.yaml" "$MADE"; done
        rm -rf "$BEFORE"
    fi
    rm -rf "$NEXT"
}
