#!/usr/bin/env bash
# Removes every key but the one of this number from this control plane. Every control plane encrypts with that key
# before, and every Secret is written again. Reads: NODE_NAME ENDPOINT ENCRYPTION_KEY. Safe to run again after a
# kill.
# Uses: identity.sh static-pods.sh encryption.sh encryption-planes.sh

readonly REWRITES=5

planes=""
# is_alone: whether there is no other key, and no change was interrupted.
is_alone() { [ ! -d "$BEFORE" ] && [ "$(encryption_keys)" = "$WANTED_KEY" ]; }

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

# Without the lock, which a script of the mesh may hold for minutes.
! is_alone || exit 0
single_run
refuse_other_owner
refuse_unknown_keys
refuse_changes_by_hand
finish_interrupted
! is_alone || exit 0
set_planes
require_planes "^$WANTED_KEY(,|\$)" "encrypts with"
# A control plane without the old key has written every Secret again.
grep -q " $WANTED_KEY\$" <<<"$planes" || rewrite_secrets
use_keys "$WANTED_KEY" render_keys require_readable_secrets
step "has no other key than $WANTED_KEY"
