#!/usr/bin/env bash
# Adds the key of this number to a running control plane, for kubeadm-init.sh after encryption.sh, pod-settings.sh
# and handover.sh. The program that runs Pulumi asks the other control planes for their keys, and hands them over
# (components/encryption_keys.py). The key is made here if all of them answer, and none has it.

readonly KEYS_PIPE=$RUN_DIR/encryption-keys
readonly KEYS_LINE='^keys(( [A-Za-z0-9+/=-]+)*)( error: .*)?$'

# fetch_key: sets `fetched` to the key of this number that the others have; nothing if none has it.
fetch_key() {
    local file secret files problem
    read_handover "$KEYS_PIPE"
    if [[ $handed =~ $KEYS_LINE ]]; then
        files=${BASH_REMATCH[1]} problem=${BASH_REMATCH[3]# }
    else
        # Never shows what could be a key.
        [[ $handed = "error: "* ]] || handed="error: the answer is malformed"
        files="" problem=$handed
    fi
    for file in $files; do
        [ "$file" != - ] || continue
        secret=$(printf %s "$file" | base64 -d | secret_of "$WANTED_KEY")
        [ -n "$secret" ] || continue
        [ "${fetched:-$secret}" = "$secret" ] || fail encryption-keys-of-one-number "the control planes have different keys named $WANTED_KEY" \
            "an API server could not read the Secrets that another one writes; nothing was changed" \
            "raise nordmesh:kubernetes.encryptionKey by one, then run \`pulumi up\` again"
        fetched=$secret
    done
    [ -n "$fetched" ] || [ -z "$problem" ] || fail encryption-key-unknown "cannot find out whether another control plane has $WANTED_KEY: ${problem#error: }" \
        "with two keys of one number, an API server could not read what another one writes; nothing was changed" \
        "make sure that every control plane in the stack file answers over SSH, then run \`pulumi up\` again"
}

# apply_settings: makes the pods run with the current settings, and adds the key as one that the API server reads
# with. An interrupted change is continued: its next run begins with the keys in the file.
apply_settings() {
    local keys
    refuse_changes_by_hand
    refuse_unknown_keys
    has_key || fetch_key
    keys=$(encryption_keys)
    # An interrupted run may have removed an old key, without having looked.
    [ -z "$keys" ] || apply_pods render_pods require_readable_secrets
    has_key || use_keys "${keys:-identity},$WANTED_KEY" render_pods
}
