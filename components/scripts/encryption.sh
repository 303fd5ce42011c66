#!/usr/bin/env bash
# The keys that encrypt Secrets in etcd; for the scripts that use it after static-pods.sh. Reads:
# ENCRYPTION_KEY, the number of the key. A key is made on this machine and is only in ENCRYPTION.
#
# The API server writes with the first key of the file and reads with each; `identity` stands for text in the
# clear. The order of a change is that of Kubernetes's guide: add the new key, use it first, write every Secret
# again, remove the old key. At each step, the file before it opens what was written since.

readonly WANTED_KEY=key$ENCRYPTION_KEY
readonly REWRITES=5

# encryption_keys: prints the names of the keys in the file, in order and separated by commas.
encryption_keys() {
    [ -f "$ENCRYPTION" ] || return 0
    sed -n 's/^ *- \(identity\): {}$/\1/p; s/^ *- name: //p' "$ENCRYPTION" | paste -sd ,
}

# key_secret NAME: prints a key of the file in base64; nothing without it.
key_secret() {
    [ -f "$ENCRYPTION" ] || return 0
    awk -v name="$1" '$1 == "-" { found = $2 == "name:" && $3 == name } found && $1 == "secret:" { print $2 }' "$ENCRYPTION"
}

# set_text NAMES: sets `text` to the file with these keys, separated by commas; makes those that it does not
# have.
set_text() {
    local name secret in_box=false
    text=$'apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources:\n  - secrets\n  providers:'
    for name in ${1//,/ }; do
        if [ "$name" = identity ]; then
            text+=$'\n  - identity: {}'
            continue
        fi
        $in_box || text+=$'\n  - secretbox:\n      keys:'
        in_box=true
        secret=$(key_secret "$name")
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

# use_keys NAMES [CHECK]: makes the API server use these keys.
use_keys() {
    keep_before
    write_keys "$1"
    apply_pods "${@:2}"
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

# rewrite_secrets: writes every Secret again, so that the first key encrypts it. Another client may change or
# delete one meanwhile; then it tries again. Never shows more of a Secret than its name.
rewrite_secrets() {
    local attempt problems names
    names=$(all_secrets -o name)
    [ -n "$names" ] || return 0
    step "encrypt every Secret with $WANTED_KEY"
    for ((attempt = 1; ; attempt++)); do
        if problems=$(all_secrets -o json | kubectl --kubeconfig "$ADMIN_CONF" replace -f - 2>&1 >/dev/null); then return; fi
        [ "$attempt" -lt "$REWRITES" ] || break
        sleep 1
    done
    sed -n 's/^Error from server (\([A-Za-z]*\)).*secrets "\([^"]*\)".*/\1: \2/p' <<<"$problems" >&2
    fail secrets-not-encrypted "the API server did not write every Secret again" \
        "the Secrets above, or some of them, may be encrypted with an older key, which therefore stays" \
        "fix what refuses the writes (a webhook, or an API server that does not answer), then run \`pulumi up\` again"
}

# refuse_unknown_keys: ends the script if the file is not as write_keys writes it: keys could get lost.
refuse_unknown_keys() {
    local text keys
    [ -f "$ENCRYPTION" ] || return 0
    keys=$(encryption_keys)
    set_text "$keys"
    cmp -s "$ENCRYPTION" <<<"$text" || fail encryption-file-unknown "$ENCRYPTION is not as this script writes it" \
        "the API server may need keys of it that the script cannot read; nothing was changed" \
        "restore the file from the newest backup that has it, then run \`pulumi up\` again"
}

# refuse_several_planes: ends the script if there is more than one control plane: each has its own copy of the
# file, and one without the new key cannot read what another writes.
refuse_several_planes() {
    local planes
    planes=$(ask kubectl --kubeconfig "$ADMIN_CONF" get nodes -l node-role.kubernetes.io/control-plane -o name) ||
        fail no-answer-about-nodes "the API server does not show the cluster's control planes" \
            "with several, a new key must reach each of them before the first one uses it; nothing was changed" \
            "check that the API server runs on $NODE_NAME, then run \`pulumi up\` again"
    [ "$(wc -l <<<"$planes")" -le 1 ] || fail encryption-key-of-several "the cluster has several control planes" \
        "a new key must reach each of them before the first one uses it, which this release cannot do; nothing was changed" \
        "set nordmesh:kubernetes.encryptionKey back to its old number"
}

# apply_settings: makes the pods run with the current settings, and WANTED_KEY the only key. Every step can be
# interrupted: the next run begins with the keys in the file.
apply_settings() {
    local keys others
    refuse_unknown_keys
    keys=$(encryption_keys)
    [ "$keys" = "$WANTED_KEY" ] || refuse_several_planes
    if [ -z "$keys" ]; then
        use_keys "identity,$WANTED_KEY"
    else
        # An interrupted run may have removed the old key, without having looked.
        apply_pods require_readable_secrets
        [[ ",$keys," = *",$WANTED_KEY,"* ]] || use_keys "$keys,$WANTED_KEY"
    fi
    keys=$(encryption_keys)
    if [ "${keys%%,*}" != "$WANTED_KEY" ]; then
        others=$(tr , '\n' <<<"$keys" | grep -vxF "$WANTED_KEY" | paste -sd ,)
        use_keys "$WANTED_KEY,$others"
    fi
    if [ "$(encryption_keys)" != "$WANTED_KEY" ]; then
        rewrite_secrets
        use_keys "$WANTED_KEY" require_readable_secrets
    fi
}
