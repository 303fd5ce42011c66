#!/usr/bin/env bash
# The keys that encrypt Secrets in etcd; for the scripts that use it after static-pods.sh. Reads:
# ENCRYPTION_KEY, the number of the key. A key is made on a control plane, and is only in ENCRYPTION there and on
# the others.
#
# The API server writes with the first key of the file and reads with each; `identity` stands for text in the
# clear. The order of a change is that of Kubernetes's guide, each step on every control plane before the next:
# add the new key (kubeadm-init.sh), use it first (encryption-use.sh), write every Secret again and remove the old
# key (encryption-retire.sh). At each step, every API server can read what any other one writes.

readonly WANTED_KEY=key$ENCRYPTION_KEY

# The key of this number that another control plane has.
fetched=""

# encryption_keys: prints the names of the keys in the file, in order and separated by commas.
encryption_keys() {
    [ -f "$ENCRYPTION" ] || return 0
    sed -n 's/^ *- \(identity\): {}$/\1/p; s/^ *- name: //p' "$ENCRYPTION" | paste -sd ,
}

# has_key: whether the file has the key of this number.
has_key() {
    local keys
    keys=$(encryption_keys)
    [[ ",$keys," = *",$WANTED_KEY,"* ]]
}

# secret_of NAME: reads a file of keys, and prints a key of it in base64; nothing without it.
secret_of() {
    awk -v name="$1" '$1 == "-" { found = $2 == "name:" && $3 == name } found && $1 == "secret:" { print $2 }'
}

# set_text NAMES: sets `text` to the file with these keys, separated by commas; makes those that neither it nor
# another control plane has.
set_text() {
    local name secret in_box=false
    text=$'apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources:\n  - secrets\n  providers:'
    for name in ${1//,/ }; do
        if [ "$name" = identity ]; then
            text+=$'\n  - identity: {}'
            in_box=false
            continue
        fi
        $in_box || text+=$'\n  - secretbox:\n      keys:'
        in_box=true
        secret=""
        [ ! -f "$ENCRYPTION" ] || secret=$(secret_of "$name" <"$ENCRYPTION")
        [ -n "$secret" ] || secret=$fetched
        [ -n "$secret" ] || secret=$(head -c 32 /dev/urandom | base64)
        text+=$'\n      - name: '"$name"$'\n        secret: '"$secret"
    done
}

# write_key_file TEXT: writes the file. It is on the disk before the API server uses it: without its keys, no
# Secret can be read.
write_key_file() {
    write_file "$ENCRYPTION" 600 "$1" || true
    sync "$ENCRYPTION" "${ENCRYPTION%/*}"
}

# write_keys NAMES: writes the file with these keys.
write_keys() {
    local text
    set_text "$1"
    write_key_file "$text"
}

# use_keys NAMES RENDER [CHECK]: makes the API server use these keys; RENDER and CHECK as in apply_pods.
use_keys() {
    keep_before
    write_keys "$1"
    apply_pods "${@:2}"
}

# render_keys: makes the manifests in NEXT as they are, with the names of the keys in the file.
render_keys() {
    local pod keys annotation
    keys=$(encryption_keys)
    annotation=$(annotation_of kube-apiserver)
    [ -n "$annotation" ] || fail static-pod-unmarked "$MANIFESTS/kube-apiserver.yaml has no annotation nordmesh.io/settings" \
        "kubelet would not restart the API server for a change of its keys; nothing was changed" \
        "run \`cp $MADE/kube-apiserver.yaml $MANIFESTS/kube-apiserver.yaml\` on the node, then run \`pulumi up\` again"
    annotation="${annotation%, keys *}, keys $keys"
    write_patch kube-apiserver "$annotation"
    for pod in $PODS; do cp -p "$MANIFESTS/$pod.yaml" "$NEXT/"; done
    sed -i "s/^\( *nordmesh\.io\/settings: \).*/\1$annotation/" "$NEXT/kube-apiserver.yaml"
}

all_secrets() { kubectl --kubeconfig "$ADMIN_CONF" --request-timeout 120s get secrets --all-namespaces "$@"; }

# require_readable_secrets: the old key comes back if a Secret still needs it.
require_readable_secrets() {
    all_secrets -o name >/dev/null || {
        go_back
        fail old-key-needed "a Secret cannot be read without the old key" \
            "the API server accepted a write of every Secret, but this one was not written again; both keys are back" \
            "find it with \`kubectl get secrets --all-namespaces\`, delete or restore it, then run \`pulumi up\` again"
    }
}

# refuse_unknown_keys: ends the script if the file is not as write_keys writes it: keys could get lost.
refuse_unknown_keys() {
    local text keys
    [ -f "$ENCRYPTION" ] || return 0
    keys=$(encryption_keys)
    set_text "$keys"
    [ "$(cat "$ENCRYPTION")" = "$text" ] || fail encryption-file-unknown "$ENCRYPTION is not as this script writes it" \
        "the API server may need keys of it that the script cannot read; nothing was changed" \
        "restore the file from the newest backup that has it, then run \`pulumi up\` again"
}
