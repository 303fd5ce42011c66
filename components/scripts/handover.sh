#!/usr/bin/env bash
# What the program that runs Pulumi hands to a script that joins a node (components/handover.py), for the
# scripts that use it after lib.sh. It is never in a file.

readonly HANDOVER=$RUN_DIR/join-token
readonly HANDOVER_SECONDS=${HANDOVER_SECONDS:-90}

# read_handover: sets `handed` to the line that comes through the pipe; `error: WHY` if none comes.
read_handover() {
    rm -f "$HANDOVER"
    mkfifo -m 600 "$HANDOVER"
    # Opened in both directions, which does not wait for the other side.
    # shellcheck disable=SC2034 # for the caller
    IFS= read -r -t "$HANDOVER_SECONDS" handed <>"$HANDOVER" || handed="error: none came within $HANDOVER_SECONDS s"
    rm -f "$HANDOVER"
}
