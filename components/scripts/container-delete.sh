#!/usr/bin/env bash
# Removes a machine that container-create.sh created: its processes, network interface, cgroups, mounts and
# files. Runs on this host, as root.
# Uses: container.sh
#
# In:  NAME BRIDGE (environment); ALLOW_DATA_LOSS=true, or it refuses
# Out: nothing; progress on stderr.
#
# Safe to run again at any time, also after a kill at any line. It touches only processes and mounts of this
# machine.
set -euo pipefail

halt_timeout=5  # seconds for an orderly halt; pods can delay it, and the data is deleted anyway
kill_timeout=20 # seconds for the kernel to end killed processes and free their resources

cgroups() { find /sys/fs/cgroup -maxdepth 2 -type d -name "$UNIT" 2>/dev/null; }

# Only this machine's processes are ever in its cgroups.
processes() {
    supervisor
    local own
    for own in $(cgroups); do
        find "$own" -depth -name cgroup.procs -exec cat {} + 2>/dev/null || true
    done | sort -u
}

mounts() { findmnt --raw --noheadings --output TARGET | grep -F "$MACHINE/" | sort -r || true; }

nothing_left() {
    [[ ! -e $MACHINE && -z $(processes) && -z $(cgroups) && ! -e /sys/class/net/vb-$IDENTITY ]]
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
interface_gone() { [[ ! -e /sys/class/net/vb-$IDENTITY ]]; }
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
    if [[ -d /run/systemd/system ]]; then systemctl stop "$UNIT.service" 2>/dev/null || true; fi
    for pid in $(processes); do kill -KILL "$pid" 2>/dev/null || true; done
    within "$kill_timeout" ended ||
        fail container-does-not-end "these processes do not end: $(processes | tr '\n' ' ')" \
            "the machine's files cannot be removed while they run" \
            "look at them with ps, then run this again"
}

remove_files() {
    local target
    for target in $(mounts); do umount "$target"; done
    if [[ -d $ROOT ]]; then
        rm -f "/run/systemd/nspawn/locks/inode-$(stat --format=%d:%i "$ROOT")"
        # A partly removed root must never look like one that can start.
        mv "$ROOT" "$MACHINE/root.gone.$$"
    fi
    rm -rf "/run/systemd/nspawn/propagate/$IDENTITY" "/run/systemd/nspawn/unix-export/$IDENTITY"
    rm -rf --one-file-system "$MACHINE"
}

: "${NAME:?is not set}" "${BRIDGE:?is not set}"
set_machine

nothing_left && exit 0
[[ ${ALLOW_DATA_LOSS:-} == true ]] || fail container-has-data "refusing to delete this machine with all its data" \
    "etcd's data may be on it, and is lost with it" \
    "to lose the data, add the entry {disk: $NAME, reason: ...} to nordmesh:machines.allowDataLoss while the node is in the stack file, run \`pulumi up\`, then try again"

lock_machine
end_processes
within "$kill_timeout" interface_gone || ip link delete "vb-$IDENTITY"
within "$kill_timeout" remove_cgroups || fail cgroups-in-use "these cgroups cannot be removed: $(cgroups | tr '\n' ' ')" \
    "a process still runs in them" \
    "find it with systemd-cgls or ps, then run this again"
remove_files
say "deleted"
