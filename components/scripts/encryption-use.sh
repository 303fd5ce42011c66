#!/usr/bin/env bash
# Makes this control plane encrypt Secrets with the key of this number. Every control plane has that key before, so
# that its API server can read them. Reads: NODE_NAME ENDPOINT ENCRYPTION_KEY. Safe to run again after a kill.
# Uses: identity.sh static-pods.sh encryption.sh encryption-planes.sh

# is_first: whether the key of this number is the first one, and no change was interrupted.
is_first() {
    local keys
    keys=$(encryption_keys)
    [ ! -d "$BEFORE" ] && [ "${keys%%,*}" = "$WANTED_KEY" ]
}

# Without the lock, which a script of the mesh may hold for minutes.
! is_first || exit 0
single_run
refuse_other_owner
refuse_unknown_keys
refuse_changes_by_hand
finish_interrupted
! is_first || exit 0
set_planes
require_planes "(^|,)$WANTED_KEY(,|\$)" "has"
others=$(encryption_keys | tr , '\n' | grep -vxF "$WANTED_KEY" | paste -sd ,)
use_keys "$WANTED_KEY,$others" render_keys
step "encrypts with $WANTED_KEY"
