#!/usr/bin/env bash
# Records on a control plane that a restore of a snapshot has begun, or has ended. Reads: NODE_NAME ENDPOINT
# SNAPSHOT (its name; empty at the end) BUNDLE (the file that is uploaded).
# Uses: identity.sh restore.sh

single_run
refuse_other_owner
if [ -n "$SNAPSHOT" ]; then
    write_file "$RESTORING" 644 "$SNAPSHOT" || true
else
    rm -f "$RESTORING" "$BUNDLE"
fi
