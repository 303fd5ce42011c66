#!/usr/bin/env bash
# Runs on a control plane when another one does not have a key of Secrets. Changes nothing. Prints `keys` and the
# file with this one's keys in base64; `keys -` if it has none, or is no member of the stack's cluster. Reads:
# NODE_NAME ENDPOINT.
# Uses: identity.sh

owner=$(other_owner)
keys=-
if [ -z "$owner" ] && [ -f "$INITIALISED_MARK" ] && [ -f "$ENCRYPTION" ]; then
    keys=$(base64 -w 0 "$ENCRYPTION")
fi
printf 'keys %s\n' "$keys"
