#!/usr/bin/env bash
# Makes this node the first control plane of the cluster. Reads: NODE_NAME
# INIT_CONFIG CLUSTER_CONFIG JOIN_RBAC SCHEDULABLE. Prints one line of JSON, a secret:
# {"ca", "clientCertificate", "clientKey"}, each PEM in base64, and {"joinToken"}.
# Safe to run again after a kill: kubeadm's phases take what is there, and the
# last step leaves the mark that ends this.
# Uses: images.sh

readonly MARK=/etc/kubernetes/nordmesh-initialised.yaml
readonly ADMIN=/etc/kubernetes/admin.conf
readonly CONFIG=$RUN_DIR/kubeadm.yaml

# admin KEY: one value of kubeadm's admin.conf.
admin() { sed -n "s/^ *$1: //p" "$ADMIN"; }
api_ready() { kubectl --kubeconfig "$ADMIN" --request-timeout 3s get --raw /readyz; }
join_secret() { kubectl --kubeconfig "$ADMIN" -n kube-system get secret nordmesh-join -o 'jsonpath={.data.token}'; }
join_token_there() { [ -n "$(join_secret)" ]; }

single_run
if [ -f "$MARK" ]; then
    if ! difference=$(diff "$MARK" - <<<"$CLUSTER_CONFIG"); then
        printf '%s\n' "$difference" >&2
        fail "the cluster was made with other settings (shown above, < is what it has)" \
            "this release does not change a running control plane's version, networks or kubelet settings" \
            "set nordmesh:kubernetes back to what it was"
    fi
else
    if [ -d /var/lib/etcd/member ] && [ ! -f /etc/kubernetes/nordmesh-started ]; then
        fail "/var/lib/etcd holds the data of another cluster" "kubeadm would write into it" \
            "take another machine, or move that directory away yourself"
    fi
    mkdir -p /etc/kubernetes
    touch /etc/kubernetes/nordmesh-started
    write_file "$CONFIG" 600 "$INIT_CONFIG"$'\n---\n'"$CLUSTER_CONFIG" || true
    # What kubeadm starts at once; the rest may still come.
    wait_for_images '^registry\.k8s\.io/[^/]*:'
    step "kubeadm init"
    logged kubeadm-init kubeadm init --config "$CONFIG" --skip-token-print
fi

wait_for_images
until_true 120 "the API server" api_ready
if [ ! -f "$MARK" ]; then
    logged join-rbac kubectl --kubeconfig "$ADMIN" apply -f - <<<"$JOIN_RBAC"
    write_file "$MARK" 600 "$CLUSTER_CONFIG" || true
fi
keep_made
until_true 30 "the join token" join_token_there
# A cluster without workers runs its workloads here; the first worker ends that for new pods.
taint=node-role.kubernetes.io/master:NoSchedule
if [ "$SCHEDULABLE" = true ]; then
    kubectl --kubeconfig "$ADMIN" taint node "$NODE_NAME" "$taint-" >/dev/null 2>&1 || true
else
    logged taint kubectl --kubeconfig "$ADMIN" taint node "$NODE_NAME" "$taint" --overwrite
fi
step "control plane ready"
printf '{"ca":"%s","clientCertificate":"%s","clientKey":"%s","joinToken":"%s"}\n' \
    "$(admin certificate-authority-data)" "$(admin client-certificate-data)" \
    "$(admin client-key-data)" "$(join_secret | base64 -d)"
