#!/usr/bin/env bash
# A machine of the lab: its name, its files and its process; comes before container-create.sh and
# container-delete.sh, which run on this host without lib.sh. Reads: NAME BRIDGE.
set -euo pipefail
umask 077

readonly LOCK_SECONDS=120 # seconds to wait for another run on the same machine

say() { printf '%s: %s\n' "${NAME:-machine}" "$*" >&2; }
# fail CODE WHAT WHY FIX: like fail in lib.sh, which is only for nodes.
fail() {
    printf '\nERROR on node %s: %s [%s]\n    why   %s\n    fix   %s\n' "${NAME:-?}" "$2" "$1" "$3" "$4" >&2
    exit 1
}

# set_machine: checks NAME and BRIDGE, and sets the paths and names of the machine.
# shellcheck disable=SC2034 # the scripts use them
set_machine() {
    [[ $NAME =~ ^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$ ]] || fail name-invalid "NAME is '$NAME', not a DNS name" \
        "the machine uses it as its host name" \
        "use lower-case letters, digits, hyphens and dots"
    [[ $BRIDGE =~ ^[a-z][a-z0-9._-]{0,14}$ ]] || fail bridge-name-invalid "BRIDGE is '$BRIDGE', not an interface name" \
        "the machine is connected to a bridge of this name" \
        "use a name such as nordmesh0, of at most 15 characters"
    LAB=${XDG_STATE_HOME:-$HOME/.local/state}/nordmesh/lab/$BRIDGE
    MACHINE=$LAB/machines/$NAME
    ROOT=$MACHINE/root
    UNIT=nordmesh.$BRIDGE.$NAME
    # The interface on the bridge is called vb-<identity>, of 15 characters at most.
    IDENTITY=nm-$(printf '%s' "$BRIDGE/$NAME" | sha256sum | cut -c1-8)
}

# lock_machine: waits for another run on the machine.
lock_machine() {
    mkdir -p "$LAB/machines"
    exec 9>"$LAB/machines/.$NAME.lock"
    flock -w "$LOCK_SECONDS" 9 || fail container-locked "another run has worked on this machine for $LOCK_SECONDS s" \
        "two runs would undo each other's work" \
        "wait for it, or end it"
}

# The process of the machine, found by its exact argument: a pid file could be stale.
supervisor() {
    local file pid
    while IFS= read -r file; do
        pid=${file//[!0-9]/}
        if [[ $(cat "/proc/$pid/comm" 2>/dev/null) == systemd-nspawn ]]; then
            printf '%s\n' "$pid"
            return
        fi
    done < <(grep -lzxF -s -- "--directory=$ROOT" /proc/[0-9]*/cmdline)
}
