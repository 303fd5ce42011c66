#!/usr/bin/env bash
# Removes a machine that container-create.sh created: its processes, network interface, cgroups, mounts and
# files. Runs on this host, as root.
#
# In:  NAME BRIDGE (environment); ALLOW_DATA_LOSS=true, or it refuses
# Out: nothing; progress on stderr.
#
# Safe to run again at any time, also after a kill at any line. It touches only processes and mounts of this
# machine.
set -euo pipefail
umask 077

halt_timeout=5   # seconds for an orderly halt; pods can delay it, and the data is deleted anyway
kill_timeout=20  # seconds for the kernel to end killed processes and free their resources
lock_timeout=120 # seconds to wait for another run on the same machine

say() { printf '%s: %s\n' "${NAME:-machine}" "$*" >&2; }
# fail CODE WHAT WHY FIX: like fail in lib.sh, which is only for nodes.
fail() {
    printf '\nERROR on node %s: %s [%s]\n    why   %s\n    fix   %s\n' "${NAME:-?}" "$2" "$1" "$3" "$4" >&2
    exit 1
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
    done < <(grep -lzxF -s -- "--directory=$root" /proc/[0-9]*/cmdline)
}

cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$unit" 2>/dev/null; }

# Only this machine's processes are ever in its cgroups.
processes() {
    supervisor
    local own
    for own in $(cgroups); do
        find "$own" -depth -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done | sort -u
}

mounts() { findmnt --raw --noheadings --output TARGET | grep -F "$machine/" | sort -r || true; }

nothing_left() {
    [[ ! -e $machine && -z $(processes) && -z $(cgroups) && ! -e /sys/class/net/vb-$identity ]]
}

# Waits until a command succeeds; false when the seconds are over.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        ((SECONDS < deadline)) || return 1
        sleep 0.1
    done
}

ended() { [[ -z $(processes) ]]; }
interface_gone() { [[ ! -e /sys/class/net/vb-$identity ]]; }
remove_cgroups() {
    local own
    for own in $(cgroups); do
        find "$own" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    [[ -z $(cgroups) ]]
}

end_processes() {
    local pid
    pid=$(supervisor)
    if [[ -n $pid ]]; then
        say "halting"
        kill -TERM "$pid" # nspawn then asks the machine's systemd for an orderly halt
        within "$halt_timeout" ended || say "did not halt in $halt_timeout s; killing"
    fi
    if [[ -d /run/systemd/system ]]; then systemctl stop "$unit.service" 2>/dev/null || true; fi
    for pid in $(processes); do kill -KILL "$pid" 2>/dev/null || true; done
    within "$kill_timeout" ended ||
        fail container-does-not-end "these processes do not end: $(processes | tr '\n' ' ')" \
            "the machine's files cannot be removed while they run" \
            "look at them with ps, then run this again"
}

remove_files() {
    local target
    for target in $(mounts); do umount "$target"; done
    if [[ -d $root ]]; then
        rm -f "/run/systemd/nspawn/locks/inode-$(stat --format=%d:%i "$root")"
        # A partly removed root must never look like one that can start.
        mv "$root" "$machine/root.gone.$$"
    fi
    rm -rf "/run/systemd/nspawn/propagate/$identity" "/run/systemd/nspawn/unix-export/$identity"
    rm -rf --one-file-system "$machine"
}

: "${NAME:?is not set}" "${BRIDGE:?is not set}"
[[ $NAME =~ ^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$ ]] || fail name-invalid "NAME is '$NAME', not a DNS name" \
    "the machine uses it as its host name" \
    "use lower-case letters, digits, hyphens and dots"
[[ $BRIDGE =~ ^[a-z][a-z0-9._-]{0,14}$ ]] || fail bridge-name-invalid "BRIDGE is '$BRIDGE', not an interface name" \
    "the machine is connected to a bridge of this name" \
    "use a name such as nordmesh0, of at most 15 characters"
lab=${XDG_STATE_HOME:-$HOME/.local/state}/nordmesh/lab/$BRIDGE
machine=$lab/machines/$NAME
root=$machine/root
unit=nordmesh.$BRIDGE.$NAME
identity=nm-$(printf '%s' "$BRIDGE/$NAME" | sha256sum | cut -c1-8)

nothing_left && exit 0
[[ ${ALLOW_DATA_LOSS:-} == true ]] || fail container-has-data "refusing to delete this machine with all its data" \
    "etcd's data may be on it, and is lost with it" \
    "to lose the data, set nordmesh:machines.allowDataLoss to true, run \`pulumi up\`, then try again"

mkdir -p "$lab/machines"
exec 9>"$lab/machines/.$NAME.lock"
flock -w "$lock_timeout" 9 || fail container-locked "another run has worked on this machine for $lock_timeout s" \
    "two runs would undo each other's work" \
    "wait for it, or end it"

end_processes
within "$kill_timeout" interface_gone || ip link delete "vb-$identity"
within "$kill_timeout" remove_cgroups || fail cgroups-in-use "these cgroups cannot be removed: $(cgroups | tr '\n' ' ')" \
    "a process still runs in them" \
    "find it with systemd-cgls or ps, then run this again"
remove_files
say "deleted"
