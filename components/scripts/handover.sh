#!/usr/bin/env bash
# What the program that runs Pulumi hands to a script that joins a node (components/handover.py), for the
# scripts that use it after lib.sh. It is never in a file.

# shellcheck disable=SC2034 # for the scripts that use this
readonly JOIN_PIPE=$RUN_DIR/join-token
readonly HANDOVER_SECONDS=${HANDOVER_SECONDS:-90}

# read_handover PIPE: sets `handed` to the line that comes through a pipe; `error: WHY` if none comes.
read_handover() {
    rm -f "$1"
    mkfifo -m 600 "$1"
    # Opened in both directions, which does not wait for the other side.
    # shellcheck disable=SC2034 # for the caller
    IFS= read -r -t "$HANDOVER_SECONDS" handed <>"$1" || handed="error: none came within $HANDOVER_SECONDS s"
    rm -f "$1"
}
